"""One call from bind to close, on a real connection, with a pipeline that only remembers."""

import asyncio
import base64
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import pytest
from websockets.frames import CloseCode, Opcode

from shared.agents import Agent
from shared.calls import CallSid, EndReason, IncomingCall, StreamSid, TraceId
from shared.clips import Clip
from shared.messages import Bind, Closed, Counted, Ending, Entry, FirstMedia, Message, Observed, Resume, Resumed
from shared.messages import Started as StreamStarted
from shared.metrics import Oddity, Timing
from shared.settings import Settings
from tests.pool_process import eventually
from tests.standins import pipecat_rig  # noqa: F401 - imports Pipecat without the warnings it gives itself
from tests.worker.line import DEADLINE_S, Peer, connected, masked
from worker.call.greeting import Recording, burst, record
from worker.call.media import clear_message, mark_message
from worker.call.memory import Greeting, Memory
from worker.call.pipeline import AgentPipeline
from worker.call.playout import RATE, Mark, Playout
from worker.call.scribe import Scribe
from worker.call.serving import Serving
from worker.call.stream import Stream
from worker.call.tape import Tape, make_tape
from worker.call.waiting_words import WaitingWords

CALL = IncomingCall(
    call_sid=CallSid("CA01"), caller="+5511999990000", called="+551140000000", trace_id=TraceId("f" * 32)
)
HELLO = "Hello, thanks for calling. How can I help you today?"
MessageT = TypeVar("MessageT", bound=Message)


def recording(name: str, seconds: float, text: str = HELLO, language: str = "en") -> Recording:
    """Make a clip."""
    audio = b"\x55" * int(seconds * RATE)
    return record(
        Clip(id=name, text=text, language=language, voice="", licence="", duration_ms=int(seconds * 1000), audio=audio)
    )


class FakeOutput:
    """The pipeline's output as far as serving a call touches it: a real clock, no Pipecat."""

    def __init__(self) -> None:
        self.playout = Playout()
        self.asks = False
        self.going = asyncio.Event()
        self.going.set()
        self.on_halt: Callable[[], None] = lambda: None
        self.on_proceed: Callable[[int], int] = lambda place: place
        self.on_renamed: Callable[[Mapping[str, str], int], None] = lambda _names, _place: None
        self.on_interrupted: Callable[[], None] = lambda: None
        self.announced: list[bool] = []
        self._stream: Stream | None = None
        self._sid = ""

    def attach(self, stream: Stream, stream_sid: str) -> None:
        """Remember where to write."""
        self._stream, self._sid = stream, stream_sid

    def mark(self, text: str) -> str:
        """Send a mark."""
        name = self.playout.mark(text)
        self.send_mark(name)
        return name

    def send_mark(self, name: str) -> None:
        """Send a mark that has its name."""
        self.playout.placed(name)
        if self._stream is not None:
            self._stream.send(mark_message(self._sid, name))

    def take_back(self) -> None:
        """Have the carrier drop what it has not played."""
        if self._stream is not None:
            self._stream.send(clear_message(self._sid))
        self.playout.clear(time.monotonic())

    async def announce_direct_speech(self, *, speaking: bool) -> None:
        """Remember it."""
        self.announced.append(speaking)

    def interrupt(self) -> None:
        """Do what the caller's voice does."""
        self.on_interrupted()
        self.playout.clear(time.monotonic())


