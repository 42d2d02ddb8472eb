"""What any process of our user can write to a pool's control socket, and what a worker gone wrong can write to its own.

Whatever comes, with whatever descriptors: the connection is kept or closed, the pool goes on answering everybody else, and
nothing is left open.
"""

from __future__ import annotations

import base64
import json
import os
import socket
from typing import TYPE_CHECKING, Any

from hypothesis import example, given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.uri import parse_uri

from shared.calls import CallSid, IncomingCall, TraceId
from shared.channel import receive_datagram
from shared.framing import FROM_POOL, encode
from shared.messages import Hello, Ready, Reserve, Reserved, Welcome
from tests.effort import effort
from tests.fuzz.pool_rig import POOL, Rig, write

if TYPE_CHECKING:
    from collections.abc import Callable

SID = CallSid("CA" + "f" * 32)


def upgrade_head() -> bytes:
    """Write the head of a sound upgrade."""
    client = ClientProtocol(parse_uri("ws://voice.example/media/x"))
    client.send_request(client.connect())
    return b"".join(client.data_to_send())


NESTED = b'{"type":"hello","x":' + b"[" * 30_000
"""Deeper than a decoder can go; less than a datagram may hold."""

# --- what is written --------------------------------------------------------------------------------------------------

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=10)
    | st.sampled_from(["p1", "b00t", SID, 1e300, -1e300, 0, 30.0, 2**63, 2**64, "GET / HTTP/1.1\r\n\r\n"])
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4), max_leaves=8
)  # fmt: skip


