"""Cartesia's ear that ends turns itself, against the stand-in: every word once, and an end of every turn."""

import asyncio
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pipecat.frames.frames import EagerTranscriptionFrame, Frame, InterimTranscriptionFrame, TranscriptionFrame

import worker.providers.cartesia_turns as module
from shared.agents import Agent
from shared.clips import load_clip
from shared.settings import Settings
from shared.turns import Turns
from shared.workers import Resource
from tests.pool_process import eventually
from tests.stack import LEXICON
from tests.standins.pipecat_rig import Rig, of_kind, piped
from tests.standins.process import Standin, started
from worker.providers import chosen
from worker.providers.cartesia_stt import CartesiaEar
from worker.providers.cartesia_turns import CartesiaTurnsEar
from worker.providers.interface import TurnGoesOn, TurnOver
from worker.providers.retry import Trouble

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # gone in 3.13, where audioop-lts provides it
    import audioop

FRAME = 320
BOOK = "I would like to book an appointment for Friday."


def pcm(name: str) -> bytes:
    """Give a recording."""
    return audioop.ulaw2lin(load_clip(LEXICON / f"{name}.ulaw").audio, 2)


def silence(seconds: float) -> bytes:
    """Give silence."""
    return bytes(round(seconds * 50) * FRAME)


def halves(name: str) -> tuple[bytes, bytes]:
    """Cut a recording in two."""
    whole = pcm(name)
    middle = len(whole) // FRAME // 2 * FRAME
    return whole[:middle], whole[middle:]


def settings(port: int = 0, **changes: Any) -> Settings:
    """Give settings for a stand-in."""
    return Settings(
        _env_file=None,
        openai_api_key="key",
        cartesia_api_key="key",
        cartesia_voice_id="voice",
        cartesia_stt_url=f"ws://127.0.0.1:{port}",
        cartesia_stt_model="ink-2",
        cartesia_stt_language="",
        **changes,
    )


@pytest.fixture(scope="module")
def process() -> Iterator[Standin]:
    """One process for all tests."""
    with started("cartesia", connect_ms=0, stt_interim_ms=100, lexicon=LEXICON) as standin:
        yield standin


@pytest.fixture
async def cartesia(process: Standin) -> AsyncIterator[Standin]:
    """The stand-in with the settings it was started with, whatever a test does to them."""
    before = (await process.state())["settings"]
    yield process
    await process.control(**before, close_all="all", reset=True)


class Caller:
    """A caller and the ear that hears them."""

    def __init__(self, ear: CartesiaTurnsEar, trouble: Trouble, rig: Rig) -> None:
        self.ear, self.trouble, self.rig = ear, trouble, rig

    def sound(self, audio: bytes) -> None:
        """Let the ear hear sound."""
        for at in range(0, len(audio), FRAME):
            self.ear.hear(audio[at : at + FRAME])

    def say(self, audio: bytes, *, then_s: float = 1.0) -> None:
        """Speak and fall silent."""
        self.ear.speech_began()
        self.sound(audio)
        self.ear.speech_ended()
        self.sound(silence(then_s))

    def in_turn(self) -> bool:
        """Say whether the server hears a turn."""
        return self.ear._turn.open

    async def until_over(self) -> list[Frame]:
        """Give the frames up to the end of the turn."""
        return await self.rig.until(TurnOver)


@asynccontextmanager
async def calling(standin: Standin, turns: Turns | None = None, *, opened: bool = True) -> AsyncIterator[Caller]:
    """Have somebody call."""
    trouble = Trouble(Resource.STT)
    ear = CartesiaTurnsEar(settings(standin.port), trouble)
    async with piped(ear) as rig:
        if opened:
            await ear.open(Agent(turns=turns or Turns()))
        yield Caller(ear, trouble, rig)


def said(frames: list[Frame]) -> list[str]:
    """Give the final words among frames."""
    return [frame.text for frame in of_kind(frames, TranscriptionFrame)]


async def opened(standin: Standin) -> list[dict[str, Any]]:
    """Give what each connection was asked for."""
    return [entry["query"] for entry in (await standin.state())["log"] if entry["kind"] == "stt_open"]


