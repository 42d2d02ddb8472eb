"""How much is measured: the comparison in ten minutes or in one, and what takes longer by words of its own."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

Kind = Literal["beside", "own", "faults"]

CONNECT_MS: Final = 150
TTS_FIRST_BYTE_MS: Final = 90
LLM_FIRST_TOKEN_MS: Final = 300
STT_FINAL_MS: Final = 100
"""Not given by the targets: finalize to final transcript, as the vendor's own figures have it."""


@dataclass(frozen=True, slots=True)
class Extent:
    """Numbers of calls and rounds of what is measured of this project alone; a busy machine does fewer.

    What is done one after another ends after `series_s`, and rounds that would not fit into `budget_s` are left out.
    """

    singles: int  # calls one after another, each with and without the carrier's pause
    replies: int  # whole greetings and one answer, one after another
    rounds: int  # of calls at once, each with and without the carrier's pause
    at_once: int = 30
    ready: int = 32
    few_ready: int = 8
    kills: int = 500  # workers killed in calls
    kills_at_once: int = 12  # calls they are spread over at any time
    stalls: int = 4
    restart_calls: int = 8  # up while a part is restarted
    restart_webhooks: int = 30  # placed while Redis is away and comes back
    burst: int = 96
    tool_rounds: int = 300
    scripts_every: int = 1  # of the recorded scripts of turn taking every n-th is played; 0: none
    switch_rounds: int = 8  # of one call to each installation that differs in the switches of the phases
    series_s: float = 60.0
    budget_s: float = 270.0


@dataclass(frozen=True, slots=True)
class Beside:
    """How much of the comparison with the stock bot and the old flow is done."""

    crowds: tuple[tuple[int, int], ...]  # calls at once, and rounds of that
    talks: int  # rounds of one conversation with each system
    questions: int  # answered to the end in a conversation
    interruptions: int  # answers interrupted after them
    ladder: tuple[int, ...]  # talking calls, step by step
    step_rounds: int  # questions of each call in a step
    stepped: int = 3  # systems that take the steps: the stock bot, this project, the old flow
    steps_until_s: float = 500.0  # since the start of the comparison; a step that would end later is left out


FULL: Final = Extent(singles=30, replies=6, rounds=3)
QUICK: Final = Extent(singles=5, replies=1, rounds=1, series_s=12.0, budget_s=55.0,
              kills=24, kills_at_once=6, stalls=1, restart_calls=2, restart_webhooks=6, tool_rounds=40,
              scripts_every=12, switch_rounds=1)  # fmt: skip
SHARE: Final = Extent(singles=10, replies=0, rounds=1, series_s=15.0, tool_rounds=100, scripts_every=3)
"""What of this project alone is measured with the comparison."""

QUICK_SHARE: Final = Extent(singles=2, replies=0, rounds=0, series_s=3.0, at_once=3, ready=8, tool_rounds=0,
                            scripts_every=0)  # fmt: skip

BESIDE: Final = Beside(crowds=((1, 4), (10, 2), (30, 1)), talks=2, questions=4, interruptions=2,
                       ladder=(2, 6, 10, 14, 18, 22), step_rounds=2, stepped=2, steps_until_s=525.0)  # fmt: skip
QUICK_BESIDE: Final = Beside(crowds=((1, 1), (3, 1)), talks=1, questions=2, interruptions=1,
                             ladder=(2,), step_rounds=1, stepped=2)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Options:
    """The command line and QUICK."""

    kind: Kind
    extent: Extent
    beside: Beside
    quick: bool
    json: Path | None
    report: Path | None


def parse(arguments: list[str], quick: str) -> Options:
    """Read the command line; `quick` is the value of the environment's QUICK."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure offhook on this machine.")
    parser.add_argument(
        "kind", nargs="?", choices=["beside", "own", "faults"], default="beside",
        help="beside: this project, the stock Pipecat bot and the old flow in turns, and the main figures of this project "
             "(default); own: long series of this project alone; faults: workers killed, parts restarted, bursts",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="fewer calls, about a minute, as QUICK=1 does")
    parser.add_argument("--json", type=Path, help="write every value to this file as well")
    parser.add_argument("--report", type=Path, help="write the report here (default: BENCHMARKS.md, not with QUICK)")
    parsed = parser.parse_args(arguments)
    fast = parsed.quick or quick.lower() not in {"", "0", "false", "no"}
    report = parsed.report or (None if fast else Path("BENCHMARKS.md"))
    of_ours = (QUICK_SHARE if fast else SHARE) if parsed.kind == "beside" else (QUICK if fast else FULL)
    return Options(parsed.kind, of_ours, QUICK_BESIDE if fast else BESIDE, fast, parsed.json, report)