class FakeListener:
    """Ears that remember."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self.sizes: list[int] = []
        self.more = asyncio.Event()

    def hear(self, ulaw: bytes) -> None:
        """Remember it."""
        self.heard += ulaw
        self.sizes.append(len(ulaw))
        self.more.set()


class FakePipeline:
    """An agent that only remembers."""

    def __init__(self) -> None:
        self.listener = FakeListener()
        self.output = FakeOutput()
        self.quiet = asyncio.Event()
        self.quiet.set()
        self.spoke = False
        self.waiting_words = WaitingWords(lambda: self.spoke)
        self.context: list[str] = []
        self.spoken: list[str] = []
        self.on_idle: Callable[[], object] = lambda: None
        self.waits_for_caller = True
        self.busy_s = 0.0
        self.gate_closed = False
        self.hushed = 0
        self.recalled: Memory | None = None
        self.asked: list[str] = []
        self.did = asyncio.Event()

    async def until(self, true: Callable[[], Any]) -> None:
        """Wait until something was asked of it."""
        async with asyncio.timeout(DEADLINE_S):
            while not true():
                self.did.clear()
                await self.did.wait()

    def close_gate(self) -> None:
        """Take no more questions."""
        self.gate_closed = True

    async def hush(self) -> None:
        """Stop answering."""
        self.hushed += 1

    def add_spoken(self, text: str) -> None:
        """Put it into the context."""
        self.context.append(text)

    def replace_spoken(self, said: str, heard: str) -> None:
        """Correct the context."""
        self.context[self.context.index(said)] = heard

    async def speak(self, text: str) -> None:
        """Say it with the voice."""
        self.spoken.append(text)
        self.did.set()

    def open_gate(self) -> None:
        """Let the first answer go, which has nothing to wait for here."""

    async def recall(self, memory: Memory) -> None:
        """Remember what was remembered."""
        self.recalled = memory
        self.did.set()

    async def answer(self, note: str = "") -> None:
        """Remember why an answer was asked for."""
        self.asked.append(note)
        self.did.set()


@dataclass
class Call:
    """A call under way: the carrier's end, the served end, and what the pool was told."""

    serving: Serving
    pipeline: FakePipeline
    peer: Peer
    told: list[Message]
    news: asyncio.Event
    agent: Agent
    accepted_at: float
    messages: list[dict[str, Any]] = field(default_factory=list)
    _sequence: int = 0

    async def send(self, event: str, **fields: Any) -> None:
        """Send a message as the carrier does, numbered."""
        self._sequence += event != "connected"
        message = {"event": event, "streamSid": "MZ01", "sequenceNumber": str(self._sequence), **fields}
        await self.peer.text(json.dumps(message))

    async def start(self, call_sid: str = "CA01") -> None:
        """Send `connected` and `start`."""
        await self.peer.text('{"event":"connected","protocol":"Call","version":"1.0.0"}')
        await self.send("start", start={"streamSid": "MZ01", "callSid": call_sid, "customParameters": {}})

    async def echo(self, name: str) -> None:
        """Send a mark back."""
        await self.send("mark", mark={"name": name})

    async def media(self, ulaw: bytes = b"\xff" * 160) -> None:
        """Send sound."""
        await self.send("media", media={"track": "inbound", "payload": base64.b64encode(ulaw).decode()})

    async def receive(self, event: str) -> dict[str, Any]:
        """Read messages of ours up to the next of this kind."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                found = [each for each in self.messages if each["event"] == event and "seen" not in each]
                if found:
                    found[0]["seen"] = True
                    return found[0]
                frames = await self.peer.frames(1)
                assert frames, "the connection ended"
                self.messages += [json.loads(bytes(each.data)) for each in frames if each.opcode is Opcode.TEXT]

    def all(self, kind: type[MessageT]) -> list[MessageT]:
        """What the pool was told of one kind."""
        return [message for message in self.told if isinstance(message, kind)]

    async def until_told(self, kind: type[MessageT], count: int = 1) -> list[MessageT]:
        """Wait until the pool was told this so often."""
        async with asyncio.timeout(DEADLINE_S):
            while len(self.all(kind)) < count:
                self.news.clear()
                await self.news.wait()
        return self.all(kind)

    async def ended(self) -> EndReason:
        """Answer our close as a carrier does, wait for the end and give its reason."""
        async with asyncio.timeout(DEADLINE_S):
            with contextlib.suppress(OSError):  # a test may have broken the connection
                while await self.peer.receive():
                    await self.peer.flush()
            await self.serving.done.wait()
        (ending,) = self.all(Ending)
        assert isinstance(self.told[-1], Closed)
        return ending.reason

    async def hear(self, count: int) -> None:
        """Wait until the agent heard this many bytes."""
        async with asyncio.timeout(DEADLINE_S):
            while len(self.pipeline.listener.heard) < count:
                self.pipeline.listener.more.clear()
                await self.pipeline.listener.more.wait()


@dataclass(frozen=True)
class After:
    """What a predecessor left; by default there was none."""

    resume: Resume | None = None
    memory: Memory = field(default_factory=Memory)
    tape: Tape | None = None


@asynccontextmanager
async def call(
    *,
    agent: Agent | None = None,
    recordings: dict[str, Recording] | None = None,
    confirm: bool = True,
    after: After | None = None,
    **settings: Any,
) -> AsyncIterator[Call]:
    """Bind a call. `confirm` is whether the pool answers that the end reason is stored."""
    chosen, former = agent or Agent(), after or After()
    pipeline = FakePipeline()
    told: list[Message] = []
    news = asyncio.Event()

    def tell(message: Message) -> None:
        told.append(message)
        news.set()
        if isinstance(message, Ending) and confirm:
            serving.end_stored.set()

    clips = {"greeting": recording("greeting", 2)} if recordings is None else recordings
    made_settings = Settings(_env_file=None, **settings)
    serving = Serving(made_settings, clips, cast("AgentPipeline", pipeline), tell, Scribe(tell))
    ours, theirs = connected()
    accepted_at = time.monotonic()
    serving.use(chosen)
    bound = Bind(call=CALL, agent=chosen, accepted_at=accepted_at, reserved_at=accepted_at, resume=former.resume)
    await serving.bind(bound, ours, former.tape, former.memory)
    peer = Peer(theirs)
    made = Call(serving, pipeline, peer, told, news, chosen, accepted_at)
    try:
        yield made
    finally:
        theirs.close()
        async with asyncio.timeout(DEADLINE_S):
            await serving.done.wait()
        for task in serving._tasks:  # in a worker the process ends here
            task.cancel()
        await asyncio.gather(*serving._tasks, return_exceptions=True)


async def hang_up_by_peer(made: Call) -> None:
    """Close as the carrier does when the caller hangs up."""
    made.peer.ws.send_close(1000)
    await made.peer.flush()


# --- the beginning ----------------------------------------------------------------------------------------------------


async def test_the_greeting_goes_out_at_start_whole_and_with_its_mark_behind() -> None:
    async with call() as made:
        await made.start()
        mark = await made.receive("mark")
        media = [each for each in made.messages if each["event"] == "media"]
        assert made.messages[-1] is mark
        sound = [base64.b64decode(each["media"]["payload"]) for each in media]
        assert len(sound[0]) == 160
        assert sum(map(len, sound)) == 2 * RATE
        assert {each["streamSid"] for each in made.messages} == {"MZ01"}
        assert mark["mark"]["name"] == "0:1"


async def test_the_pool_learns_the_stream_and_the_first_media_with_its_times() -> None:
    async with call() as made:
        await made.start()
        await made.receive("mark")
        assert made.told[0] == StreamStarted(stream_sid=made.all(StreamStarted)[0].stream_sid)
        assert made.all(StreamStarted)[0].stream_sid == "MZ01"
        (first,) = made.all(FirstMedia)
        times = {each.timing: each.seconds for each in made.all(Observed)}
        assert set(times) == {Timing.GREETING_START, Timing.START_TO_FIRST_MEDIA}
        assert times[Timing.GREETING_START] == pytest.approx(first.at - made.accepted_at)
        assert 0 <= times[Timing.START_TO_FIRST_MEDIA] <= times[Timing.GREETING_START]


async def test_the_greeting_is_in_the_context_and_in_the_journal_and_the_pipeline_knows_of_it() -> None:
    async with call() as made:
        await made.start()
        await made.receive("mark")
        assert made.pipeline.context == [HELLO]
        assert [(each.kind, each.text, each.key) for each in made.all(Entry)] == [
            ("greeting", HELLO, "0:1"), ("spoken", "", "0"),
        ]  # fmt: skip
        assert made.pipeline.output.announced == [True]


async def test_nothing_is_sent_before_start() -> None:
    async with call() as made:
        await made.peer.text('{"event":"connected","protocol":"Call","version":"1.0.0"}')
        await made.peer.send(masked(Opcode.PING, b"first"))
        (frame,) = await made.peer.frames(1)
        assert frame.opcode is Opcode.PONG


async def test_a_clip_longer_than_the_burst_is_paced_and_still_whole() -> None:
    long = recording("greeting", 5.5)
    async with call(recordings={"greeting": long}) as made:
        await made.start()
        await made.receive("mark")
        sound = sum(
            len(base64.b64decode(each["media"]["payload"])) for each in made.messages if each["event"] == "media"
        )
        assert sound == 5.5 * RATE
        assert made.pipeline.output.playout.sent_bytes == 5.5 * RATE


@pytest.mark.parametrize(
    ("agent", "expected"),
    [
        (Agent(), "greeting"),
        (Agent(language="en-GB"), "greeting"),
        (Agent(greeting=HELLO), "greeting"),
        (Agent(greeting="Clinic, good morning."), None),
        (Agent(language="pt-BR"), None),
        (Agent(language="pt-BR", greeting_clip="ola"), "ola"),
        (Agent(greeting_clip="absent"), None),
    ],
)
async def test_an_agent_gets_the_clip_that_is_its_own(agent: Agent, expected: str | None) -> None:
    clips = {"greeting": recording("greeting", 0.1), "ola": recording("ola", 0.1, "Olá.", "pt-BR")}
    async with call(agent=agent, recordings=clips) as made:
        await made.start()
        await made.until_told(StreamStarted)
        if expected is None:
            assert made.all(FirstMedia) == []
        else:
            await made.receive("mark")
            assert made.pipeline.context == [clips[expected].text]


async def test_without_a_clip_the_voice_greets_and_that_is_no_reply_yet() -> None:
    async with call(agent=Agent(greeting="Good morning."), greeting_audio_enabled=False) as made:
        await made.start()
        await made.pipeline.until(lambda: made.pipeline.spoken)
        assert made.pipeline.spoken == ["Good morning."]
        assert made.all(FirstMedia) == []
        made.serving.replied(time.monotonic())
        assert len(made.all(FirstMedia)) == 1
        await made.send("stop")
        assert await made.ended() is EndReason.HANGUP_BEFORE_REPLY


async def test_with_no_greeting_at_all_the_first_answer_is_a_reply_and_the_first_media() -> None:
    async with call(recordings={}) as made:
        await made.start()
        await made.until_told(StreamStarted)
        made.serving.replied(time.monotonic())
        assert len(made.all(FirstMedia)) == 1
        await made.send("stop")
        assert await made.ended() is EndReason.CALLER_HANGUP


async def test_with_recordings_switched_off_the_voice_says_what_the_clip_says() -> None:
    async with call(greeting_audio_enabled=False) as made:
        await made.start()
        await made.pipeline.until(lambda: made.pipeline.spoken)
        assert made.pipeline.spoken == [HELLO]


async def test_a_recording_without_words_has_those_of_the_agent() -> None:
    """An existing `greetings.raw` has no row in the manifest; the model must still know what was said."""
    agent = Agent(greeting="Good morning, this is the clinic.")
    clips = {"greetings.raw": recording("greetings", 0.4, text="", language="")}
    async with call(agent=agent, recordings=clips, greeting_audio_clip="greetings.raw") as made:
        await made.start()
        await made.receive("mark")
        assert made.pipeline.context == ["Good morning, this is the clinic."]
        assert made.pipeline.spoken == []


async def test_sound_is_heard_from_start_on_and_not_before() -> None:
    async with call() as made:
        await made.media(b"\x01" * 160)
        await made.start()
        await made.media(b"\x02" * 160)
        await made.media(b"\x03" * 7)
        await made.hear(167)
        assert bytes(made.pipeline.listener.heard) == b"\x02" * 160 + b"\x03" * 7


# --- the middle -------------------------------------------------------------------------------------------------------


async def test_the_greetings_mark_proves_it_heard_and_ends_it() -> None:
    async with call() as made:
        await made.start()
        name = (await made.receive("mark"))["mark"]["name"]
        await made.echo(name)
        entries = await made.until_told(Entry, 3)
        assert (entries[2].kind, entries[2].text, entries[2].key) == ("heard", HELLO, name)
        await asyncio.sleep(0)
        assert made.pipeline.output.announced == [True, False]
        made.pipeline.output.interrupt()
        assert made.pipeline.context == [HELLO]


async def test_an_interruption_leaves_in_the_context_what_was_heard() -> None:
    async with call() as made:
        await made.start()
        await made.receive("mark")
        playout = made.pipeline.output.playout
        playout._plays_until = time.monotonic() + 1.0  # half of its 2 s
        made.pipeline.output.interrupt()
        (heard,) = made.pipeline.context
        assert heard.endswith("…")
        assert HELLO.startswith(heard[:-1])
        assert 3 <= len(heard.split()) <= 6
        await asyncio.sleep(0)
        assert made.pipeline.output.announced == [True, False]


async def test_a_mark_that_comes_back_after_the_interruption_proves_nothing() -> None:
    async with call() as made:
        await made.start()
        name = (await made.receive("mark"))["mark"]["name"]
        made.pipeline.output.interrupt()
        await made.echo(name)
        await made.media()
        await made.hear(160)
        assert [each.kind for each in made.all(Entry)] == ["greeting", "spoken", "interrupted"]
        made.serving.flush_oddities()
        assert made.all(Counted) == []


async def test_an_interruption_stops_what_was_not_sent_yet_of_a_long_greeting() -> None:
    async with call(recordings={"greeting": recording("greeting", 30)}) as made:
        await made.start()
        await made.until_told(FirstMedia)
        rest = made.serving._direct._rest
        assert rest is not None
        made.pipeline.output.interrupt()
        with contextlib.suppress(asyncio.CancelledError):
            await rest
        assert rest.cancelled()
        assert 5 * RATE <= made.pipeline.output.playout.sent_bytes < 6 * RATE


async def test_marks_of_sentences_are_journaled_as_heard() -> None:
    async with call() as made:
        await made.start()
        await made.receive("mark")
        names = [made.pipeline.output.mark(text) for text in ("First.", "Second.")]
        await made.echo(names[1])
        entries = await made.until_told(Entry, 3)
        assert (entries[2].kind, entries[2].text) == ("heard", f"{HELLO} First. Second.")


async def test_oddities_are_counted_and_told_only_when_flushed() -> None:
    async with call() as made:
        await made.start()
        await made.receive("mark")
        for _ in range(500):
            await made.peer.text("{nonsense")
        await made.peer.send(masked(Opcode.BINARY, b"\x00"))
        await made.peer.text('{"event":"media","streamSid":"MZ99","media":{"payload":"f39/"}}')
        await made.echo("7:7")
        await made.media()
        await made.hear(160)
        assert made.all(Counted) == []
        made.serving.flush_oddities()
        counted = {each.oddity: each.times for each in made.all(Counted)}
        assert counted == {
            Oddity.INVALID_JSON: 500, Oddity.BINARY_FRAME: 1, Oddity.WRONG_STREAM: 1, Oddity.UNKNOWN_MARK: 1,
        }  # fmt: skip
        made.serving.flush_oddities()
        assert len(made.all(Counted)) == 4


async def test_keys_are_taken_and_nothing_happens() -> None:
    async with call() as made:
        await made.start()
        await made.send("dtmf", dtmf={"track": "inbound_track", "digit": "5"})
        await made.media()
        await made.hear(160)
        assert made.all(Ending) == []


# --- the end ----------------------------------------------------------------------------------------------------------


async def test_a_start_for_another_call_closes_with_a_policy_violation() -> None:
    async with call() as made:
        await made.start(call_sid="CA99")
        (frame,) = await made.peer.frames(1)
        assert frame.opcode is Opcode.CLOSE
        await made.peer.flush()
        assert await made.ended() is EndReason.TICKET_MISMATCH
        assert made.peer.ws.close_rcvd is not None
        assert made.peer.ws.close_rcvd.code == CloseCode.POLICY_VIOLATION
        assert made.all(FirstMedia) == []
        assert made.all(StreamStarted) == []


async def test_without_a_start_in_its_time_the_call_ends() -> None:
    async with call(start_timeout=0.05) as made:
        assert (await made.peer.frames(1))[0].opcode is Opcode.CLOSE
        await made.peer.flush()
        assert await made.ended() is EndReason.START_TIMEOUT


async def test_a_start_that_comes_too_late_greets_nobody() -> None:
    async with call(start_timeout=0.05, confirm=False) as made:
        await made.until_told(Ending)
        await made.start()
        frames = await made.peer.frames(1)
        assert frames[0].opcode is Opcode.CLOSE
        assert made.all(FirstMedia) == []
        await made.peer.flush()
        assert await made.ended() is EndReason.START_TIMEOUT


async def test_a_carrier_that_falls_silent_is_gone() -> None:
    async with call(silence_timeout=0.1) as made:
        await made.start()
        await made.media()
        assert await made.ended() is EndReason.STREAM_SILENT


async def test_a_call_may_not_last_for_ever_and_ends_with_a_goodbye_that_is_heard() -> None:
    """What the agent is saying is finished first; then nothing is asked, heard or answered any more."""
    clips = {"greeting": recording("greeting", 0.1), "goodbye": recording("goodbye", 0.4, "Goodbye.")}
    async with call(recordings=clips, max_call_duration=0.3) as made:
        await made.start()
        await made.receive("mark")
        greeted = len([each for each in made.messages if each["event"] == "media"])
        made.pipeline.quiet.clear()  # in the middle of an answer
        await eventually(lambda: made.pipeline.gate_closed)
        assert made.pipeline.hushed == 0
        await made.media()
        made.pipeline.quiet.set()
        name = (await made.receive("mark"))["mark"]["name"]
        assert made.pipeline.hushed == 1
        assert not made.pipeline.listener.heard, "the last word is the agent's"
        media = [each for each in made.messages if each["event"] == "media"][greeted:]
        assert sum(len(base64.b64decode(each["media"]["payload"])) for each in media) == 0.4 * RATE
        assert made.all(Ending) == []
        await made.echo(name)
        assert await made.ended() is EndReason.MAX_DURATION


async def test_a_goodbye_longer_than_the_burst_is_whole() -> None:
    clips = {"goodbye": recording("goodbye", 5.6, "Goodbye.")}
    async with call(agent=Agent(), recordings=clips, greeting_audio_enabled=False) as made:
        await made.start()
        await made.until_told(StreamStarted)
        leaving = asyncio.create_task(made.serving.session.hang_up())
        name = (await made.receive("mark"))["mark"]["name"]
        media = [each for each in made.messages if each["event"] == "media"]
        assert sum(len(base64.b64decode(each["media"]["payload"])) for each in media) == 5.6 * RATE
        await made.echo(name)
        await leaving


async def test_a_call_that_never_started_ends_without_a_goodbye() -> None:
    async with call() as made:
        await made.serving.dismiss(EndReason.DRAINED)
        assert await made.ended() is EndReason.DRAINED


# --- a caller who says nothing ----------------------------------------------------------------------------------------


async def asked(made: Call, times: int = 1) -> None:
    """Let the pipeline find the caller silent, and wait until the agent has asked so often."""
    made.pipeline.on_idle()
    await eventually(lambda: len(made.pipeline.spoken) >= times)


async def test_a_silent_caller_is_asked_once_and_then_told_goodbye() -> None:
    clips = {"goodbye": recording("goodbye", 0.1, "Goodbye.")}
    async with call(recordings=clips, caller_silence_timeout=0.05) as made:
        await made.start()
        await made.until_told(StreamStarted)
        await asked(made)
        assert made.pipeline.spoken == ["Are you still there?"]
        assert made.pipeline.output.asks, "a yes over it is an answer"
        made.serving.replied(time.monotonic())  # the question's own audio
        assert made.serving._replies == 0, "a question answers nothing: who hangs up now has heard no answer"
        made.pipeline.on_idle()
        await made.echo((await made.receive("mark"))["mark"]["name"])
        assert await made.ended() is EndReason.CALLER_SILENT
        assert made.pipeline.spoken == ["Are you still there?"]


@pytest.mark.parametrize("by", ["words", "key"])
async def test_a_caller_who_gives_a_sign_is_asked_again_the_next_time(by: str) -> None:
    async with call(recordings={}, caller_silence_timeout=0.01) as made:
        await made.start()
        await made.until_told(StreamStarted)
        await asked(made)
        if by == "words":
            made.serving.caller_spoke("words")
        else:
            await made.send("dtmf", dtmf={"digit": "5"})
            await made.media()
            await made.hear(160)
        await asked(made, 2)
        assert made.serving.reason is None


async def test_nobody_is_asked_while_the_agent_thinks_or_the_caller_talks() -> None:
    async with call(recordings={}, caller_silence_timeout=0.01) as made:
        await made.start()
        await made.until_told(StreamStarted)
        made.pipeline.waits_for_caller = False
        made.pipeline.on_idle()
        await made.serving._patience._giving_up  # type: ignore[misc] # the wait that was just begun
        made.pipeline.waits_for_caller = True
        await asked(made)
        assert len(made.pipeline.spoken) == 1


async def test_the_silence_begins_when_the_caller_has_heard_the_agent_out() -> None:
    """The pipeline has written everything up to a second before that."""
    async with call(recordings={}, caller_silence_timeout=0.05) as made:
        await made.start()
        await made.until_told(StreamStarted)
        now = time.monotonic()
        made.pipeline.output.playout.sent(int(0.3 * RATE), now)
        await asked(made)
        assert time.monotonic() - now >= 0.3 + 0.05


async def test_a_caller_who_speaks_into_the_goodbye_of_silence_stays() -> None:
    clips = {"goodbye": recording("goodbye", 2, "Goodbye.")}
    async with call(recordings=clips, caller_silence_timeout=0.01) as made:
        await made.start()
        await made.until_told(StreamStarted)
        await asked(made)
        made.pipeline.on_idle()
        await made.receive("mark")
        made.pipeline.output.interrupt()
        with contextlib.suppress(asyncio.CancelledError):
            await made.serving._patience._giving_up  # type: ignore[misc] # it was given up
        assert made.serving.reason is None
        await made.media()
        await made.hear(160)


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        (Agent(), "Are you still there?"),
        (Agent(language="pt-BR"), "Você ainda está aí?"),
        (Agent(language="fi"), "Are you still there?"),
        (Agent(language="fi", still_there="Oletko vielä siellä?"), "Oletko vielä siellä?"),
    ],
)
async def test_a_silent_caller_is_asked_in_the_agents_words(agent: Agent, words: str) -> None:
    async with call(agent=agent, recordings={}, caller_silence_timeout=0.01) as made:
        await made.start()
        await made.until_told(StreamStarted)
        await asked(made)
        assert made.pipeline.spoken == [words]


async def test_without_a_recording_in_its_language_the_voice_says_goodbye() -> None:
    clips = {"goodbye": recording("goodbye", 0.1, "Goodbye.")}
    async with call(agent=Agent(language="pt"), recordings=clips) as made:
        await made.start()
        await made.until_told(StreamStarted)
        leaving = asyncio.create_task(made.serving.session.hang_up())
        await made.echo((await made.receive("mark"))["mark"]["name"])
        await leaving
        assert made.pipeline.spoken == ["Até logo."]


@pytest.mark.parametrize("by", ["stop", "close"])
@pytest.mark.parametrize(
    ("progress", "reason"),
    [
        ("connected", EndReason.HANGUP_BEFORE_START),
        ("started", EndReason.HANGUP_BEFORE_REPLY),
        ("replied", EndReason.CALLER_HANGUP),
    ],
)
async def test_a_hang_up_says_how_far_the_call_had_come(by: str, progress: str, reason: EndReason) -> None:
    async with call() as made:
        if progress != "connected":
            await made.start()
            await made.receive("mark")
        if progress == "replied":
            made.serving.replied(time.monotonic())
        if by == "stop":
            await made.send("stop")
        await hang_up_by_peer(made)
        assert await made.ended() is reason


async def test_a_broken_connection_is_a_lost_stream() -> None:
    async with call() as made:
        await made.start()
        await made.receive("mark")
        made.peer.sock.shutdown(socket.SHUT_WR)
        assert await made.ended() is EndReason.STREAM_LOST


async def test_garbage_and_giants_are_protocol_errors() -> None:
    async with call() as made:
        await made.start()
        await made.receive("mark")
        await made.peer.send(masked(Opcode.TEXT, b"x" * 70_000))
        assert await made.ended() is EndReason.PROTOCOL_ERROR
        assert made.all(Counted) == [Counted(oddity=Oddity.OVERSIZE_FRAME)]
        assert made.told.index(made.all(Counted)[0]) < made.told.index(made.all(Ending)[0])


async def test_the_first_reason_counts() -> None:
    async with call() as made:
        made.serving.end(EndReason.DRAINED)
        made.serving.end(EndReason.AGENT_HANGUP)
        assert made.serving.reason is EndReason.DRAINED
        await made.peer.frames(1)
        await made.peer.flush()
        assert await made.ended() is EndReason.DRAINED


async def test_the_stream_stays_open_until_the_end_reason_is_stored() -> None:
    async with call(confirm=False) as made:
        made.serving.end(EndReason.AGENT_HANGUP)
        await made.until_told(Ending)
        await made.peer.send(masked(Opcode.PING, b"still open?"))
        assert (await made.peer.frames(1))[0].opcode is Opcode.PONG
        made.serving.end_stored.set()
        assert (await made.peer.frames(1))[0].opcode is Opcode.CLOSE
        await made.peer.flush()
        await made.ended()


async def test_a_pool_that_does_not_confirm_does_not_keep_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.call.ending.USUAL_WAIT_S", 0.02)
    async with call(confirm=False) as made:
        made.serving.end(EndReason.AGENT_HANGUP)
        assert (await made.peer.frames(1))[0].opcode is Opcode.CLOSE
        await made.peer.flush()
        assert await made.ended() is EndReason.AGENT_HANGUP


# --- the goodbye ------------------------------------------------------------------------------------------------------


async def test_the_agents_goodbye_is_heard_before_the_call_ends() -> None:
    async with call() as made:
        await made.start()
        await made.receive("mark")
        made.pipeline.spoke = True
        made.pipeline.quiet.clear()
        leaving = asyncio.create_task(made.serving.session.hang_up())
        await asyncio.sleep(0)
        assert made.pipeline.output.playout._count == 1  # it waits for the voice before it sends its mark
        made.pipeline.quiet.set()
        name = (await made.receive("mark"))["mark"]["name"]
        assert made.all(Ending) == []
        await made.echo(name)
        await leaving
        await hang_up_by_peer(made)
        assert await made.ended() is EndReason.AGENT_HANGUP


async def test_an_agent_that_says_nothing_lets_the_goodbye_clip_speak() -> None:
    clips = {"greeting": recording("greeting", 0.1), "goodbye": recording("goodbye", 0.4, "Goodbye.")}
    async with call(recordings=clips) as made:
        await made.start()
        await made.receive("mark")
        greeted = len([each for each in made.messages if each["event"] == "media"])
        leaving = asyncio.create_task(made.serving.session.hang_up())
        name = (await made.receive("mark"))["mark"]["name"]
        media = [each for each in made.messages if each["event"] == "media"][greeted:]
        assert sum(len(base64.b64decode(each["media"]["payload"])) for each in media) == 0.4 * RATE
        await made.echo(name)
        await leaving
        await hang_up_by_peer(made)
        assert await made.ended() is EndReason.AGENT_HANGUP


async def test_a_goodbye_clip_in_another_language_is_not_played() -> None:
    clips = {"goodbye": recording("goodbye", 0.4, "Goodbye.", "en")}
    async with call(agent=Agent(language="pt-BR"), recordings=clips) as made:
        await made.start()
        await made.until_told(StreamStarted)
        leaving = asyncio.create_task(made.serving.session.hang_up())
        name = (await made.receive("mark"))["mark"]["name"]
        assert [each["event"] for each in made.messages] == ["mark"]
        await made.echo(name)
        await leaving


async def test_a_goodbye_nobody_confirms_ends_the_call_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.call.farewell.ECHO_WAIT_S", 0.02)
    monkeypatch.setattr("worker.call.farewell.FAREWELL_WAIT_S", 0.02)
    async with call(recordings={}) as made:
        await made.start()
        await made.until_told(StreamStarted)
        made.pipeline.spoke = True
        made.pipeline.quiet.clear()  # the voice never comes
        async with asyncio.timeout(DEADLINE_S):
            await made.serving.session.hang_up()
        assert made.serving.reason is EndReason.AGENT_HANGUP


async def test_a_caller_who_speaks_into_the_goodbye_keeps_the_call() -> None:
    async with call() as made:
        await made.start()
        await made.receive("mark")
        leaving = asyncio.create_task(made.serving.session.hang_up())
        await made.receive("mark")
        leaving.cancel()  # what Pipecat does to a tool at an interruption
        made.pipeline.output.interrupt()
        await made.media()
        await made.hear(160)
        assert made.serving.reason is None


async def test_a_call_that_we_end_hears_the_agent_out_and_then_the_goodbye() -> None:
    clips = {"greeting": recording("greeting", 0.1), "goodbye": recording("goodbye", 0.4, "Goodbye.")}
    async with call(recordings=clips) as made:
        await made.start()
        await made.receive("mark")
        made.pipeline.quiet.clear()
        dismissed = asyncio.create_task(made.serving.dismiss(EndReason.DRAINED))
        await asyncio.sleep(0)
        assert made.pipeline.output.playout._count == 1  # the goodbye waits for the agent
        made.pipeline.quiet.set()
        name = (await made.receive("mark"))["mark"]["name"]
        sound = [each for each in made.messages if each["event"] == "media"]
        assert sum(len(base64.b64decode(each["media"]["payload"])) for each in sound) == 0.5 * RATE
        assert made.all(Ending) == []
        await made.echo(name)
        await dismissed
        await hang_up_by_peer(made)
        assert await made.ended() is EndReason.DRAINED


async def test_a_call_that_has_not_started_is_ended_without_a_word() -> None:
    async with call() as made:
        await made.serving.dismiss(EndReason.DRAINED)
        await hang_up_by_peer(made)
        assert await made.ended() is EndReason.DRAINED


async def test_an_orphaned_call_keeps_its_stream_until_its_end_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.call.ending.USUAL_WAIT_S", 0.0)
    async with call(confirm=False) as made:
        await made.start()
        await made.receive("mark")
        made.serving.end_stored.allow(DEADLINE_S)
        made.serving.end(EndReason.AGENT_HANGUP)
        await made.until_told(Ending)
        await made.media()
        await made.hear(160)
        assert made.all(Closed) == []
        made.serving.end_stored.set()
        await hang_up_by_peer(made)
        assert await made.ended() is EndReason.AGENT_HANGUP


async def test_the_wait_for_the_end_to_be_stored_can_be_changed_while_it_lasts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As when the pool is lost after it was told, and before it answered."""
    monkeypatch.setattr("worker.call.ending.USUAL_WAIT_S", 3600.0)
    async with call(confirm=False) as made:
        await made.start()
        await made.receive("mark")
        made.serving.end(EndReason.AGENT_HANGUP)
        await made.until_told(Ending)
        made.serving.end_stored.allow(0.0)
        await hang_up_by_peer(made)
        assert await made.ended() is EndReason.AGENT_HANGUP


