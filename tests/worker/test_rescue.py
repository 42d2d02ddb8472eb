"""What becomes of a call that has lost its worker: the rule, and a caller who waits, on real sockets."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry
from websockets.frames import CloseCode, Opcode

from shared.agents import Agent, Agents
from shared.calls import CallEvent, CallSid, EndReason, IncomingCall, StreamSid, TraceId
from shared.journal import entry
from shared.metrics import Loss, PoolMetrics
from shared.ticket import Ticket
from shared.workers import PoolId, WorkerId
from tests.pool_process import DEADLINE_S, descriptors, eventually
from tests.worker.line import Peer, connected, masked
from worker.call.tape import Tape, make_tape
from worker.pool import rescue, waiting
from worker.pool.book import Book, Call
from worker.pool.customers import Customers
from worker.pool.house import House
from worker.pool.keeper import Keeper
from worker.pool.rescue import CAREFUL_FROM, MOST_DEATHS, Fate, Rescue, fate
from worker.pool.roster import Roster
from worker.pool.waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BRIDGING = b"\x11" * 400


@pytest.mark.parametrize(
    ("deaths", "ready", "expected"),
    [
        (1, 0, Fate.WAIT), (1, 1, Fate.WORKER), (1, 5, Fate.WORKER),
        (2, 0, Fate.WAIT), (2, 1, Fate.WAIT), (2, 2, Fate.WORKER),
        (3, 1, Fate.WAIT), (3, 2, Fate.WORKER),
        (4, 0, Fate.END), (4, 9, Fate.END), (5, 9, Fate.END),
    ],
)  # fmt: skip
def test_a_call_gets_a_worker_waits_or_ends(deaths: int, ready: int, expected: Fate) -> None:
    assert fate(deaths, ready) is expected


def test_a_call_that_costs_workers_never_gets_the_last_one() -> None:
    assert all(fate(deaths, 1) is not Fate.WORKER for deaths in range(CAREFUL_FROM, MOST_DEATHS + 3))
    assert MOST_DEATHS == 3, "three resumes in quick succession; the next death ends the call"


class Line:
    """A call without a worker: its caller, and what became of it."""

    def __init__(self) -> None:
        ours, theirs = connected()
        self.peer = Peer(theirs)
        trace = TraceId("0" * 32)
        incoming = IncomingCall(call_sid=CallSid("CA1"), caller="", called="", trace_id=trace)
        ticket = Ticket(incoming.call_sid, 0, PoolId("p"), "b", WorkerId("0-1"), trace, 0)
        self.call = Call(incoming, Agent(), ticket, 0.0, stream=ours, stream_sid=StreamSid("MZ1"), tape=make_tape())
        self.gone: list[EndReason] = []
        self.left = asyncio.Event()

    def wait(self, bridging: bytes = BRIDGING) -> Waiting:
        """Let it wait."""
        return Waiting(self.call, bridging, self._hung_up)

    def _hung_up(self, call: Call, why: EndReason) -> None:
        assert call is self.call
        self.gone.append(why)
        self.left.set()

    async def heard(self, count: int = 1) -> list[dict[str, Any]]:
        """Read messages of ours."""
        frames = await self.peer.frames(count)
        return [json.loads(bytes(frame.data)) for frame in frames if frame.opcode is Opcode.TEXT]

    async def media(self, ulaw: bytes) -> None:
        """Say something."""
        payload = base64.b64encode(ulaw).decode()
        await self.peer.text(json.dumps({"event": "media", "streamSid": "MZ1", "media": {"payload": payload}}))

    def taped(self) -> bytes:
        """What a successor would hear."""
        assert self.call.tape is not None
        tape = Tape(os.dup(self.call.tape))
        audio = tape.unheard()
        tape.close()
        return audio

    def close(self) -> None:
        """Let everything go."""
        self.peer.sock.close()
        if self.call.stream is not None:
            self.call.stream.close()
        if self.call.tape is not None:
            os.close(self.call.tape)


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    made = Line()
    yield made
    made.close()


async def test_a_waiting_caller_hears_bridging_words_again_and_again(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "EVERY_S", 0.01)
    waits = line.wait()
    for message in await line.heard(3):
        assert message["event"] == "media"
        assert message["streamSid"] == "MZ1"
        assert base64.b64decode(message["media"]["payload"]) == BRIDGING
    assert line.call.bridged
    waits.leave()


async def test_what_broke_off_is_taken_back_before_the_bridging_words(line: Line) -> None:
    line.call.journal += [entry("user", "A table, please."), entry("agent", "Gladly.", "0:2")]
    waits = line.wait()
    assert [message["event"] for message in await line.heard(2)] == ["clear", "media"]
    waits.leave()


async def test_what_was_sent_whole_is_left_to_be_played(line: Line) -> None:
    line.call.journal += [entry("greeting", "Hello.", "0:1"), entry("spoken", "", "0")]
    waits = line.wait()
    assert [message["event"] for message in await line.heard()] == ["media"]
    waits.leave()


async def test_what_a_waiting_caller_says_goes_on_the_tape_behind_what_was_said_before(line: Line) -> None:
    assert line.call.tape is not None
    tape = Tape(os.dup(line.call.tape))
    tape.written_down()
    tape.speech_began()
    tape.write(b"said to the dead worker,")
    tape.close()
    waits = line.wait()
    await line.heard()
    rest = b"x" * 30_000
    await line.media(b" and to nobody")
    await line.media(rest)
    await eventually(lambda: line.taped() == b"said to the dead worker, and to nobody" + rest or None)
    waits.leave()


async def test_the_rest_of_a_message_that_was_half_read_is_no_sound(line: Line) -> None:
    whole = masked(
        Opcode.TEXT, json.dumps({"event": "media", "streamSid": "MZ1", "media": {"payload": "eHg="}}).encode()
    )
    await line.peer.send(whole[9:])
    waits = line.wait()
    await line.media(b"next")
    await eventually(lambda: line.taped() == b"next" or None)
    waits.leave()


@pytest.mark.parametrize("how", ["stop", "close", "break"])
async def test_a_caller_who_leaves_while_waiting_is_noticed_once(line: Line, how: str) -> None:
    before = descriptors(os.getpid())
    waits = line.wait()
    await line.heard()
    if how == "stop":
        await line.peer.text('{"event": "stop", "streamSid": "MZ1"}')
    if how != "break":
        line.peer.ws.send_close(1000)
        await line.peer.flush()
    line.peer.sock.shutdown(1)
    async with asyncio.timeout(DEADLINE_S):
        await line.left.wait()
    waits.leave()
    assert line.gone == [EndReason.STREAM_LOST if how == "break" else EndReason.CALLER_HANGUP]
    await eventually(lambda: descriptors(os.getpid()) == before or None)
    assert len(line.gone) == 1


async def test_leaving_gives_everything_back_and_leaves_the_connection_open(line: Line) -> None:
    before = descriptors(os.getpid())
    waits = line.wait()
    await line.heard()
    waits.leave()
    waits.leave()
    await eventually(lambda: descriptors(os.getpid()) == before or None)
    assert line.call.stream is not None
    assert line.gone == []
    line.call.stream.send(b"from the next worker")
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(DEADLINE_S):
        assert await loop.sock_recv(line.peer.sock, 100) == b"from the next worker"
        await line.peer.send(b"to the next worker")
        line.call.stream.setblocking(False)
        assert await loop.sock_recv(line.call.stream, 100) == b"to the next worker"


async def test_leaving_before_anything_began_is_harmless(line: Line) -> None:
    before = descriptors(os.getpid())
    line.wait().leave()
    await asyncio.sleep(0)
    await eventually(lambda: descriptors(os.getpid()) == before or None)
    assert line.gone == []


async def test_a_stream_whose_start_nobody_has_read_is_left_for_the_next_worker(line: Line) -> None:
    line.call.stream_sid = None
    waits = line.wait()
    await line.peer.text('{"event": "connected"}')
    assert line.call.stream is not None
    line.call.stream.setblocking(False)
    async with asyncio.timeout(DEADLINE_S):
        assert await asyncio.get_running_loop().sock_recv(line.call.stream, 2) == b"\x81\x96"
    assert not line.call.bridged
    waits.leave()


def house(book: Book) -> House:
    """Make a pool's parts around a book, without any worker."""
    metrics = PoolMetrics(CollectorRegistry(), 1)
    roster = Roster(1, metrics)

    def ended(call: Call, reason: EndReason) -> None:
        book.end(call, reason, 0.0)

    return House(
        pool=PoolId("p"), boot="b", agents=lambda: Agents(default=Agent()), stt_most=0, recycle_after_s=60.0, roster=roster,
        book=book, keeper=Keeper(), customers=Customers(book, roster, None), metrics=metrics, ended=ended,
        changed=lambda: None,
    )  # fmt: skip


