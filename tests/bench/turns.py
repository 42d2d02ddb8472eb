"""How turns are taken, on recorded scripts: what interrupts the agent and what does not, when a turn ends, how fast.

    python -m tests.bench.turns [--all] [--config NAME ...]

The detector, the turn model, the listener and the rules of interruption are the product's; the clock is a script's, so that
nothing depends on the machine; the ear is imitated, with the delays below. A configuration is an agent's `turns`.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import statistics
import time
import warnings
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Final, cast

from loguru import logger
from pipecat.audio.turn.base_turn_analyzer import EndOfTurnState
from pipecat.frames.frames import Frame, VADUserStartedSpeakingFrame, VADUserStoppedSpeakingFrame

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import pipecat.audio.turn.smart_turn.base_smart_turn as smart_turn

import worker.call.listener as listening
import worker.call.models as models_room
from shared.turns import Turns
from tests.bench import targets
from tests.bench.figures import Figure
from tests.bench.turns_scripts import Script, scripts
from worker.call.bargein import BargeIn, State, Verdict
from worker.call.listener import Listener
from worker.call.models import Models, load_models
from worker.call.turns import PatienceOver, SpokeOn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from worker.providers.interface import Ear

ROOMS: Final = (smart_turn, models_room, listening)
"""Whose clock is the script's while one is played."""

FRAME_BYTES: Final = 160
FRAME_S: Final = 0.02
INTERIM_S: Final = 0.5
"""How long after a word an ear guesses it, while the caller speaks."""

FINAL_S: Final = 0.12
"""How long an ear takes from the request to the final transcript. Source: Cartesia docs, ink-whisper (p50 66 ms, p90 98 ms)."""

JUDGING_S: Final = 0.035
"""How long the turn model takes on an idle core."""

HARD: Final = "as it was"
"""The configuration in which any voice interrupts, as it did before the agent could halt."""

CONFIGS: Final[dict[str, Turns]] = {
    HARD: Turns(),
    "defaults": Turns(),
    "start 0.1": Turns(start=0.1),
    "start 0.15": Turns(start=0.15),
    "start 0.3": Turns(start=0.3),
    "stop 0.3": Turns(stop=0.3),
    "stop 0.5": Turns(stop=0.5),
    "confidence 0.5": Turns(confidence=0.5),
    "confidence 0.8": Turns(confidence=0.8),
    "min_volume 0.0": Turns(min_volume=0.0),
    "min_volume 0.45": Turns(min_volume=0.45),
    "min_volume 0.6": Turns(min_volume=0.6),
    "patience 2": Turns(patience=2.0),
    "not smart": Turns(smart=False),
    "not smart, stop 0.7": Turns(smart=False, stop=0.7),
    "min_words 2": Turns(min_words=2),
}


@dataclass(slots=True)
class Clock:
    """The time of a script; it stands in for the `time` module."""

    now: float = 0.0

    def monotonic(self) -> float:
        """Give it."""
        return self.now

    perf_counter = monotonic


@dataclass(slots=True)
class Outcome:
    """What became of a script; moments from its beginning, None for what did not happen."""

    script: Script
    over_agent: bool
    halted_at: float | None = None
    began_at: float | None = None  # the caller's turn
    ended_at: float | None = None
    ended_early: int = 0
    by_patience: bool = False
    silent_s: float = 0.0  # how long the agent halted for nothing


