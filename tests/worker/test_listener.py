"""The listener: what it hears goes to the ear and the models at once, and only conclusions go on."""

import itertools
import warnings

import numpy as np
import pytest
from pipecat.audio.turn.base_turn_analyzer import EndOfTurnState
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.audio.vad.vad_analyzer import VADState
from pipecat.frames.frames import Frame, VADUserStartedSpeakingFrame, VADUserStoppedSpeakingFrame
from pipecat.metrics.metrics import TurnMetricsData

import worker.call.listener
from shared.clips import load_clip
from shared.turns import Turns
from tests.pool_process import eventually
from tests.standins.process import ROOT
from worker.call.listener import Listener
from worker.call.models import Models, PhoneTurn, PhoneVAD, load_models, vad_params
from worker.call.turns import PatienceOver, SpokeOn

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

SPEECH = ROOT / "tests" / "data" / "speech"
FRAME = 160
QUIET = b"\xff" * FRAME


class Ear:
    """An ear that remembers."""

    ends_turns = False

    def __init__(self) -> None:
        self.active = True
        self.heard = bytearray()
        self.told: list[str] = []

    def hear(self, pcm: bytes) -> None:
        """Remember it."""
        self.heard += pcm

    def speech_began(self) -> None:
        """Remember it."""
        self.told.append("began")

    def speech_ended(self) -> None:
        """Remember it, and how much had been heard by then."""
        self.told.append("ended")


class Rig:
    """A listener and what it concludes."""

    def __init__(self, models: Models | None = None, turns: Turns | None = None) -> None:
        self.ear = Ear()
        self.frames: list[Frame] = []
        self.voice: list[tuple[bool, int]] = []
        self.listener = Listener(models or load_models(), self.frames.append, lambda *told: self.voice.append(told))
        self.listener.use(self.ear, turns or Turns())  # type: ignore[arg-type] # as much of one as is asked for

    def hear(self, ulaw: bytes) -> None:
        """Hear audio as a carrier sends it."""
        for at in range(0, len(ulaw), FRAME):
            self.listener.hear(ulaw[at : at + FRAME])

    @property
    def concluded(self) -> list[type[Frame]]:
        """The kinds of the conclusions so far."""
        return [type(frame) for frame in self.frames]


def spoken(name: str = "what-time") -> bytes:
    """Give a recording."""
    return load_clip(SPEECH / f"{name}.ulaw").audio


async def test_speech_has_a_beginning_and_an_end_and_the_ear_is_told_at_once() -> None:
    rig = Rig()
    said = QUIET * 25 + spoken() + QUIET * 25
    rig.hear(said)
    assert rig.concluded[:1] == [VADUserStartedSpeakingFrame]
    assert rig.concluded[-1] is VADUserStoppedSpeakingFrame
    assert (rig.ear.told[0], rig.ear.told[-1]) == ("began", "ended")
    assert bytes(rig.ear.heard) == audioop.ulaw2lin(said, 2)
    places = [at for _, at in rig.voice]
    assert [0, *places, len(said)] == sorted([0, *places, len(said)])
    assert 25 * FRAME < places[0] < 25 * FRAME + len(spoken())


async def test_the_ear_is_asked_before_the_pause_is_one_and_told_when_the_caller_goes_on() -> None:
    rig = Rig(turns=Turns(stop=0.8))
    rig.hear(QUIET * 25 + spoken("yes"))
    while rig.ear.told[-1] != "ended":
        rig.hear(QUIET)
    assert rig.listener.silent
    assert VADUserStoppedSpeakingFrame not in rig.concluded, "it is no pause yet"
    rig.hear(spoken())
    assert SpokeOn in rig.concluded
    assert VADUserStoppedSpeakingFrame not in rig.concluded
    assert [rig.listener.silent] == [False]
    rig.hear(QUIET * 100)
    assert rig.concluded[-1] is VADUserStoppedSpeakingFrame
    assert rig.ear.told.count("ended") == rig.ear.told.count("began"), "once for each silence"
    assert rig.listener.silent


async def test_silence_concludes_nothing() -> None:
    rig = Rig()
    rig.hear(QUIET * 500)
    assert rig.frames == []
    assert len(rig.ear.heard) == 2 * 500 * FRAME


async def test_a_pause_ends_speech_after_the_agents_own_time() -> None:
    ends = []
    for stop in (0.2, 0.8):
        rig = Rig(turns=Turns(stop=stop))
        rig.hear(QUIET * 25 + spoken("yes") + QUIET * 100)
        assert not rig.voice[-1][0]
        ends.append(rig.voice[-1][1])
    assert abs((ends[1] - ends[0]) / 8000 - 0.6) < 0.07  # positions in the audio; the detector looks every 32 ms


