"""Render the callers' recordings from the texts of their lexicon, keeping the best of several takes.

    python -m tests.data.render [--takes 8] [--only ID ...]     # extra `local`; a minute for all
    python -m tests.data.render --check                         # judge the recordings that are there

The voice is random: no two takes are alike, and synthetic speech sits near the threshold of the turn model. So a take
must be one stretch of speech for Silero at Pipecat's own settings, be understood by the recogniser (English), and
of those that are the one is kept whose end of turn is most certain. A `sound` ("uh-huh") is only listened to by Silero.
"""

import argparse
import re
import sys
import tomllib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from loguru import logger
from pipecat.audio.turn.smart_turn.local_smart_turn_v3 import LocalSmartTurnAnalyzerV3
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.audio.vad.vad_analyzer import VADParams, VADState

from deploy.render_clips import polish
from tests.standins.local_speech import LocalSpeech

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # as in shared.clips
    import audioop

FOLDER: Final = Path(__file__).parent / "speech"
RATE_HZ: Final = 8000
MARGIN_MS: Final = 30  # with the filling up of the last frame, at most 50 ms of silence at the end
FRAME: Final = 160
QUIET: Final = b"\xff"
LEAD_S, TAIL_S = 1.0, 1.5  # a line is never silent before a caller's first word: frames of silence come first
TURN_TAILS_S: Final = (0.2, 0.25, 0.3, 0.4)  # silence heard when the turn model is asked: 0.2 s and a few frames
SPELLING: Final = {"favorite": "favourite", "color": "colour"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What listeners make of a recording; times in ms from its first sample.

    Attributes:
        starts_ms: when Silero says that speech has begun, at confidence alone and at Pipecat's volume gate.
        stretches: how many stretches of speech it hears, at Pipecat's settings.
        ends_ms: silence heard when it says that speech has ended.
        turn: the turn model's lowest probability that the caller has finished, 0 to 1, over TURN_TAILS_S.
        heard: what the recogniser writes down.
    """

    starts_ms: tuple[int, int]
    stretches: int
    ends_ms: int
    turn: float
    heard: str


class Judge:
    """Listens to recordings with the models that listen to callers."""

    def __init__(self, speech: LocalSpeech) -> None:
        self._speech = speech
        self._turn = LocalSmartTurnAnalyzerV3(sample_rate=RATE_HZ)
        self._turn.set_sample_rate(RATE_HZ)

    def listen(self, ulaw: bytes, language: str) -> Verdict:
        """Judge one recording."""
        confident, gated = vad_events(ulaw, min_volume=0.0), vad_events(ulaw)
        heard = ""
        if language == "en":
            heard = self._speech.recognise(audioop.ulaw2lin(ulaw, 2), RATE_HZ, language)
        return Verdict(
            starts_ms=(_start(confident), _start(gated)),
            stretches=sum(state is VADState.SPEAKING for state, _ in gated),
            ends_ms=gated[-1][1] - len(ulaw) * 1000 // RATE_HZ if gated else 0,
            turn=min(self._turn_probability(ulaw, tail_s) for tail_s in TURN_TAILS_S),
            heard=heard,
        )

    def _turn_probability(self, ulaw: bytes, tail_s: float) -> float:
        padded = QUIET * (RATE_HZ // 2) + ulaw + QUIET * int(RATE_HZ * tail_s)
        samples = np.frombuffer(audioop.ulaw2lin(padded, 2), "<i2").astype(np.float32) / 32768
        return float(self._turn._predict_endpoint(samples)["probability"])


def vad_events(ulaw: bytes, min_volume: float = VADParams().min_volume) -> list[tuple[VADState, int]]:
    """Play a recording into Silero frame by frame; return when speech began and ended, in ms from its first sample."""
    analyzer = SileroVADAnalyzer(sample_rate=RATE_HZ, params=VADParams(min_volume=min_volume))
    analyzer.set_sample_rate(RATE_HZ)
    lead, tail = QUIET * int(RATE_HZ * LEAD_S), QUIET * int(RATE_HZ * TAIL_S)
    pcm = audioop.ulaw2lin(lead + ulaw + tail, 2)
    events: list[tuple[VADState, int]] = []
    speaking = False
    for start in range(0, len(pcm), FRAME * 2):
        state = analyzer._run_analyzer(pcm[start : start + FRAME * 2])
        changed = state is (VADState.QUIET if speaking else VADState.SPEAKING)
        if changed:
            speaking = not speaking
            events.append((state, (start // 2 + FRAME - len(lead)) * 1000 // RATE_HZ))
    analyzer._executor.shutdown()
    return events


def words(text: str) -> list[str]:
    """Reduce a text to its words, in British spelling, for comparison."""
    return [SPELLING.get(word, word) for word in re.findall(r"[\w']+", text.lower())]


def best_take(speech: LocalSpeech, judge: Judge, row: dict[str, str], takes: int) -> bytes:
    """Speak a row several times; return the mu-law of the best take.

    Raises:
        SystemExit: no take is good enough.
    """
    good: list[tuple[float, bytes]] = []
    for _ in range(takes):
        ulaw = polish(speech.synthesize(row.get("say", row["text"]), row["language"]), MARGIN_MS)
        verdict = judge.listen(ulaw, row["language"])
        if not objections(row, verdict):
            good.append((verdict.turn, ulaw))
    if not good:
        sys.exit(f"{row['id']}: no take of {takes} is good enough, the last: {verdict} {objections(row, verdict)}")
    return max(good)[1]


def objections(row: dict[str, str], verdict: Verdict) -> list[str]:
    """Say why a recording would make tests unreliable; nothing when it is fine."""
    found = []
    if verdict.stretches != 1:
        found.append(f"is {verdict.stretches} stretches of speech")
    if verdict.starts_ms[0] > 300 or verdict.starts_ms[1] > 450:
        found.append(f"is noticed after {verdict.starts_ms} ms")
    if not 0 < verdict.ends_ms <= 350:
        found.append(f"ends {verdict.ends_ms} ms after its last sample")
    if "sound" in row:
        return found
    if verdict.turn < 0.8:
        found.append(f"may not be taken for a finished turn: {verdict.turn:.2f}")
    if row["language"] == "en" and words(verdict.heard) != words(row["text"]):
        found.append(f"is heard as {verdict.heard!r}")
    return found


def _start(events: list[tuple[VADState, int]]) -> int:
    return events[0][1] if events else 99999


def main() -> None:
    """Render or check, and print one line for each recording."""
    parser = argparse.ArgumentParser(prog="python -m tests.data.render")
    parser.add_argument("--takes", type=int, default=8)
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    logger.remove()
    speech = LocalSpeech()
    judge = Judge(speech)
    bad = 0
    for row in tomllib.loads((FOLDER / "lexicon.toml").read_text(encoding="utf-8"))["recording"]:
        if options.only and row["id"] not in options.only:
            continue
        path = FOLDER / f"{row['id']}.ulaw"
        if not options.check:
            path.write_bytes(best_take(speech, judge, row, options.takes))
        verdict = judge.listen(path.read_bytes(), row["language"])
        found = objections(row, verdict)
        bad += bool(found)
        print(
            f"{row['id']:13} {path.stat().st_size // 8:5} ms  speech at {verdict.starts_ms[0]:3} ms "
            f"({verdict.starts_ms[1]:3} with the volume gate)  over {verdict.ends_ms:3} ms after the end  "
            f"turn {verdict.turn:.2f}  {verdict.heard!r} {'; '.join(found)}",
            flush=True,
        )
    sys.exit(min(bad, 1))


if __name__ == "__main__":
    main()