async def test_a_turn_is_over_when_the_server_says_so_and_its_words_come_once(cartesia: Standin) -> None:
    async with calling(cartesia) as one:
        assert one.ear.warm()
        one.say(pcm("book"))
        frames = await one.until_over()
        assert said(frames) == [BOOK]
        growing = [frame.text for frame in of_kind(frames, InterimTranscriptionFrame)]
        assert growing
        assert all(BOOK.startswith(text) for text in growing)
        assert one.trouble.wanted_since is None
        one.say(pcm("yes"))
        assert said(await one.until_over()) == ["Yes."]
    assert not one.ear.warm()


@pytest.mark.parametrize(
    ("turns", "timeout_ms"),
    [(Turns(), 3000), (Turns(patience=0.1), 640), (Turns(patience=60), 11_200), (Turns(smart=False), 640)],
)
async def test_the_patience_of_an_agent_is_the_servers(cartesia: Standin, turns: Turns, timeout_ms: int) -> None:
    async with calling(cartesia, turns):
        (query,) = await opened(cartesia)
    assert query["turn_end_timeout_ms"] == str(timeout_ms)
    assert (query["model"], query["sample_rate"]) == ("ink-2", "8000")
    assert query["turn_start_threshold"] > query["turn_eager_end_threshold"] > query["turn_end_threshold"]


async def test_a_pause_within_a_sentence_ends_nothing(cartesia: Standin) -> None:
    first, second = halves("book")
    async with calling(cartesia) as one:
        one.say(first)
        frames = await one.rig.until(InterimTranscriptionFrame)
        one.say(second)
        frames += await one.until_over()
        assert said(frames) == [BOOK]


async def test_the_silence_that_ends_a_turn_is_sent_as_it_comes(cartesia: Standin) -> None:
    first, _ = halves("book")
    async with calling(cartesia) as one:
        one.sound(silence(0.02))
        assert not one.ear._outgoing.is_set(), "in pieces as the vendor advises"
        one.say(first, then_s=0.02)
        await one.rig.until(InterimTranscriptionFrame)
        await eventually(lambda: one.ear._unheard.waiting_s == 0)
        one.sound(silence(0.02))
        await eventually(lambda: one.ear._unheard.waiting_s == 0)


async def test_what_was_said_while_it_connects_is_understood(cartesia: Standin) -> None:
    await cartesia.control(connect_ms=200)
    async with calling(cartesia, opened=False) as one:
        opening = asyncio.create_task(one.ear.open(Agent()))
        one.say(pcm("what-time"))
        await opening
        assert said(await one.until_over()) == ["What time is it please?"]


@pytest.mark.parametrize("how", ["drop_all", "close_all"])
async def test_a_connection_lost_in_a_turn_costs_no_word_of_it(cartesia: Standin, how: str) -> None:
    first, second = halves("book")
    async with calling(cartesia) as one:
        one.ear.speech_began()
        one.sound(first)
        frames = await one.rig.until(InterimTranscriptionFrame)
        await cartesia.control(**{how: "stt"})
        one.sound(second)
        one.ear.speech_ended()
        one.sound(silence(1))
        frames += await one.until_over()
        assert said(frames) == [BOOK]
        await eventually(lambda: one.trouble.since is None)
        assert len(await opened(cartesia)) == 2


async def test_a_connection_lost_behind_a_turn_says_nothing_again(cartesia: Standin) -> None:
    async with calling(cartesia) as one:
        one.say(pcm("what-time"))
        await one.until_over()
        await cartesia.control(drop_all="stt")
        await eventually(lambda: one.trouble.tries)
        one.say(pcm("yes"))
        assert said(await one.until_over()) == ["Yes."]


