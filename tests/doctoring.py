"""What tests of the doctor's checks need: a case made of settings, and everything a check finds in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shared.settings import Settings
from worker.doctor.case import Case, agents_of

if TYPE_CHECKING:
    from worker.doctor.findings import Finding
    from worker.doctor.rounds import Ask


def case_of(*named: str, router: str = "", **settings: Any) -> Case:
    """Make a case of settings by field; nothing of this machine's own is in it."""
    conf = Settings(_env_file=None, **settings)
    return Case(conf, agents_of(conf), named, router)


async def found(ask: Ask, case: Case) -> list[Finding]:
    """Run a check to its end."""
    return [finding async for finding in ask(case)]


async def only(ask: Ask, case: Case) -> Finding:
    """Run a check that finds one thing."""
    [finding] = await found(ask, case)
    return finding


def words(finding: Finding) -> str:
    """Write a finding with its remedy on one line."""
    return f"{finding.state}: {finding.said} -> {finding.remedy}"
