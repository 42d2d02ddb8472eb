"""The providers against their stand-ins: warm when they say so, lost when they are, and no sentence lost between."""

import asyncio
import subprocess
import sys
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx2
import pytest
from openai import APIStatusError, AuthenticationError, RateLimitError
from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
from pipecat.frames.frames import (
    Frame,
    InterruptionFrame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    TTSStoppedFrame,
)
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.services.llm_service import FunctionCallParams
from websockets.protocol import State

from shared.agents import Agent
from shared.clips import load_clip
from shared.metrics import Setback
from shared.settings import Settings
from shared.variables import NOTE, Values
from shared.workers import Resource
from tests.pool_process import eventually
from tests.standins import modem
from tests.standins.pipecat_rig import RATE_HZ, Rig, frames_of, of_kind, piped
from tests.standins.process import ROOT, Standin, running
from worker.call.transport import PARAMS
from worker.providers.call_voice import PIECE_S
from worker.providers.cartesia_stt import CartesiaEar
from worker.providers.cartesia_tts import CartesiaVoice
from worker.providers.interface import TranscriptEnd
from worker.providers.languages import base_language, language_name
from worker.providers.openai_llm import WarmOpenAILLM, retry_after_s, setback_of
from worker.providers.openai_prompt import prompt
from worker.providers.retry import Trouble

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # gone in 3.13, where audioop-lts provides it
    import audioop

DEADLINE_S = 30
SPEECH = ROOT / "tests" / "data" / "speech"


def settings(**changes: Any) -> Settings:
    """Give settings with made-up keys."""
    return Settings(
        _env_file=None, openai_api_key="key", cartesia_api_key="key", cartesia_voice_id="default-voice", **changes
    )


def cartesia_settings(port: int) -> Settings:
    """Give settings for a Cartesia stand-in."""
    return settings(
        cartesia_tts_url=f"ws://127.0.0.1:{port}/tts/websocket",
        cartesia_stt_url=f"ws://127.0.0.1:{port}",
        cartesia_tts_model="sonic-3.5",
        cartesia_stt_model="ink-whisper",
        cartesia_stt_language="",
    )


async def counters(standin: Standin) -> dict[str, int]:
    """Read what a stand-in counted."""
    counted: dict[str, int] = (await standin.state())["counters"]
    return counted


# --- the voice --------------------------------------------------------------------------------------------------------


class Voice:
    """A voice in a running pipeline, and what it told about losses."""

    def __init__(self, port: int) -> None:
        self.lost: list[str] = []
        self.words: list[tuple[str, float]] = []
        self.tts = CartesiaVoice(cartesia_settings(port), self.lost.append)
        self.tts.on_word = lambda _context, word, start_s: self.words.append((word, start_s))

    async def says(self, rig: Rig, text: str) -> bytes:
        """Speak and give the sound."""
        await rig.send(TTSSpeakFrame(text))
        frames = of_kind(await rig.until(TTSStoppedFrame), TTSAudioRawFrame)
        return b"".join(frame.audio for frame in frames)


@asynccontextmanager
async def cartesia(*, connect_ms: int = 0, **flags: object) -> AsyncIterator[Standin]:
    """Run the Cartesia stand-in without its latencies."""
    quick: dict[str, Any] = {"tts_first_byte_ms": 0, "stt_final_ms": 0, "tts_realtime_factor": 100, **flags}
    async with running("cartesia", connect_ms=connect_ms, **quick) as standin:
        yield standin


async def test_a_parked_voice_is_warm_once_it_is_set_up_and_speaks() -> None:
    async with cartesia() as standin:
        voice = Voice(standin.port)
        assert not voice.tts.warm()
        async with piped(voice.tts) as rig:
            assert voice.tts.warm()
            assert len(await voice.says(rig, "Good day to you.")) > 0
        assert [word for word, _ in voice.words] == ["Good", "day", "to", "you."]
        starts = [start_s for _, start_s in voice.words]
        assert starts == sorted(starts)
        assert voice.lost == []
        assert not voice.tts.warm()