async def test_who_pauses_for_longer_than_the_agents_patience_has_finished() -> None:
    rig = Rig(turns=Turns(patience=1.0))
    rig.hear(QUIET * 25 + spoken("yes") + QUIET * 75)
    assert rig.concluded[-1] is PatienceOver
    rig = Rig(turns=Turns(patience=2.0))
    rig.hear(QUIET * 25 + spoken("yes") + QUIET * 75)
    assert PatienceOver not in rig.concluded


async def test_audio_without_an_ear_is_dropped() -> None:
    frames: list[Frame] = []
    Listener(load_models(), frames.append, lambda _speaking, _at: None).hear(spoken())
    assert frames == []


class StuckModels:
    """Models that take everything for speech."""

    def __init__(self) -> None:
        self.turn = self

    def use(self, turns: Turns, *, judging: bool) -> None:
        """Take any turns."""

    def voice_after(self, pcm: bytes) -> VADState:
        """Hear a voice in anything."""
        assert pcm
        return VADState.SPEAKING

    quiet_s = 0.0

    def look_ahead(self, _left_s: float) -> None:
        """Judge nothing."""

    def forget(self) -> None:
        """Judge nothing."""

    def append_audio(self, pcm: bytes, _speaking: bool) -> EndOfTurnState:  # noqa: FBT001 - the signature is Pipecat's
        """Judge nothing."""
        assert pcm
        return EndOfTurnState.INCOMPLETE


async def test_a_caller_whose_stream_dries_up_in_mid_word_has_ceased_to_speak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker.call.listener, "SILENT_STREAM_S", 0.05)
    rig = Rig(StuckModels())  # type: ignore[arg-type] # as much of them as is asked for
    rig.hear(spoken("yes"))
    await eventually(lambda: rig.concluded[-1] is VADUserStoppedSpeakingFrame)
    rig.hear(QUIET)
    assert rig.concluded[-1] is VADUserStartedSpeakingFrame


@pytest.mark.parametrize("attenuation", [1.0, 0.1])
@pytest.mark.parametrize("noise", [0, 30, 200])
def test_the_voice_detector_hears_the_same_whether_or_not_it_looks_at_silence(attenuation: float, noise: int) -> None:
    """The model is not run on silence; what it says of the speech after it is the same within three windows."""
    random = np.random.default_rng(7)
    said = audioop.mul(
        audioop.ulaw2lin(QUIET * 100 + spoken() + QUIET * 60 + spoken("yes") + QUIET * 60, 2), 2, attenuation
    )
    pcm = (np.frombuffer(said, "<i2") + random.normal(0, noise or 1e-9, len(said) // 2)).astype("<i2").tobytes()
    thrifty, plain = PhoneVAD(vad_params(Turns())), SileroVADAnalyzer(sample_rate=8000, params=vad_params(Turns()))
    changes = []
    for vad in (thrifty, plain):
        vad.set_sample_rate(8000)
        states = [vad._run_analyzer(pcm[at : at + 512]) for at in range(0, len(pcm) - 512, 512)]
        speaking = [state in {VADState.SPEAKING, VADState.STOPPING} for state in states]
        changes.append([index for index, (one, other) in enumerate(itertools.pairwise(speaking)) if one != other])
    assert len(changes[0]) == len(changes[1]) >= 4
    assert max(abs(one - other) for one, other in zip(*changes, strict=True)) <= 3


@pytest.mark.parametrize("name", ["what-time", "book", "yes", "pt-hours"])
async def test_a_silence_is_judged_ahead_as_it_is_judged_when_it_is_a_pause(name: str) -> None:
    judged = []
    for ahead_s in (0.0, 0.07):
        turn = PhoneTurn()
        turn.set_sample_rate(8000)
        turn.append_audio(audioop.ulaw2lin(QUIET * 25, 2), is_speech=False)
        turn.append_audio(audioop.ulaw2lin(spoken(name), 2), is_speech=True)
        turn.append_audio(bytes(2 * round((0.2 - ahead_s) * 8000)), is_speech=False)
        if ahead_s:
            turn.look_ahead(ahead_s)
        state, metrics = await turn.analyze_end_of_turn()
        assert isinstance(metrics, TurnMetricsData)
        judged.append((state, metrics.probability))
        assert turn.append_audio(bytes(3200), is_speech=False) is EndOfTurnState.INCOMPLETE
        await turn.cleanup()  # type: ignore[no-untyped-call]
    assert judged[0][0] is judged[1][0]
    assert abs(judged[0][1] - judged[1][1]) < 0.05