async def test_a_call_that_nobody_can_serve_is_given_up_after_a_while(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rescue, "WAIT_S", 0.01)
    book = Book()
    rescues = Rescue(house(book), None)
    book.add(line.call)
    for event in (CallEvent.RESERVE, CallEvent.BIND):
        book.step(line.call, event)
    rescues.worker_lost(line.call, Loss.DIED)
    assert rescues.waiting == 1
    frames = await line.peer.frames(1)
    assert frames[0].opcode is Opcode.CLOSE
    assert line.peer.ws.close_rcvd is not None
    assert line.peer.ws.close_rcvd.code == CloseCode.INTERNAL_ERROR
    assert line.call.reason is EndReason.WORKER_LOST
    assert rescues.waiting == 0
    assert line.call.tape is None
    assert await line.peer.at_end()


async def test_a_call_that_drains_away_is_not_resumed(line: Line) -> None:
    book = Book()
    rescues = Rescue(house(book), None)
    book.add(line.call)
    for event in (CallEvent.RESERVE, CallEvent.BIND):
        book.step(line.call, event)
    rescues.worker_lost(line.call, Loss.DRAINED)
    assert line.call.reason is EndReason.DRAINED
    assert rescues.waiting == 0


async def test_without_words_in_its_language_a_caller_waits_in_silence(line: Line) -> None:
    waits = line.wait(bridging=b"")
    await line.media(b"hello?")
    await eventually(lambda: line.taped() == b"hello?" or None)
    assert not line.call.bridged
    waits.leave()