async def test_a_server_that_says_nothing_is_left_for_another(
    cartesia: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.providers.line.CONNECT_S", 0.5)
    monkeypatch.setattr("worker.providers.retry.SILENT_S", 0.3)
    monkeypatch.setattr(module, "SPEECH_S", 0.0)
    async with calling(cartesia) as one:
        await cartesia.control(stall_stt=True)
        one.say(pcm("what-time"))
        await eventually(lambda: one.trouble.since is not None)
        await cartesia.control(stall_stt=False)
        assert said(await one.rig.until(TranscriptionFrame)) == ["What time is it please?"]
        await eventually(lambda: one.trouble.since is None)


async def test_a_server_that_never_ends_a_turn_is_left_for_another(
    cartesia: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.providers.line.CONNECT_S", 0.5)
    monkeypatch.setattr("worker.providers.retry.SILENT_S", 0.2)
    first, second = halves("book")
    async with calling(cartesia, Turns(patience=0.64)) as one:
        one.ear.speech_began()
        one.sound(first)
        await one.rig.until(InterimTranscriptionFrame)
        await cartesia.control(stall_stt=True)
        one.sound(second)
        one.ear.speech_ended()
        one.sound(silence(1))
        await eventually(lambda: one.trouble.since is not None)
        await cartesia.control(stall_stt=False)
        assert said(await one.rig.until(TranscriptionFrame)) == [BOOK], "nothing is taken for late that is said again"


async def test_a_cough_is_a_turn_that_is_over_and_costs_no_connection(
    cartesia: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GRACE_S", 0.05)
    await cartesia.control(stt_turn_start_ms=10_000)
    async with calling(cartesia) as one:
        one.say(pcm("yes"))
        assert said(await one.until_over()) == []
        await eventually(lambda: one.trouble.wanted_since is None)
        assert one.ear._unheard.asked == 0
        assert len(await opened(cartesia)) == 1


async def test_a_voice_without_a_turn_is_told_to_one_other_connection_and_then_let_be(
    cartesia: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"GRACE_S": 0.05, "GRACE_AGAIN_S": 0.05, "SPEECH_S": 0.0}.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr("worker.providers.retry.SILENT_S", 0.2)
    await cartesia.control(stt_turn_start_ms=10_000)
    async with calling(cartesia) as one:
        one.say(pcm("yes"))
        await one.until_over()
        await one.until_over()
        await eventually(lambda: one.trouble.since is None)
        assert one.trouble.wanted_since is None
        assert len(await opened(cartesia)) == 2


async def test_noise_that_the_server_takes_for_a_turn_ends_it_without_words(cartesia: Standin) -> None:
    async with calling(cartesia) as one:
        one.say(pcm("what-time")[::-1])
        assert said(await one.until_over()) == []
        one.say(pcm("yes"))
        assert said(await one.until_over()) == ["Yes."]


async def test_a_turn_that_the_caller_has_overtaken_is_over_when_they_fall_silent(cartesia: Standin) -> None:
    async with calling(cartesia) as one:
        one.ear.speech_began()
        one.sound(pcm("what-time") + silence(1))
        frames = await one.rig.until(TranscriptionFrame)
        assert said(frames) == ["What time is it please?"], "its words are there"
        assert not of_kind(frames, TurnOver)
        one.ear.speech_ended()
        assert said(await one.until_over()) == []


async def test_words_that_follow_a_turn_the_caller_has_overtaken_end_with_it(cartesia: Standin) -> None:
    async with calling(cartesia) as one:
        one.ear.speech_began()
        one.sound(pcm("what-time") + silence(1))
        frames = await one.rig.until(TranscriptionFrame)
        one.sound(pcm("yes"))
        await eventually(one.in_turn)
        one.ear.speech_ended()
        one.sound(silence(1))
        frames += await one.until_over()
        assert said(frames) == ["What time is it please?", "Yes."]


async def test_a_connection_lost_while_the_caller_speaks_on_keeps_what_follows_a_turn(cartesia: Standin) -> None:
    async with calling(cartesia) as one:
        one.ear.speech_began()
        one.sound(pcm("what-time") + silence(1))
        await one.rig.until(TranscriptionFrame)
        one.ear.speech_began()
        one.sound(pcm("yes"))
        await cartesia.control(drop_all="stt")
        one.ear.speech_ended()
        one.sound(silence(1))
        frames = await one.until_over()
        while not said(frames):
            frames += await one.until_over()
        assert said(frames) == ["Yes."]


async def test_words_that_only_the_server_hears_in_our_silence_do_not_keep_the_caller_waiting(
    cartesia: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OVERDUE_S", -3.0)  # at once: the patience is 3 s
    first, second = halves("book")
    async with calling(cartesia) as one:
        one.ear.speech_began()
        one.sound(first)
        await one.rig.until(InterimTranscriptionFrame)
        one.ear.speech_ended()
        one.sound(second)
        frames = await one.until_over()
        assert said(frames)
        assert one.in_turn(), "the server still hears one"
        one.sound(silence(1))
        while one.in_turn():
            frames += await one.until_over()
        assert " ".join(said(frames)) == BOOK, "each word once"


async def test_what_may_be_the_end_is_told_and_taken_back(cartesia: Standin) -> None:
    await cartesia.control(stt_turn_end_ms=600)
    async with calling(cartesia) as one:
        one.say(pcm("what-time"), then_s=0.2)
        frames = await one.rig.until(EagerTranscriptionFrame)
        assert of_kind(frames, EagerTranscriptionFrame)[0].text == "What time is it please?"
        one.say(pcm("yes"))
        frames = await one.rig.until(TurnGoesOn)
        frames += await one.until_over()
        assert said(frames) == ["What time is it please? Yes."]


async def test_an_error_in_a_call_costs_a_connection_and_no_word(cartesia: Standin) -> None:
    await cartesia.control(stt_error_code=500, stt_error_next=1)
    async with calling(cartesia) as one:
        one.say(pcm("what-time"))
        assert said(await one.rig.until(TranscriptionFrame)) == ["What time is it please?"]


async def test_settings_that_the_server_refuses_are_not_tried_again(
    cartesia: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "END", 0.9)
    async with calling(cartesia) as one:
        assert not one.ear.warm()
        assert "end_threshold" in one.trouble.refused


async def test_a_wrong_key_is_not_tried_again(cartesia: Standin) -> None:
    await cartesia.control(refuse_status=401)
    async with calling(cartesia) as one:
        await eventually(lambda: one.trouble.refused)


async def test_how_much_was_heard_is_told(cartesia: Standin) -> None:
    used: list[float] = []
    async with calling(cartesia) as one:
        one.ear.on_used = lambda *, stt_seconds: used.append(stt_seconds)
        one.say(pcm("yes"))
        await one.until_over()
        one.ear.report()
    assert sum(used) == pytest.approx(len(pcm("yes")) / 16_000 + 1, abs=0.2)


# --- which ear --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "language", "named"),
    [
        ("ink-2", "en-US", "cartesia turns"),
        ("ink-2-2026-05-22", "en", "cartesia turns"),
        ("ink-2", "pt-BR", "cartesia"),
        ("ink-whisper", "en", "cartesia"),
    ],
)
def test_the_ear_that_ends_turns_is_for_its_model_and_language(model: str, language: str, named: str) -> None:
    configured = settings().model_copy(update={"cartesia_stt_model": model})
    assert chosen.ear_of(configured, Agent(language=language)) == named
    overridden = configured.model_copy(update={"cartesia_stt_language": language})
    assert chosen.ear_of(overridden, Agent(language="xx")) == named
    assert chosen.ear_of(configured, Agent(language=language, stt="openai")) == "openai"


def test_agents_of_two_languages_have_two_ears() -> None:
    made = chosen.ears(settings(), [Agent(), Agent(language="pt-BR")], Trouble(Resource.STT))
    assert {name: (type(ear), ear.ends_turns) for name, ear in made.items()} == {
        "cartesia": (CartesiaEar, False),
        "cartesia turns": (CartesiaTurnsEar, True),
    }


async def test_another_language_is_heard_by_the_model_that_knows_it(cartesia: Standin) -> None:
    ear = CartesiaEar(settings(cartesia.port))
    async with piped(ear) as rig:
        await ear.open(Agent(language="pt-BR"))
        (query,) = await opened(cartesia)
        assert (query["model"], query["language"]) == ("ink-whisper", "pt")
        ear.speech_began()
        ear.hear(pcm("pt-hours"))
        ear.speech_ended()
        assert said(await rig.until(TranscriptionFrame)) == ["Que horas são, por favor?"]


def test_that_is_said_once_where_it_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    warned: list[dict[str, Any]] = []
    monkeypatch.setattr(chosen.log, "warning", lambda *_, **fields: warned.append(fields), raising=False)
    chosen.load(settings(), [Agent()])
    assert warned == []
    chosen.load(settings(), [Agent(), Agent(language="pt-BR"), Agent(language="es")])
    assert warned == [{"model": "ink-2", "others": "ink-whisper"}]
