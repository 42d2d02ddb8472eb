"""`make bench`: this project beside the stock Pipecat bot and the old flow, and its own numbers, in one run on this machine.

    python -m tests.bench [beside | own | faults] [--quick] [--json FILE] [--report FILE]

Exit 0 when everything was measured, whether or not the targets were met: a benchmark reports, it does not test.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import uvloop

from tests.bench import beside, plan, plots
from tests.bench.document import PLOTS, document, with_section
from tests.bench.machine import OthersShare, machine, versions
from tests.bench.options import Options, parse
from tests.bench.report import figures, text
from tests.standins.process import StandinFailed

if TYPE_CHECKING:
    from tests.bench.compare import Comparison
    from tests.bench.figures import Figure
    from tests.bench.plan import Results

STOPPED = 130


def main() -> int:
    """Measure, print, write."""
    options = parse(sys.argv[1:], os.environ.get("QUICK", ""))
    about = machine()
    share = OthersShare()
    try:
        results = uvloop.run(_measure(options))  # the carrier of the bench has many calls in one thread
    except (StandinFailed, AssertionError, OSError) as error:
        print(f"offhook: the bench could not go on: {error}", file=sys.stderr)
        return 1
    except asyncio.CancelledError:
        return STOPPED
    extent = options.extent
    found = figures(results, extent.at_once, extent.ready, extent.few_ready)
    remarks = [*_remarks(results), share.remark()]
    if results.comparison is not None:
        print(beside.text(beside.rows(results.comparison)))
        print("\n" + "\n".join(results.comparison.notes))
    print(text(found))
    print("\n" + "\n".join(remarks))
    if options.json is not None:
        options.json.write_text(json.dumps(_values(found, about, results), indent=1) + "\n", encoding="utf-8")
    if options.report is not None:
        _report(options, found, about, remarks, results.comparison)
    return 0


def _report(
    options: Options, found: list[Figure], about: dict[str, str], remarks: list[str], comparison: Comparison | None
) -> None:
    """Write the document, with the charts of a comparison beside it."""
    assert options.report is not None
    before = options.report.read_text(encoding="utf-8") if options.report.exists() else ""
    if options.kind != "beside":
        written = with_section(before, options.kind, found, about, remarks)
    else:
        written = document(found, about, remarks, comparison, before)
    options.report.parent.mkdir(parents=True, exist_ok=True)
    options.report.write_text(written, encoding="utf-8")
    if comparison is not None:
        folder = options.report.parent / PLOTS
        folder.mkdir(parents=True, exist_ok=True)
        for name, chart in beside.charts(comparison).items():
            (folder / name).write_text(plots.svg(chart), encoding="utf-8")
    print(f"written to {options.report}")


async def _measure(options: Options) -> Results:
    begun = time.monotonic()
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)

    def say(what: str) -> None:
        print(f"{time.monotonic() - begun:6.1f} s  {what}", file=sys.stderr, flush=True)

    match options.kind:
        case "beside":
            return await plan.beside(options.extent, options.beside, say)
        case "own":
            return await plan.own(options.extent, say)
        case "faults":
            return await plan.faults(options.extent, say)


def _remarks(results: Results) -> list[str]:
    """Say what a reader must know to judge the figures."""
    calls = [
        *results.singles_paused,
        *results.singles_at_once,
        *results.bursts_paused,
        *results.bursts_at_once,
        *(one.measured for one, _ in results.knowing),
        *(one.measured for one in results.replies),
    ]
    late = sum(one.frames_late for one in calls)
    silent = sum(one.upgrade_to_media is None for one in calls)
    remarks = (
        [f"{len(calls)} calls; the carrier itself sent {late} of their frames more than 20 ms late."] if calls else []
    )
    if silent:
        remarks.append(f"{silent} calls brought no media at all.")
    failures = [*results.killed.failures, *results.stalled.failures]
    remarks += [f"A call with killed workers failed: {why}" for why in failures[:5]]
    return [*remarks, *results.left_out]


def _values(found: list[Figure], about: dict[str, str], results: Results) -> dict[str, object]:
    return {
        "machine": about,
        "packages": versions(),
        "comparison": asdict(results.comparison) if results.comparison is not None else None,
        "figures": [{**asdict(figure), "verdict": figure.verdict} for figure in found],
    }


if __name__ == "__main__":
    sys.exit(main())