# --- after a predecessor ----------------------------------------------------------------------------------------------

CLIPS = {"greeting": recording("greeting", 2), "bridging": recording("bridging", 0.5, "One moment.")}
LISTENING = Memory(messages=({"role": "user", "content": "Hi."},), demands=1, talked=True)
THINKING = Memory(messages=({"role": "user", "content": "Hi."},), owed=True, demands=1)


def resume(*, stream_sid: str | None = "MZ01", bridged: bool = False) -> Resume:
    """Lose a worker."""
    sid = None if stream_sid is None else StreamSid(stream_sid)
    return Resume(number=1, stream_sid=sid, bridged=bridged)


async def test_who_was_listened_to_hears_nothing_of_it() -> None:
    async with call(recordings=CLIPS, after=After(resume(), LISTENING)) as made:
        await made.pipeline.until(lambda: made.pipeline.recalled)
        assert made.pipeline.recalled is LISTENING
        assert made.all(Entry) == []
        (resumed,) = made.all(Resumed)
        assert resumed.at <= time.monotonic()
        await made.media(b"\x07" * 160)
        await made.hear(160)
        await made.peer.send(masked(Opcode.PING, b"anything?"))
        (frame,) = await made.peer.frames(1)
        assert frame.opcode is Opcode.PONG, "nothing was sent before"
        assert made.all(FirstMedia) == [], "a resumed call is no second greeting"


