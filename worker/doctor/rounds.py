"""Runs the checks: side by side where they rest on nothing, each within its time, none hiding another."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from worker.doctor.case import Case
from worker.doctor.findings import Finding, Report, State, bad, not_tried

DEADLINE_S: Final = 10.0
"""For each check; what it found until then counts."""

Ask = Callable[[Case], AsyncGenerator[Finding, None]]


@dataclass(frozen=True, slots=True)
class Check:
    """A check: what it is called, and the checks without which it would only repeat what they said."""

    name: str
    about: str
    ask: Ask
    needs: tuple[str, ...] = ()


async def examine(case: Case, checks: Sequence[Check], deadline_s: float = DEADLINE_S) -> Report:
    """Run the checks, and give what each found, in their order. One that needs another which is not run goes without it."""
    tasks: dict[str, asyncio.Task[list[Finding]]] = {}
    async with asyncio.TaskGroup() as group:
        for check in checks:
            before = {name: tasks[name] for name in check.needs if name in tasks}
            tasks[check.name] = group.create_task(_after(before, case, check, deadline_s))
    return {name: task.result() for name, task in tasks.items()}


async def _after(
    before: Mapping[str, asyncio.Task[list[Finding]]], case: Case, check: Check, deadline_s: float
) -> list[Finding]:
    for name, task in before.items():
        if _stops(await asyncio.shield(task)):
            return [not_tried(f"`{name}` has to work first")]
    found: list[Finding] = []
    try:
        async with asyncio.timeout(deadline_s), contextlib.aclosing(check.ask(case)) as findings:
            async for finding in findings:
                found.append(finding)  # noqa: PERF401 - what was found before the time is over counts
    except TimeoutError:
        found.append(
            bad(f"no answer within {deadline_s:.0f} s", "see whether it is reachable from here, and how loaded it is")
        )
    except Exception as error:  # noqa: BLE001 - one check that breaks must not take the others with it
        said = f"the check itself broke: {type(error).__name__}: {error}"
        found.append(bad(said, "this is a mistake in offhook-doctor: please report it"))
    return found


def _stops(findings: Collection[Finding]) -> bool:
    """Say whether others that rest on these findings need not be tried."""
    return any(finding.state in {State.FAILED, State.NOT_TRIED} for finding in findings)