@dataclass(slots=True)
class Scores:
    """A configuration's outcomes added up."""

    outcomes: list[Outcome] = field(default_factory=list)

    def of(self, *kinds: str, over_agent: bool) -> list[Outcome]:
        """Give those of some kinds."""
        return [each for each in self.outcomes if each.script.kind in kinds and each.over_agent is over_agent]

    def row(self) -> dict[str, str]:
        """Write them as a table's row."""
        talk = self.of("interruption", over_agent=True)
        listen = self.of("backchannel", "noise", over_agent=True)
        turns = self.of("question", "answer", "pause", over_agent=False)
        pauses = self.of("pause", over_agent=False)
        noise = self.of("noise", over_agent=False)
        stops = [each.halted_at - each.script.begin_s for each in talk if each.halted_at is not None]
        done = [each for each in turns if each.ended_at is not None and not each.ended_early]
        ends = [each.ended_at - each.script.end_s for each in done if each.ended_at is not None]
        quick = [each for each in done if not each.by_patience]
        return {
            "answers lost": _share(each.began_at is not None for each in listen),
            "pauses for nothing": _share(each.halted_at is not None and each.began_at is None for each in listen),
            "lasting p50": _ms([each.silent_s for each in listen if each.silent_s], 50),
            "barge-ins missed": _share(each.began_at is None for each in talk),
            "barge-in p50/p95": f"{_ms(stops, 50)}/{_ms(stops, 95)}",
            "turns missed": _share(each.began_at is None for each in turns),
            "cut in a pause": _share(bool(each.ended_early) for each in pauses),
            "cut elsewhere": _share(bool(each.ended_early) for each in turns if each.script.kind != "pause"),
            "by patience": _share(each not in quick for each in done),
            "end p50/p95": f"{_ms(ends, 50)}/{_ms(ends, 95)}",
            "noise a turn": _share(each.began_at is not None for each in noise),
        }


class ImitatedEar:
    """An ear that knows the script: guesses while words are said, and gives what was said when it is asked."""

    def __init__(self, script: Script, clock: Clock) -> None:
        self._script, self._clock = script, clock
        self._given = 0
        self._guessed = 0
        self._asked_at: list[float] = []
        self.active = True
        self.ends_turns = False
        self.speaking = False

    def hear(self, pcm: bytes) -> None:
        """Hear nothing: the words are known."""

    def speech_began(self) -> None:
        """Note it."""
        self.speaking = True

    def speech_ended(self) -> None:
        """Give what was said in a moment."""
        self.speaking = False
        self._asked_at.append(self._clock.now)

    def news(self) -> Iterator[tuple[str, bool, bool]]:
        """Give what is said now: the text, whether it is final, whether it is the last of what was said."""
        now, words = self._clock.now, self._script.words
        while self._asked_at and now >= self._asked_at[0] + FINAL_S:
            until = self._asked_at.pop(0)
            count = sum(word.end_s <= until for word in words)
            text = " ".join(word.text for word in words[self._given : count])
            self._given = self._guessed = max(self._given, count)
            yield text, True, not self._asked_at and not self.speaking
        count = sum(word.end_s + INTERIM_S <= now for word in words)
        if count > max(self._guessed, self._given):
            self._guessed = count
            yield " ".join(word.text for word in words[self._given : count]), False, False


class Player:
    """Plays scripts to the listener of one configuration."""

    def __init__(self, models: Models, turns: Turns, *, halts: bool) -> None:
        self.models, self.turns, self.halts = models, turns, halts

    async def play(self, script: Script, *, over_agent: bool) -> Outcome:
        """Play one."""
        clock = Clock()
        try:
            for room in ROOMS:
                room.time = SimpleNamespace(monotonic=clock.monotonic, perf_counter=clock.monotonic)  # type: ignore[attr-defined]
            return await self._play(script, clock, over_agent=over_agent)
        finally:
            for room in ROOMS:
                room.time = time  # type: ignore[attr-defined]

    async def _play(self, script: Script, clock: Clock, *, over_agent: bool) -> Outcome:
        self.models.vad._model.reset_states()  # type: ignore[no-untyped-call]
        self.models.turn.clear()  # type: ignore[no-untyped-call]
        run = _Run(self, Outcome(script, over_agent), clock)
        ulaw = script.ulaw
        for at in range(0, len(ulaw), FRAME_BYTES):
            clock.now += FRAME_S
            await run.frame(ulaw[at : at + FRAME_BYTES])
        return run.outcome