async def test_who_waits_for_an_answer_hears_bridging_words_at_once_and_then_the_answer() -> None:
    async with call(recordings=CLIPS, after=After(resume(), THINKING)) as made:
        await made.receive("clear")
        media = await made.receive("media")
        assert len(base64.b64decode(media["media"]["payload"])) == 160
        assert [each.kind for each in made.all(Entry)] == ["cleared"]
        await made.pipeline.until(lambda: made.pipeline.recalled)
        assert made.all(Resumed)


async def test_who_has_heard_the_keepers_words_hears_no_second_ones() -> None:
    async with call(recordings=CLIPS, after=After(resume(bridged=True), THINKING)) as made:
        await made.pipeline.until(lambda: made.pipeline.recalled)
        await made.media()
        await made.peer.send(masked(Opcode.PING, b"anything?"))
        assert (await made.peer.frames(1))[0].opcode is Opcode.PONG
        assert [each.kind for each in made.all(Entry)] == ["cleared"]


async def test_a_greeting_that_was_sent_is_not_sent_again_and_can_still_be_interrupted() -> None:
    begun = Greeting(HELLO, "0:1", time.time() - 1.0, sent=True)
    memory = Memory(messages=({"role": "assistant", "content": HELLO},), greeting=begun, pending=(Mark("0:1", HELLO),))
    async with call(recordings=CLIPS, after=After(resume(), memory)) as made:
        await made.pipeline.until(lambda: made.pipeline.recalled)
        assert made.pipeline.output.playout.lead(time.monotonic()) > 0
        made.pipeline.context = [HELLO]
        made.pipeline.output.interrupt()
        (entry,) = made.all(Entry)
        assert entry.kind == "interrupted"
        assert entry.text.endswith("…")
        assert made.pipeline.context == [entry.text]
        assert not [each for each in made.messages if each["event"] == "media"]


