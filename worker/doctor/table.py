"""What was found, for people and for programs. Pure; secrets and numbers are masked here, at the last door."""

import json
import textwrap
from collections.abc import Iterator
from typing import Any, Final

from shared.logs import mask
from worker.doctor.findings import Finding, Report, State

MARKS: Final = {State.OK: "ok", State.WARNING: "WARN", State.FAILED: "FAIL", State.NOT_TRIED: "-"}
_MARK_WIDTH: Final = 4
_MS_WIDTH: Final = 9
LEAST_WIDTH: Final = 40


def table(report: Report, width: int) -> Iterator[str]:
    """Write the findings, one or more lines each; a remedy stands below its finding, behind an arrow."""
    names = max((len(name) for name in report), default=0)
    indent = " " * (_MARK_WIDTH + 2 + names + 2 + _MS_WIDTH + 2)
    room = max(LEAST_WIDTH, width - len(indent))
    for name, findings in report.items():
        shown = name
        for finding in findings:
            ms = "" if finding.ms is None else f"{finding.ms:.0f} ms"
            first, *more = _wrapped(finding.said, room)
            yield f"{MARKS[finding.state]:{_MARK_WIDTH}}  {shown:{names}}  {ms:>{_MS_WIDTH}}  {first}".rstrip()
            yield from (indent + line for line in more)
            yield from (indent + line for line in _wrapped(finding.remedy and f"-> {finding.remedy}", room) if line)
            shown = ""


def summary(report: Report) -> str:
    """Say in one line how it stands."""
    found = [finding.state for findings in report.values() for finding in findings]
    counts = {state: found.count(state) for state in State}
    if not counts[State.FAILED] and not counts[State.WARNING]:
        return "everything is as it should be"
    warnings = "warning" if counts[State.WARNING] == 1 else "warnings"
    words = {State.FAILED: "failed", State.WARNING: warnings, State.NOT_TRIED: "not tried"}
    return ", ".join(f"{counts[state]} {word}" for state, word in words.items() if counts[state])


def written(report: Report, status: int) -> str:
    """Write the findings as JSON: `{"status": 0, "findings": [{"check", "state", "said", "remedy", "ms"}]}`."""
    findings = [_entry(name, finding) for name, each in report.items() for finding in each]
    return mask(json.dumps({"status": status, "findings": findings}, indent=2, ensure_ascii=False))


def _entry(name: str, finding: Finding) -> dict[str, Any]:
    ms = None if finding.ms is None else round(finding.ms, 1)
    return {"check": name, "state": finding.state, "said": finding.said, "remedy": finding.remedy, "ms": ms}


def _wrapped(text: str, room: int) -> list[str]:
    lines = [
        wrapped
        for line in mask(text).splitlines()
        for wrapped in textwrap.wrap(line, room, break_long_words=False, break_on_hyphens=False)
    ]
    return lines or [""]