async def test_a_voice_that_was_refused_is_not_warm_and_says_why() -> None:
    async with cartesia(refuse_status=429) as standin:
        voice = Voice(standin.port)
        async with piped(voice.tts):
            assert not voice.tts.warm()
            assert "429" in voice.tts.last_error


@pytest.mark.parametrize("close_code", [1000, 1011])
async def test_a_parked_voice_that_is_closed_is_lost_once_and_does_not_come_back_by_itself(close_code: int) -> None:
    async with cartesia(close_code=close_code) as standin:
        voice = Voice(standin.port)
        async with piped(voice.tts):
            await standin.control(close_all="tts")
            await eventually(lambda: bool(voice.lost))
            assert not voice.tts.warm()
            await until_quiet(standin)
            assert (await counters(standin))["tts_opened"] == 1
            assert len(voice.lost) == 1


async def test_a_parked_voice_notices_the_death_of_its_provider() -> None:
    async with cartesia() as standin:
        voice = Voice(standin.port)
        async with piped(voice.tts):
            standin.process.kill()
            await eventually(lambda: bool(voice.lost))
            assert not voice.tts.warm()
            assert len(voice.lost) == 1


async def test_in_a_call_the_voice_reconnects() -> None:
    async with cartesia() as standin:
        voice = Voice(standin.port)
        async with piped(voice.tts) as rig:
            voice.tts.serve()
            former = voice.tts._connection._held.socket
            await standin.control(close_all="tts")
            await eventually(lambda: voice.tts._connection._held.socket is not former and voice.tts.warm())
            assert len(await voice.says(rig, "Still here.")) > 0
        assert voice.lost == []


async def test_a_voice_that_was_lost_just_before_its_call_came_speaks_in_it() -> None:
    """The pool gives a worker away in the moment between its loss and the news of it."""
    async with cartesia() as standin:
        voice = Voice(standin.port)
        async with piped(voice.tts) as rig:
            await standin.control(close_all="tts")
            await eventually(lambda: voice.lost)
            voice.tts.serve()
            await eventually(voice.tts.warm)
            assert len(await voice.says(rig, "Here I am.")) > 0