async def test_the_mark_of_a_predecessors_greeting_proves_it_heard() -> None:
    begun = Greeting(HELLO, "0:1", time.time() - 60.0, sent=True)
    memory = Memory(messages=({"role": "assistant", "content": HELLO},), greeting=begun, pending=(Mark("0:1", HELLO),))
    async with call(recordings=CLIPS, after=After(resume(), memory)) as made:
        await made.echo("0:1")
        (entry,) = await made.until_told(Entry)
        assert (entry.kind, entry.text, entry.key) == ("heard", HELLO, "0:1")


async def test_a_greeting_in_which_the_predecessor_halted_goes_on_from_a_little_before() -> None:
    whole = CLIPS["greeting"].clip.audio
    halted = len(whole) // 2
    begun = Greeting(HELLO, "0:1", time.time() - 9.0, sent=False, halted=halted)
    memory = Memory(messages=({"role": "assistant", "content": HELLO},), greeting=begun, pending=(Mark("0:1", HELLO),))
    async with call(recordings=CLIPS, after=After(resume(), memory)) as made:
        assert (await made.receive("mark"))["mark"]["name"] == "0:1"
        media = [each["media"]["payload"] for each in made.messages if each["event"] == "media"]
        sent = b"".join(base64.b64decode(payload) for payload in media)
        assert whole.endswith(sent)
        assert 0 <= len(sent) - (len(whole) - halted) < 1600, "a piece at most is heard twice"
        assert made.pipeline.output.playout.sent_bytes == len(whole)
        made.pipeline.context = [HELLO]
        made.pipeline.output.interrupt()
        assert made.pipeline.context[0].endswith("…")


