"""What can stand on a caller's connection: any bytes, cut anywhere, damaged anywhere, from the start or from the middle."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import TYPE_CHECKING, Any

from hypothesis import example, given
from hypothesis import strategies as st
from websockets.frames import Close, CloseCode, Frame, Opcode

from tests.effort import effort
from tests.worker.line import connected
from worker.call.media import Audio, Codec
from worker.call.resync import Find, next_message
from worker.call.stream import open_stream

if TYPE_CHECKING:
    from collections.abc import Callable

DEADLINE_S = 30.0


def media(number: int) -> bytes:
    """Write a message of the carrier's."""
    payload = base64.b64encode(bytes([number % 256]) * 160).decode()
    return json.dumps(
        {"event": "media", "sequenceNumber": str(number), "streamSid": "MZ01", "media": {"track": "inbound", "payload": payload}}
    ).encode()  # fmt: skip


SOUND = [
    b'{"event":"connected","protocol":"Call","version":"1.0.0"}',
    b'{"event":"start","sequenceNumber":"1","start":{"streamSid":"MZ01","callSid":"CA01","customParameters":{"a":"b"}},"streamSid":"MZ01"}',
    media(2),
    b'{"event":"dtmf","streamSid":"MZ01","sequenceNumber":"3","dtmf":{"track":"inbound_track","digit":"5"}}',
    b'{"event":"mark","sequenceNumber":"4","streamSid":"MZ01","mark":{"name":"1:2"}}',
    b'{"event":"stop","sequenceNumber":"5","stop":{"accountSid":"AC00","callSid":"CA01"},"streamSid":"MZ01"}',
]
sound = st.sampled_from(SOUND)
damaged = st.tuples(sound, st.integers(0, 400), st.integers(0, 8), st.binary(max_size=8)).map(
    lambda it: it[0][: it[1] % len(it[0])] + it[3] + it[0][it[1] % len(it[0]) + it[2] :]
)
swapped = st.tuples(sound, st.sampled_from([b'""', b"null", b"1e999", b"{}", b"[]", b"-0", b'"\\ud800"', b"[" * 20_000])).flatmap(
    lambda it: st.sampled_from([b'"MZ01"', b'"inbound"', b'"1"', b'{"name":"1:2"}', b'"5"']).map(
        lambda old: it[0].replace(old, it[1])
    )
)  # fmt: skip


@effort(300)
@given(messages=st.lists(sound | damaged | swapped | st.binary(max_size=50), max_size=8))
def test_damaged_messages_of_the_carrier_are_events_or_oddities(messages: list[bytes]) -> None:
    codec = Codec()
    for message in messages:
        event, oddity = codec.read(message)
        assert event is not None or oddity is not None
        assert not isinstance(event, Audio) or event.ulaw


# --- bytes on the wire ------------------------------------------------------------------------------------------------

CONTROL = {Opcode.PING, Opcode.PONG}
KINDS = st.sampled_from([Opcode.TEXT, Opcode.TEXT, Opcode.TEXT, Opcode.BINARY, Opcode.CONT, *sorted(CONTROL)])


def framed(kind: Opcode, data: bytes, *, fin: bool) -> bytes:
    """Write a frame as a client does; what controls the connection is short and whole."""
    if kind in CONTROL:
        data, fin = data[:125], True
    return Frame(kind, data, fin).serialize(mask=True)


frames = st.builds(framed, KINDS, sound | damaged, fin=st.just(True) | st.booleans())
closes = st.sampled_from(
    [Frame(Opcode.CLOSE, Close(CloseCode.NORMAL_CLOSURE, "").serialize()).serialize(mask=True),
     Frame(Opcode.CLOSE, b"\x00").serialize(mask=True)]
)  # fmt: skip
wires = st.lists(frames | closes | st.binary(max_size=20), max_size=6).map(b"".join)


class Heard:
    """A listener that counts."""

    def __init__(self) -> None:
        self.texts: list[bytes] = []
        self.ends = 0
        self.over = asyncio.Event()

    def text(self, data: bytes) -> None:
        """Take a message."""
        assert not self.ends
        self.texts.append(data)

    def binary(self) -> None:
        """Take none."""

    def oversize(self) -> None:
        """Leave it to the end."""

    def ended(self, _code: int | None) -> None:
        """Count the ends."""
        self.ends += 1
        self.over.set()


def on_the_loop(play: Callable[[Any], Any]) -> Any:
    """Open a stream on a connection, with everything that fails on its loop collected."""

    async def run() -> list[dict[str, Any]]:
        failures: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        async with asyncio.timeout(DEADLINE_S):
            await play(failures)
        return failures

    assert asyncio.run(run()) == []


@effort(100)
@given(wire=wires, cuts=st.lists(st.integers(0, 2000), max_size=4), resync=st.booleans())
@example(wire=b"\x81\xfe\xff\xff" + b"x" * 100, cuts=[], resync=False)
@example(wire=b"\x81" * 200, cuts=[1, 2], resync=True)
def test_any_bytes_end_a_stream_once_and_harm_nothing_else(wire: bytes, cuts: list[int], *, resync: bool) -> None:
    """Whatever comes, in whatever pieces: then the caller is gone, and the stream has ended, once."""

    async def play(_failures: Any) -> None:
        ours, theirs = connected()
        heard = Heard()
        stream = await open_stream(ours, heard, resync=resync)
        loop = asyncio.get_running_loop()
        with theirs:
            for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(wire)], strict=True):
                try:
                    await loop.sock_sendall(theirs, wire[start:end])
                except ConnectionError:
                    break
                await asyncio.sleep(0)
        await heard.over.wait()
        await stream.done
        assert heard.ends == 1

    on_the_loop(play)


# --- from the middle of a frame ---------------------------------------------------------------------------------------


@effort(300)
@given(data=st.binary(max_size=200) | wires, cut=st.integers(0, 200))
def test_looking_for_a_message_in_pieces_finds_what_looking_at_once_finds(data: bytes, cut: int) -> None:
    """What may still be a message is kept until it is decided: no order of arrival changes what is found."""
    at, found = next_message(data[:cut])
    whole = next_message(data)
    assert 0 <= at <= len(data[:cut])
    if found is Find.MESSAGE:
        assert whole == (at, found)
    else:
        assert whole[0] >= at


@effort(300)
@given(
    taken=st.integers(0, 200),
    numbers=st.lists(st.integers(2, 10_000), min_size=2, max_size=5),
    seed=st.binary(min_size=4, max_size=4),
)
def test_after_part_of_a_frame_the_next_one_is_found(taken: int, numbers: list[int], seed: bytes) -> None:
    """The dead process took the beginning of the first frame: at most that one is lost, and nothing is made up."""

    def frame(data: bytes) -> bytes:
        head = Frame(Opcode.TEXT, data).serialize(mask=True)[: 4 if len(data) > 125 else 2]
        return head + seed + bytes(byte ^ seed[index % 4] for index, byte in enumerate(data))

    first, *others = [frame(media(number)) for number in numbers]
    taken = 1 + taken % (len(first) - 1)
    rest = first[taken:] + b"".join(others)
    at, found = next_message(rest)
    assert found is Find.MESSAGE
    assert at == len(first) - taken
