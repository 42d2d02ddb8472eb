"""What the checks find: values, and what they mean to a script. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

SETTINGS: Final = "settings"
"""The check whose failures are the operator's typing: exit 2, as every process does."""


class State(StrEnum):
    """What a finding says about a deployment."""

    OK = "ok"
    WARNING = "warning"  # calls are answered, though not as well as they could be
    FAILED = "failed"
    NOT_TRIED = "not tried"  # what it rests on failed, or is not there


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table.

    Attributes:
        said: what was found.
        remedy: what to do about it; empty where nothing need be done.
        ms: what was measured, if anything.
        number: a telephone number that could be made to call here.
    """

    state: State
    said: str
    remedy: str = ""
    ms: float | None = None
    number: str = ""


Report = Mapping[str, Sequence[Finding]]
"""The findings of each check, by its name."""


def good(said: str, ms: float | None = None) -> Finding:
    """Say that something is as it should be."""
    return Finding(State.OK, said, ms=ms)


def doubtful(said: str, remedy: str, ms: float | None = None) -> Finding:
    """Say that something works and could be better."""
    return Finding(State.WARNING, said, remedy, ms)


def bad(said: str, remedy: str, ms: float | None = None) -> Finding:
    """Say that something does not work."""
    return Finding(State.FAILED, said, remedy, ms)


def not_tried(why: str) -> Finding:
    """Say why something was not looked at."""
    return Finding(State.NOT_TRIED, f"not tried: {why}")


def timed(said: str, ms: float, most_ms: float, remedy: str) -> Finding:
    """Say how long something took that works: above `most_ms` it is too slow for a telephone."""
    if ms <= most_ms:
        return good(said, ms)
    return doubtful(f"{said}, which is slow (over {most_ms:.0f} ms)", remedy, ms)


def failed(findings: Iterable[Finding]) -> bool:
    """Say whether any of them is a failure."""
    return any(finding.state is State.FAILED for finding in findings)


def status(report: Report, *, strict: bool) -> int:
    """Give the exit status: 0 for a deployment that takes calls, 1 for one that does not, 2 for wrong settings."""
    if failed(report.get(SETTINGS, ())):
        return 2
    wrong = {State.FAILED, State.WARNING} if strict else {State.FAILED}
    return int(any(finding.state in wrong for findings in report.values() for finding in findings))