@pytest.mark.parametrize("more", [0, 1600], ids=["the burst", "and a piece"])
async def test_the_rest_of_a_long_greeting_follows_with_its_mark(more: int) -> None:
    """The predecessor had sent the burst of 5 s at once, and some of what follows it."""
    long = {**CLIPS, "greeting": recording("greeting", 5.5)}
    burst_size = burst(long["greeting"], "MZ01")[2]
    begun = Greeting(HELLO, "0:1", time.time(), sent=False, size=more and burst_size + more)
    memory = Memory(messages=({"role": "assistant", "content": HELLO},), greeting=begun, pending=(Mark("0:1", HELLO),))
    async with call(recordings=long, after=After(resume(), memory)) as made:
        mark = await made.receive("mark")
        assert mark["mark"]["name"] == "0:1"
        sent = [len(base64.b64decode(each["media"]["payload"])) for each in made.messages if each["event"] == "media"]
        assert 5.5 * RATE - sum(sent) == burst_size + more
        assert made.pipeline.output.playout.sent_bytes == 5.5 * RATE
        kinds = [each.kind for each in await made.until_told(Entry, len(sent) + 1)]
        assert kinds == ["sent"] * len(sent) + ["spoken"]


async def test_a_greeting_of_the_voice_begins_again() -> None:
    memory = Memory(greeting=Greeting("Good morning.", "", time.time(), sent=False))
    agent = Agent(greeting="Good morning.")
    async with call(agent=agent, after=After(resume(), memory), greeting_audio_enabled=False) as made:
        await made.receive("clear")
        await made.pipeline.until(lambda: made.pipeline.spoken)
        assert made.pipeline.spoken == ["Good morning."]