def noted(tts: CartesiaVoice, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Give an event that is set when the voice is asked for a sentence and has done its first step."""
    asked = asyncio.Event()
    speak = tts.run_tts

    def run_tts(text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        asyncio.get_running_loop().call_soon(asked.set)
        return speak(text, context_id)

    monkeypatch.setattr(tts, "run_tts", run_tts)
    return asked


@pytest.mark.parametrize("when", [State.CLOSING, State.CLOSED])
async def test_a_sentence_said_while_the_voice_reconnects_is_heard(
    when: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In CLOSING the base would lose it on the old connection, in CLOSED on a second one that nobody reads."""
    async with cartesia() as standin:
        voice = Voice(standin.port)
        async with piped(voice.tts) as rig:
            voice.tts.serve()
            former = voice.tts._connection._held.socket
            assert former is not None
            if when is State.CLOSING:
                former.transport.pause_reading()  # keeps the end of the connection from being seen
                await standin.control(connect_ms=300)
                closing = asyncio.create_task(former.close())
                await eventually(lambda: former.state is State.CLOSING)
                asked = noted(voice.tts, monkeypatch)
                sound = asyncio.create_task(voice.says(rig, "Do you hear me?"))
                await asked.wait()
                former.transport.resume_reading()
                await closing
            else:
                await standin.control(connect_ms=300, close_all="tts")
                await former.wait_closed()
                sound = asyncio.create_task(voice.says(rig, "Do you hear me?"))
            assert len(await sound) > 0
        assert (await counters(standin))["tts_opened"] == 2


async def test_the_voice_of_an_agent_needs_no_new_connection() -> None:
    async with cartesia() as standin:
        voice = Voice(standin.port)
        voice.tts.become(Agent(language="pt-BR", voice="clinic-voice"))
        async with piped(voice.tts) as rig:
            assert len(await voice.says(rig, "Bom dia.")) > 0
            voice.tts.become(Agent())
            assert len(await voice.says(rig, "Hi.")) > 0
        state = await standin.state()
        said = {(entry["voice"], entry["language"]) for entry in state["log"] if entry["kind"] == "tts_text"}
        assert said == {("clinic-voice", "pt"), ("default-voice", "en")}
        assert state["counters"]["tts_opened"] == 1


async def test_a_voice_lost_in_the_middle_of_a_word_goes_on_with_that_word() -> None:
    """The provider cuts every other connection; what is void of the sound, and what is asked again, fit together."""
    async with cartesia(drop_tts_after_chunks=9, drop_tts_next=2) as standin:
        voice = Voice(standin.port)
        voids: list[tuple[float, float]] = []
        voice.tts.on_void = lambda _context, start_s, end_s: voids.append((start_s, end_s))
        async with piped(voice.tts) as rig:
            voice.tts.serve()
            sound = await voice.says(rig, "One two three four five.")
        for start_s, end_s in reversed(voids):
            sound = sound[: 2 * round(start_s * RATE_HZ)] + sound[2 * round(end_s * RATE_HZ) :]
        assert " ".join(word.text for word in modem.decode(audioop.lin2ulaw(sound, 2))) == "One two three four five."
        assert [word for word, _ in voice.words] == ["One", "two", "three", "four", "five."]
        assert (await counters(standin))["tts_opened"] == 3


async def test_a_context_that_expired_in_the_middle_of_a_turn_is_gone_on_with_in_another() -> None:
    """A model that thinks for a while: the provider ends the context after the first sentence."""
    async with cartesia(tts_context_expire_s=0.05) as standin:
        voice = Voice(standin.port)
        async with piped(voice.tts) as rig:
            voice.tts.serve()
            await rig.send(LLMFullResponseStartFrame(), LLMTextFrame("One. "), LLMTextFrame("Two"))
            await eventually(lambda: voice.words)
            await until_logged(standin, "tts_done")
            await rig.send(LLMTextFrame(" three."), LLMFullResponseEndFrame())
            frames = of_kind(await rig.until(TTSStoppedFrame), TTSAudioRawFrame)
        sound = audioop.lin2ulaw(b"".join(frame.audio for frame in frames), 2)
        assert " ".join(word.text for word in modem.decode(sound)) == "One. Two three."


def test_lost_sound_is_filled_up_to_what_the_transport_plays_at_once() -> None:
    assert PARAMS.audio_out_10ms_chunks / 100 == PIECE_S


async def test_a_sentence_that_was_interrupted_is_no_longer_waited_for() -> None:
    async with cartesia(stall_tts=True) as standin:
        trouble = Trouble(Resource.TTS)
        tts = CartesiaVoice(cartesia_settings(standin.port), lambda _why: None, trouble)
        async with piped(tts) as rig:
            tts.serve()
            await rig.send(TTSSpeakFrame("Nobody hears this."))
            await eventually(lambda: tts._line._watchdog)
            assert trouble.wanted_since is not None
            await rig.send(InterruptionFrame())
            await rig.until(InterruptionFrame)
        assert (tts._line._watchdog, tts._utterances) == (None, {})


async def until_logged(standin: Standin, kind: str) -> None:
    """Wait until the stand-in has noted something."""
    async with asyncio.timeout(DEADLINE_S):
        while not any(entry["kind"] == kind for entry in (await standin.state())["log"]):
            pass


async def until_quiet(standin: Standin) -> None:
    """Wait until the stand-in holds no voice socket and its log stands still."""
    before = -1
    async with asyncio.timeout(DEADLINE_S):
        while True:
            state = await standin.state()
            if len(state["log"]) == before and state["counters"]["tts_open"] == 0:
                return
            before = len(state["log"])


# --- the ear ----------------------------------------------------------------------------------------------------------


def recording(name: str) -> list[bytes]:
    """Give a recording in pieces of 20 ms, with silence around it."""
    pcm = bytes(3200) + audioop.ulaw2lin(load_clip(SPEECH / f"{name}.ulaw").audio, 2) + bytes(3200)
    return [frame.audio for frame in frames_of(pcm)]


def say(stt: CartesiaEar, pieces: Iterable[bytes], *, to_the_end: bool = True) -> None:
    """Let an ear hear pieces of speech, and its end."""
    stt.speech_began()
    for pcm in pieces:
        stt.hear(pcm)
    if to_the_end:
        stt.speech_ended()


async def transcript(rig: Rig) -> str:
    """Give the next final transcript."""
    return of_kind(await rig.until(TranscriptionFrame), TranscriptionFrame)[0].text


async def test_the_ear_connects_only_when_it_is_opened_and_in_the_agents_language() -> None:
    async with cartesia(lexicon=SPEECH) as standin:
        stt = CartesiaEar(cartesia_settings(standin.port))
        async with piped(stt) as rig:
            assert not stt.warm()
            assert (await counters(standin)).get("stt_opened", 0) == 0
            await stt.open(Agent(language="pt-BR"))
            assert stt.warm()
            (opened,) = [entry for entry in (await standin.state())["log"] if entry["kind"] == "stt_open"]
            assert opened["query"]["language"] == "pt"
            say(stt, recording("pt-code"))
            assert await transcript(rig)
        assert not stt.warm()


async def test_the_language_of_the_settings_goes_before_the_agents() -> None:
    async with cartesia() as standin:
        chosen = cartesia_settings(standin.port).model_copy(update={"cartesia_stt_language": "es"})
        stt = CartesiaEar(chosen)
        async with piped(stt):
            await stt.open(Agent(language="pt-BR"))
            (opened,) = [entry for entry in (await standin.state())["log"] if entry["kind"] == "stt_open"]
            assert opened["query"]["language"] == "es"


@asynccontextmanager
async def connecting_ear() -> AsyncIterator[tuple[CartesiaEar, Rig, asyncio.Task[None]]]:
    """Give an ear that is still connecting, where it hears from, and the task that connects it."""
    async with cartesia(lexicon=SPEECH, connect_ms=300) as standin:
        stt = CartesiaEar(cartesia_settings(standin.port))
        async with piped(stt) as rig:
            opening = asyncio.create_task(stt.open(Agent()))
            await eventually(lambda: stt._receive_task is not None)
            yield stt, rig, opening


async def test_speech_during_the_connecting_arrives_whole_and_in_order() -> None:
    async with connecting_ear() as (stt, rig, opening):
        frames = recording("what-time")
        say(stt, frames[: len(frames) // 2], to_the_end=False)
        await opening
        say(stt, frames[len(frames) // 2 :])
        assert await transcript(rig) == "What time is it please?"


async def test_someone_who_spoke_and_fell_silent_during_the_connecting_is_understood() -> None:
    async with connecting_ear() as (stt, rig, opening):
        say(stt, recording("yes"))
        await opening
        assert await transcript(rig)


async def test_an_ear_that_cannot_connect_is_not_warm_and_costs_no_error() -> None:
    async with cartesia(refuse_status=503) as standin:
        stt = CartesiaEar(cartesia_settings(standin.port))
        async with piped(stt):
            await stt.open(Agent())
            assert not stt.warm()


async def test_the_ear_says_when_no_other_word_will_come() -> None:
    async with cartesia(lexicon=SPEECH) as standin:
        stt = CartesiaEar(cartesia_settings(standin.port))
        async with piped(stt) as rig:
            await stt.open(Agent())
            say(stt, recording("what-time"))
            frames = await rig.until(TranscriptEnd)
            assert [frame.text for frame in of_kind(frames, TranscriptionFrame)] == ["What time is it please?"]
            say(stt, [bytes(320)] * 20)
            frames = await rig.until(TranscriptEnd)  # noise: no words, and that is said as well
            assert of_kind(frames, TranscriptionFrame) == []


async def test_the_ear_does_not_say_so_while_the_caller_speaks_on() -> None:
    async with cartesia(lexicon=SPEECH, stt_final_ms=300) as standin:
        stt = CartesiaEar(cartesia_settings(standin.port))
        async with piped(stt) as rig:
            await stt.open(Agent())
            say(stt, recording("what-time"))
            say(stt, recording("yes"), to_the_end=False)
            frames = await rig.until(TranscriptionFrame)
            stt.speech_ended()
            frames += await rig.until(TranscriptEnd)
            assert [type(frame) for frame in frames if isinstance(frame, TranscriptionFrame | TranscriptEnd)] == [
                TranscriptionFrame, TranscriptionFrame, TranscriptEnd,
            ]  # fmt: skip


# --- the model --------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def model(url: str) -> AsyncIterator[WarmOpenAILLM]:
    """Make a model and close its client."""
    llm = WarmOpenAILLM(settings(openai_base_url=url, openai_model="gpt-4.1"))
    try:
        yield llm
    finally:
        await llm._client.close()


async def test_the_models_connection_is_opened_ahead_and_serves_the_first_completion() -> None:
    async with running("openai_api", llm_first_token_ms=0, token_ms=0) as standin, model(f"{standin.url}/v1") as llm:
        assert not llm.warm()
        await llm.open()
        assert llm.warm()
        async with piped(llm) as rig:
            llm.become(Agent(prompt="You are Ana.", language="pt-BR"))
            llm.append_system_instruction("<customer_record>{}</customer_record>")
            await rig.send(LLMContextFrame(LLMContext([{"role": "user", "content": "olá"}])))
            assert of_kind(await rig.until(LLMFullResponseEndFrame), LLMTextFrame)
        state = await standin.state()
        (completion,) = [entry for entry in state["log"] if entry["kind"] == "completion"]
        assert not completion["fresh"]
        system, *others = completion["messages"]
        assert system["role"] in {"system", "developer"}
        assert system["content"].startswith("You are Ana.\n\nSpeak Brazilian Portuguese.")
        assert system["content"].endswith("<customer_record>{}</customer_record>")
        assert others == [{"role": "user", "content": "olá"}]


def llm_settings(standin: Standin) -> Settings:
    """Give settings for an OpenAI stand-in."""
    return settings(openai_base_url=f"{standin.url}/v1", openai_model="gpt-4.1")


async def answered(rig: Rig) -> str:
    """Give the text of the next answer."""
    return "".join(frame.text for frame in of_kind(await rig.until(LLMFullResponseEndFrame), LLMTextFrame))


QUESTION: Any = {"role": "user", "content": "How are you today, my good friend?"}


@pytest.mark.parametrize("breaks", [1, 3])
async def test_the_rest_of_an_answer_is_asked_for_behind_what_was_said(breaks: int) -> None:
    quick: dict[str, Any] = {"llm_first_token_ms": 0, "token_ms": 0}
    async with running("openai_api", drop_mid_stream=True, break_next=breaks, **quick) as standin:
        trouble = Trouble(Resource.LLM)
        llm = WarmOpenAILLM(llm_settings(standin), trouble)
        async with piped(llm) as rig:
            await rig.send(LLMContextFrame(LLMContext([QUESTION])))
            assert await answered(rig) == f"You said: {QUESTION['content']}"
        assert (trouble.since, trouble.wanted_since, trouble.tries) == (None, None, breaks)
        asked = [entry["messages"] for entry in (await standin.state())["log"] if entry["kind"] == "completion"]
        assert len(asked) == breaks + 1
        assert [message["role"] for message in asked[-1]][-3:] == ["user", "assistant", "system"]
        await llm._client.close()


async def test_a_tool_call_whose_stream_broke_is_run_once_and_whole() -> None:
    script = [{"tool": "note", "arguments": {"text": "a long enough text"}}] * 2
    async with running("openai_api", llm_first_token_ms=0, token_ms=0) as standin:
        await standin.control(drop_mid_stream=True, break_next=1, script=script)
        ran: list[Any] = []
        done = asyncio.Event()

        async def note(params: FunctionCallParams) -> None:
            ran.append(params.arguments)
            done.set()

        tool = FunctionSchema("note", "notes", {"text": {"type": "string"}}, ["text"], handler=note)
        llm = WarmOpenAILLM(llm_settings(standin))
        async with piped(llm) as rig:
            await rig.send(LLMContextFrame(LLMContext([QUESTION], tools=[tool])))
            async with asyncio.timeout(DEADLINE_S):
                await done.wait()
            await answered(rig)
        assert ran == [{"text": "a long enough text"}]
        await llm._client.close()


@pytest.mark.parametrize(("header", "wait_s"), [("1.5", 1.5), ("60", 0.0), ("soon", 0.0), ("", 0.0)])
def test_a_refusal_says_how_long_to_wait_and_only_a_short_wait_is_kept(header: str, wait_s: float) -> None:
    request = httpx2.Request("POST", "http://model.test/")
    answer = httpx2.Response(429, headers={"retry-after": header} if header else {}, request=request)
    assert retry_after_s(RateLimitError("limited", response=answer, body=None)) == wait_s


@pytest.mark.parametrize(
    ("status", "code", "cause"),
    [
        (429, None, Setback.LIMITED),
        (429, "insufficient_quota", None),
        (500, None, Setback.FAILED),
        (408, None, Setback.FAILED),
        (401, None, None),
        (404, None, None),
    ],
)
def test_what_no_other_try_would_change_is_a_refusal(status: int, code: str | None, cause: Setback | None) -> None:
    answer = httpx2.Response(status, request=httpx2.Request("POST", "http://model.test/"))
    assert setback_of(APIStatusError("no", response=answer, body={"code": code})) is cause


async def test_a_refusal_is_an_open_connection_too() -> None:
    async with running("openai_api", api_key="another") as standin, model(f"{standin.url}/v1") as llm:
        await llm.open()
        assert llm.warm()
        with pytest.raises(AuthenticationError):
            await llm._client.models.list()


async def test_a_model_that_is_not_there_is_not_warm_and_costs_no_error() -> None:
    async with model("http://127.0.0.1:1/v1") as llm:
        await llm.open()
        assert not llm.warm()


def test_a_first_completion_imports_nothing() -> None:
    """What a fork has not inherited its caller would wait for, at the first answer."""
    program = """
import asyncio, sys
import worker.call.child
from openai import APIConnectionError
from shared.settings import Settings
from worker.providers.openai_llm import WarmOpenAILLM

async def main():
    llm = WarmOpenAILLM(Settings(_env_file=None, openai_api_key="key", openai_base_url="http://127.0.0.1:1/v1"))
    before = set(sys.modules)
    await llm.open()
    try:
        await llm._client.with_options(max_retries=0).chat.completions.create(
            model="any", messages=[{"role": "user", "content": "Hello"}], stream=True
        )
    except APIConnectionError:
        print("asked", sorted(set(sys.modules) - before))

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.stdout == "asked []\n", done.stderr


async def test_a_model_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.providers.openai_connections.TIMEOUT_S", 0.05)
    leave = asyncio.Event()

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await leave.wait()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server, model(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1") as llm:
        async with asyncio.timeout(DEADLINE_S):
            await llm.open()
        assert not llm.warm()
        leave.set()


def test_the_prompt_is_the_same_for_every_call_of_an_agent() -> None:
    one, other = Values(caller="+15550001111"), Values(caller="+15550002222", record={"customer": {"name": "Ana"}})
    assert prompt(Agent(), one) == prompt(Agent(), other)
    assert prompt(Agent(prompt="P", language="en"), one) == "P\n\nSpeak English."


async def test_a_prompt_with_variables_is_written_again_when_the_customer_is_known() -> None:
    """What was appended meanwhile stays behind it."""
    agent = Agent(name="clinic", prompt="You are {{agent}} and talk to {{customer.name|somebody}}.", language="en")
    async with model("http://127.0.0.1:9/v1") as llm:
        llm.become(agent)
        told = cast("Any", llm._settings)
        assert told.system_instruction == "You are clinic and talk to somebody.\n\nSpeak English."
        llm.append_system_instruction("What else is known.")
        llm.know(Values(agent="Ana", record={"customer": {"name": "Rui"}}))
        said = told.system_instruction
        assert said.startswith(f"You are Ana and talk to “Rui”.\n\n{NOTE}")
        assert said.endswith("Speak English.\n\nWhat else is known.")


def test_languages_have_names_and_codes() -> None:
    assert [base_language(each) for each in ("pt-BR", "EN", "zh-Hant-TW", "")] == ["pt", "en", "zh", ""]
    assert [language_name(each) for each in ("pt", "pt-BR", "EN-gb", "sw", "sw-KE")] == [
        "Portuguese", "Brazilian Portuguese", "English", "sw", "sw-KE",
    ]  # fmt: skip