def message(name: str, /, **fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Give messages of one kind: sound ones (`fields` are sound values), and those with one field wrong or missing."""
    sound = {"type": name} | fields
    names = st.sampled_from(sorted(sound))
    return st.one_of(
        st.just(sound),
        st.just(sound),
        st.just(sound),
        st.tuples(names, values).map(lambda wrong: {**sound, wrong[0]: wrong[1]}),
        names.map(lambda missing: {name: value for name, value in sound.items() if name != missing}),
    )


CALL = {"call_sid": SID, "caller": "+1", "called": "+2", "trace_id": "0" * 32}
HEAD = base64.b64encode(upgrade_head()).decode()
tickets = st.tuples(
    st.just(SID), st.integers(0, 1), st.sampled_from(["p1", "p2"]), st.sampled_from(["b00t", "other"]), st.just("0-1"),
    st.just("0" * 32), st.sampled_from([0, 2**40]),
).map(list)  # fmt: skip
from_routers = st.one_of(
    message("hello", version=1),
    message("hello", version=2),
    message("reserve", request=1, call=CALL, ttl_s=30.0),
    st.tuples(st.sampled_from(sorted(CALL)), values).flatmap(
        lambda wrong: message("reserve", request=1, call={**CALL, wrong[0]: wrong[1]}, ttl_s=30.0)
    ),
    tickets.flatmap(lambda ticket: message("handoff", ticket=ticket, head=HEAD, accepted_at=0.0)),
    st.lists(values, min_size=7, max_size=7).flatmap(
        lambda ticket: message("handoff", ticket=ticket, head=HEAD, accepted_at=0.0)
    ),
    message("handoff", ticket=[SID, 0, "p2", "b", "0-1", "0", 2**40], head="R0VUIC8gSFRUUC8xLjENCg0K", accepted_at=0.0),
    message("askend", request=1, call_sid=SID, attempt=0),
    message("noprefetch", call_sid=SID, why="not_queued"),
    message("ready", build_s=0.1),
)
from_workers = st.one_of(
    message("ready", build_s=0.1),
    message("warmfailed", resource="tts", detail="x", traceback="x"),
    message("beat", warm={"tools": True, "vad": True, "turn": True, "tts": True}, lag_s=0.0),
    message("providerlost", resource="tts", detail="x"),
    message("observed", timing="turn", seconds=0.1, stage="stt"),
    message("observed", timing="loop_lag", seconds=0.1),
    message("started", stream_sid="MZ1"),
    message("firstmedia", at=0.0),
    message("resumed", at=0.0),
    message("entry", kind="user", text="hello", at=0.0, key=""),
    message("counted", oddity="binary_frame", times=2),
    message("ending", reason="caller_hangup"),
    message("closed"),
    message("bind", call=CALL),
)


def as_json(message: dict[str, Any]) -> bytes:
    """Write it as Python does: also what is not JSON (NaN), and lone surrogates."""
    return json.dumps(message).encode()


def datagrams(messages: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[bytes]:
    """Give bytes: of messages that could be meant, of damaged ones, of none."""
    sound = messages.map(as_json)
    damaged = st.tuples(sound, st.integers(0, 2000), st.binary(max_size=4)).map(
        lambda it: it[0][: it[1] % len(it[0])] + it[2] + it[0][it[1] % len(it[0]) + len(it[2]) :]
    )
    return st.one_of(sound, sound, sound, sound, sound, damaged, st.binary(max_size=200))


KINDS: dict[str, Callable[[], int]] = {
    "file": lambda: os.open("/dev/null", os.O_RDONLY),
    "folder": lambda: os.open("/", os.O_RDONLY),
    "caller": lambda: _one(*socket.socketpair()),
    "datagrams": lambda: _one(*socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)),
    "listening": lambda: socket.create_server(("127.0.0.1", 0)).detach(),
    "unconnected": lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).detach(),
    "event": lambda: os.eventfd(0),
}
"""Descriptors that are not a caller's socket, and one that is like it."""


def _one(ours: socket.socket, theirs: socket.socket) -> int:
    theirs.close()
    return ours.detach()


descriptors = st.sampled_from(sorted(KINDS)).map(lambda kind: [kind]) | st.lists(
    st.sampled_from(sorted(KINDS)), max_size=6
)
"""Four fit a message, so more truncate it."""


def send(sock: socket.socket, data: bytes, kinds: list[str]) -> None:
    """Write a datagram with descriptors, and forget them."""
    fds = [KINDS[kind]() for kind in kinds]
    write(sock, data, fds)
    for fd in fds:
        os.close(fd)


# --- routers ----------------------------------------------------------------------------------------------------------


class Line:
    """A router's end of a control connection, for whatever bytes."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.closed = False
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self.sock.connect(str(rig.handoff_dir / f"{POOL}.sock"))
        rig.turn()

    def ask(self, *messages: Hello | Reserve) -> list[Any]:
        """Say something sound, and give everything that the pool has said by then."""
        for message in messages:
            write(self.sock, encode(message), [])
            self.rig.turn()
        said: list[Any] = []
        try:
            while (received := receive_datagram(self.sock)) is not None:
                said.append(FROM_POOL(received[0]))
        except BlockingIOError:
            return said
        except ConnectionError:
            pass
        self.closed = True
        return said


def connected(rig: Rig, *, greeted: bool) -> Line:
    """Connect, and greet when wanted."""
    line = Line(rig)
    assert not greeted or any(isinstance(said, Welcome) for said in line.ask(Hello()))
    return line


def parked(rig: Rig) -> None:
    """Let two workers park."""
    for player in list(rig.players.values()):
        player.say(Ready(build_s=0.1))
        rig.birth(player)


def test_the_descriptors_of_this_test_can_be_made() -> None:
    for make in KINDS.values():
        os.close(make())


@effort(100)
@given(greeted=st.booleans(), sent=st.lists(st.tuples(datagrams(from_routers), descriptors), min_size=1, max_size=12))
@example(greeted=True, sent=[(NESTED, ["file", "caller"])])
@example(greeted=False, sent=[(b"", ["file"])])
def test_whatever_a_router_writes_the_pool_answers_the_next_one(
    *, greeted: bool, sent: list[tuple[bytes, list[str]]]
) -> None:
    rig = Rig()
    try:
        parked(rig)
        line = connected(rig, greeted=greeted)
        for data, kinds in sent:
            send(line.sock, data, kinds)
            rig.turn()
            line.ask()
            if line.closed:
                line.sock.close()
                line = connected(rig, greeted=greeted)
        line.sock.close()
        rig.turn()
        other = Line(rig)
        call = IncomingCall(call_sid=CallSid("CA" + "e" * 32), caller="", called="", trace_id=TraceId("0" * 32))
        said = other.ask(Hello(), Reserve(request=5, call=call, ttl_s=30.0))
        other.sock.close()
        assert isinstance(said[0], Welcome)
        assert any(getattr(each, "request", None) == 5 for each in said)
        assert len(sent) > 1 or any(isinstance(each, Reserved) for each in said)
    finally:
        left = rig.close()
    assert left == set()


@effort(100)
@given(
    state=st.sampled_from(["unborn", "warming", "ready", "reserved"]),
    sent=st.lists(st.tuples(datagrams(from_workers), descriptors), min_size=1, max_size=6),
)
@example(state="ready", sent=[(NESTED, ["file", "caller"])])
def test_whatever_a_worker_writes_it_alone_is_concerned(state: str, sent: list[tuple[bytes, list[str]]]) -> None:
    """The other worker of the pool can be reserved afterwards."""
    rig = Rig()
    try:
        players = list(rig.players.values())
        mad, sound = players
        if state != "unborn":
            rig.birth(mad)
        if state in {"ready", "reserved"}:
            mad.say(Ready(build_s=0.1))
            rig.turn()
        line = Line(rig)
        line.ask(Hello())
        call = IncomingCall(call_sid=SID, caller="", called="", trace_id=TraceId("0" * 32))
        if state == "reserved":
            line.ask(Reserve(request=1, call=call, ttl_s=30.0))
        for data, kinds in sent:
            send(mad.sock, data, kinds)
            rig.turn()
        sound.say(Ready(build_s=0.1))
        rig.birth(sound)
        worker = rig.worker(sound)
        assert worker is not None
        assert worker.state in {"ready", "reserved"}
        line.sock.close()
    finally:
        left = rig.close()
    assert left == set()