async def test_an_agent_that_greets_with_nothing_does_not_say_nothing_again() -> None:
    memory = Memory(greeting=Greeting("", "", time.time(), sent=False))
    async with call(recordings={}, after=After(resume(), memory)) as made:
        await made.pipeline.until(lambda: made.pipeline.recalled is not None)
        assert made.pipeline.spoken == []


async def test_a_predecessor_that_read_start_and_told_nobody_is_joined_and_the_greeting_begins_anew() -> None:
    async with call(recordings=CLIPS, after=After(resume(stream_sid=None))) as made:
        await made.media()
        await made.receive("clear")
        media = await made.receive("media")
        assert media["streamSid"] == "MZ01"
        assert (await made.until_told(StreamStarted))[0].stream_sid == "MZ01"
        assert len(await made.until_told(Resumed)) == 1


async def test_a_predecessor_that_had_read_nothing_is_no_loss() -> None:
    async with call(recordings=CLIPS, after=After(resume(stream_sid=None))) as made:
        await made.start()
        await made.receive("mark")
        assert {each["event"] for each in made.messages} == {"media", "mark"}
        assert len(made.all(Resumed)) == 1


async def test_what_was_said_to_the_predecessor_is_heard_before_what_is_said_now() -> None:
    """In pieces as they come from a carrier: a voice within one large piece would not be noticed."""
    tape = Tape(make_tape())
    said = bytes(range(1, 201)) * 16
    tape.write(said)
    async with call(recordings=CLIPS, after=After(resume(), LISTENING, tape)) as made:
        await made.media(b"\x07" * 160)
        await made.hear(len(said) + 160)
        assert bytes(made.pipeline.listener.heard) == said + b"\x07" * 160
        assert max(made.pipeline.listener.sizes) <= 160
        assert tape.unheard() == said + b"\x07" * 160, "and is kept for the next successor"