class _Run:
    """One script, frame by frame."""

    def __init__(self, player: Player, outcome: Outcome, clock: Clock) -> None:
        self._models, self._clock, self._halts = player.models, clock, player.halts
        self.outcome = outcome
        self._ear = ImitatedEar(outcome.script, clock)
        self._conclusions: list[Frame] = []
        self._listener = Listener(player.models, self._conclusions.append, lambda _speaking, _at: None)
        self._listener.use(cast("Ear", self._ear), player.turns)
        self._rules = BargeIn(player.turns)
        self._left_s = math.inf if outcome.over_agent else 0.0
        self._halted_since: float | None = None
        self._complete_at: float | None = None
        self._words = self._all_words = False

    async def frame(self, ulaw: bytes) -> None:
        """Take 20 ms."""
        self._listener.hear(ulaw)
        conclusions, self._conclusions[:] = list(self._conclusions), []
        for frame in conclusions:
            await self._conclude(frame)
        for text, final, last in self._ear.news():
            self._words = self._words or bool(text)
            if text:
                self._follow(self._rules.words(text, final=final, left_s=self._heard_s))
            if last:
                self._all_words = True
                self._follow(self._rules.no_more_words(self._heard_s))
        self._follow(self._rules.passed(self._clock.now, self._heard_s))
        self._end_turn()

    @property
    def _heard_s(self) -> float:
        return 0.0 if self._halted_since is not None else self._left_s

    async def _conclude(self, frame: Frame) -> None:
        now = self._clock.now
        match frame:
            case VADUserStartedSpeakingFrame():
                self._complete_at, self._all_words = None, False
                verdict = self._rules.voice_began(now, self._heard_s)
                self._follow(Verdict.BEGIN if verdict is Verdict.HALT and not self._halts else verdict)
            case VADUserStoppedSpeakingFrame():
                state, _ = await self._models.turn.analyze_end_of_turn()
                self._complete_at = now + JUDGING_S if state is EndOfTurnState.COMPLETE else None
                self._follow(self._rules.voice_ended(now, self._heard_s))
            case SpokeOn():
                self._all_words = False
                self._rules.voice_goes_on()
            case PatienceOver():
                self.outcome.by_patience = True
                self._complete_at = now
            case _:
                pass

    def _follow(self, verdict: Verdict) -> None:
        now, outcome = self._clock.now, self.outcome
        match verdict:
            case Verdict.HALT:
                outcome.halted_at = outcome.halted_at or now
                self._halted_since = now
            case Verdict.BEGIN:
                outcome.halted_at = outcome.halted_at or now
                outcome.began_at = outcome.began_at or now
                self._halted_since, self._left_s = None, 0.0
                self._rules.began()
            case Verdict.PROCEED | Verdict.IGNORE:
                self._rules.ended()
                if self._halted_since is not None:
                    outcome.silent_s += now - self._halted_since
                    self._halted_since = None
            case Verdict.NOTHING:
                pass

    def _end_turn(self) -> None:
        """End the caller's turn as `TurnEnd` does: when the model says so and the ear has given its words."""
        now, outcome = self._clock.now, self.outcome
        done = self._complete_at is not None and now >= self._complete_at
        if self._rules.state is not State.TURN or not (done and self._words and self._all_words):
            return
        self._rules.ended()
        self._words = False
        if now < outcome.script.end_s - FRAME_S:
            outcome.ended_early += 1
        else:
            outcome.ended_at = outcome.ended_at or now


async def measure(configs: Iterable[str] = (HARD, "defaults"), every: int = 1) -> dict[str, Scores]:
    """Play every n-th script with each configuration: over an agent that speaks, and to one that listens."""
    logger.remove()
    models = load_models()
    chosen = scripts()[::every]
    found: dict[str, Scores] = {}
    for name in configs:
        player = Player(models, CONFIGS[name], halts=name != HARD)
        found[name] = scores = Scores()
        for script in chosen:
            if script.kind in {"interruption", "backchannel", "noise"}:
                scores.outcomes.append(await player.play(script, over_agent=True))
            if script.kind in {"question", "answer", "pause", "noise"}:
                scores.outcomes.append(await player.play(script, over_agent=False))
    return found