async def test_the_tape_follows_the_voice_and_is_let_go_when_words_are_written_down() -> None:
    tape = Tape(make_tape())
    async with call(recordings=CLIPS, after=After(resume(), LISTENING, tape)) as made:
        made.serving.hearing.voice(True, 0)
        await made.media(b"\x07" * 160)
        await made.hear(160)
        made.serving.hearing.voice(False, 160)
        await made.media(b"\x08" * 160)
        await made.hear(320)
        made.serving.caller_spoke("Seven.")
        assert tape.unheard() == b"\x08" * 160


@pytest.mark.parametrize(
    ("memory", "reason"), [(LISTENING, EndReason.CALLER_HANGUP), (THINKING, EndReason.HANGUP_BEFORE_REPLY)]
)
async def test_a_hang_up_after_a_resume_knows_whether_the_agent_had_answered(memory: Memory, reason: EndReason) -> None:
    async with call(recordings=CLIPS, after=After(resume(), memory)) as made:
        await made.pipeline.until(lambda: made.pipeline.recalled)
        await made.send("stop")
        await hang_up_by_peer(made)
        assert await made.ended() is reason


async def test_a_call_that_comes_back_on_another_stream_is_taken_up_where_it_was() -> None:
    async with call(recordings=CLIPS, after=After(None, LISTENING)) as made:
        await made.start()
        await made.receive("media")
        await made.pipeline.until(lambda: made.pipeline.recalled)
        assert made.pipeline.recalled is LISTENING
        assert made.all(Entry) == []


async def test_an_end_that_the_pool_does_not_confirm_is_stored_by_the_worker_before_the_stream_closes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A pool that is frozen may be taken for dead by the time the carrier asks."""
    monkeypatch.setattr("worker.call.ending.USUAL_WAIT_S", 0.02)
    async with call(confirm=False) as made:
        closed_before: list[int] = []

        def keep_records() -> bool:
            closed_before.append(len(made.all(Closed)))
            made.serving.end_stored.set()
            return True

        made.serving.on_unconfirmed = keep_records
        await made.start()
        await made.receive("mark")
        made.serving.end(EndReason.AGENT_HANGUP)
        await hang_up_by_peer(made)
        assert await made.ended() is EndReason.AGENT_HANGUP
        assert closed_before == [0]