def table(found: dict[str, Scores]) -> str:
    """Write the scores as a table: shares are of the scripts they concern, times in ms."""
    rows = {name: scores.row() for name, scores in found.items()}
    columns = ["turns", *next(iter(rows.values()))]
    lines = [[name, *row.values()] for name, row in rows.items()]
    widths = [max(len(line[index]) for line in [columns, *lines]) for index in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in [columns, *lines]
    )


def figures(found: dict[str, Scores]) -> list[Figure]:
    """Put the figures that a report has of each configuration: shares of the scripts they concern, and times."""
    lines: list[Figure] = []
    for name, scores in found.items():
        talk = scores.of("interruption", over_agent=True)
        listen = scores.of("backchannel", "noise", over_agent=True)
        turns = scores.of("question", "answer", over_agent=False)
        pauses = scores.of("pause", over_agent=False)
        done = [each for each in (*turns, *pauses) if each.ended_at is not None and not each.ended_early]
        stops = tuple(each.halted_at - each.script.begin_s for each in talk if each.halted_at is not None)
        group = f"turn taking on recorded scripts, {name if name == HARD else 'as it is'}"
        lines += [
            _part(group, "answers lost to who only listens, and to noise", listen, lambda each: each.began_at is not None),
            _part(group, "barge-ins missed", talk, lambda each: each.began_at is None),
            Figure(group, "a voice over the agent → the agent is silent", stops, targets.BARGE_IN),
            _part(group, "ends missed", [*turns, *pauses], lambda each: each.began_at is None or each.ended_at is None),
            _part(group, "ends found in a pause of a sentence", pauses, lambda each: bool(each.ended_early)),
            Figure(group, "end of speech → end of turn",
                   tuple(each.ended_at - each.script.end_s for each in done if each.ended_at is not None)),
        ]  # fmt: skip
    return lines


def _part(group: str, name: str, among: Sequence[Outcome], true: Callable[[Outcome], bool]) -> Figure:
    count = sum(map(true, among))
    share = (count / len(among),) if among else ()
    return Figure(group, name, share, unit="%", note=f"{count} of {len(among)}")


def _share(true: Iterable[bool]) -> str:
    values = list(true)
    return f"{sum(values)}/{len(values)}"


def _ms(values: list[float], percent: int) -> str:
    if not values:
        return "-"
    if len(values) == 1:
        return f"{1000 * values[0]:.0f}"
    return f"{1000 * statistics.quantiles(values, n=100, method='inclusive')[percent - 1]:.0f}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.turns")
    parser.add_argument("--config", nargs="+", choices=list(CONFIGS), default=[HARD, "defaults"])
    parser.add_argument("--all", action="store_true", help="every configuration")
    parser.add_argument("--every", type=int, default=1, help="only every n-th script")
    parser.add_argument("--each", action="store_true", help="what became of each script")
    options = parser.parse_args()
    found = asyncio.run(measure(CONFIGS if options.all else options.config, options.every))
    for name, scores in found.items() if options.each else ():
        for each in scores.outcomes:
            print(f"{name}: {each.script.kind}, {each.script.name}: {_story(each)}")
    print(table(found))


def _story(outcome: Outcome) -> str:
    moments = {
        "halted": outcome.halted_at, "began": outcome.began_at, "ended": outcome.ended_at, "early": outcome.ended_early,
        "silent": outcome.silent_s,
    }  # fmt: skip
    told = " ".join(f"{name} {value:.2f}" for name, value in moments.items() if value)
    where = "over the agent" if outcome.over_agent else "to the agent"
    return f"{where} ({outcome.script.begin_s:.2f}-{outcome.script.end_s:.2f}) {told}"


if __name__ == "__main__":
    main()
