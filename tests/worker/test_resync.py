"""Finding the next message of a stream that somebody else began to read."""

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Close, CloseCode, Frame, Opcode

from worker.call.resync import Find, next_message

MEDIA = {
    "event": "media",
    "sequenceNumber": "7",
    "media": {"track": "inbound", "payload": "f39/" * 54},
    "streamSid": "MZ1",
}
MARK = {"event": "mark", "sequenceNumber": "8", "streamSid": "MZ1", "mark": {"name": "0:1"}}


def masked(opcode: int, payload: bytes, mask: bytes) -> bytes:
    """Write a frame as a client does, with a mask of ours."""
    length = len(payload)
    if length < 126:
        head = bytes([0x80 | opcode, 0x80 | length])
    elif length < 65_536:
        head = bytes([0x80 | opcode, 0x80 | 126]) + length.to_bytes(2)
    else:
        head = bytes([0x80 | opcode, 0x80 | 127]) + length.to_bytes(8)
    return head + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


def text(message: object, mask: bytes = b"\x01\x02\x03\x04", *, spaced: bool = False) -> bytes:
    """Write a message; some peers put white space into their JSON."""
    return masked(1, json.dumps(message, indent=2 if spaced else None).encode(), mask)


messages = st.one_of(
    st.builds(
        lambda length, number: {**MEDIA, "sequenceNumber": str(number), "media": {"payload": "/" * length}},
        st.sampled_from([4, 60, 100, 216, 2136, 60_000]),
        st.integers(1, 9999),
    ),
    st.just(MARK),
    st.just({"event": "dtmf", "streamSid": "MZ1", "dtmf": {"track": "inbound_track", "digit": "5"}}),
    st.just({"event": "stop", "stop": {"callSid": "CA1"}, "streamSid": "MZ1"}),
)
frames = st.builds(text, messages, st.binary(min_size=4, max_size=4), spaced=st.booleans())


@settings(deadline=None)
@given(st.lists(frames, min_size=2, max_size=6), st.data())
def test_whatever_was_read_before_the_next_whole_message_is_found(stream: list[bytes], data: st.DataObject) -> None:
    """Cut the stream at any byte and let it arrive in any pieces: what is found is the first frame that is whole."""
    whole = b"".join(stream)
    starts = [sum(map(len, stream[:number])) for number in range(len(stream))]
    cut = data.draw(st.integers(0, starts[-1]), "cut")
    expected = min(start for start in starts if start >= cut)
    held, dropped = bytearray(), 0
    at = cut
    while at < len(whole):
        size = data.draw(st.integers(1, 200), "piece") if at - cut < 400 else len(whole)
        held += whole[at : at + size]
        at += size
        position, found = next_message(held)
        dropped += position
        assert cut + dropped <= expected, "a message was thrown away"
        del held[:position]
        if found is Find.MESSAGE:
            break
    assert found is Find.MESSAGE
    assert cut + dropped == expected, "a message was found where none begins"


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_raise_and_little_is_kept(data: bytes) -> None:
    position, found = next_message(data)
    assert 0 <= position <= len(data)
    if found is Find.NOTHING:
        assert position == len(data)
    elif found is Find.UNDECIDED and data[position] == 0x81:
        assert len(data) - position < 14 + 48, "what cannot be told by now will never be"


@pytest.mark.parametrize("split", range(1, 24))
def test_a_message_that_has_only_begun_is_waited_for(split: int) -> None:
    frame = text(MEDIA)
    assert next_message(b"rest of another" + frame[:split]) in {(15, Find.UNDECIDED), (15, Find.MESSAGE)}
    assert next_message(b"rest of another" + frame) == (15, Find.MESSAGE)


def test_an_empty_message_is_not_waited_in_front_of_for_ever() -> None:
    """Two bytes of sound look like its head once in 65,536: that must not make a worker deaf."""
    false_head = b"\x81\x80" + b"abcd"
    assert next_message(false_head + text(MEDIA)) == (6, Find.MESSAGE)


@pytest.mark.parametrize(
    "payload", [b"plain text", b"{}", b'{"": 1}', b"[1]", b'{"event"', b'{"event" 7}', b"{\x00", b'{"e:' + b"x" * 60]
)
def test_a_frame_that_is_no_json_object_is_passed_over(payload: bytes) -> None:
    frame = masked(1, payload, b"wxyz")
    assert next_message(frame + text(MARK)) == (len(frame), Find.MESSAGE)


def test_an_unmasked_frame_is_none() -> None:
    frame = Frame(Opcode.TEXT, b'{"event": "media"}').serialize(mask=False)
    assert next_message(frame + text(MARK)) == (len(frame), Find.MESSAGE)


def test_a_ping_before_the_next_message_is_passed_over() -> None:
    ping = Frame(Opcode.PING, b"are you there").serialize(mask=True)
    position, found = next_message(ping + text(MARK))
    assert (position, found) == (len(ping), Find.MESSAGE)


@pytest.mark.parametrize("code", [1000, 1001, 1011, 4999, None])
def test_a_caller_who_leaves_at_the_very_beginning_is_heard(code: int | None) -> None:
    payload = b"" if code is None else Close(CloseCode(code) if code < 3000 else code, "bye").serialize()
    frame = masked(8, payload, os.urandom(4))
    assert next_message(frame) == (0, Find.MESSAGE)
    for split in range(1, len(frame)):
        assert next_message(frame[:split]) == (0, Find.UNDECIDED)


def test_what_looks_like_a_close_frame_and_goes_on_is_none() -> None:
    """The peer says nothing after its close frame: what has something behind it was sound."""
    looks = masked(8, (1000).to_bytes(2), b"wxyz")
    assert next_message(looks + text(MEDIA)) == (len(looks), Find.MESSAGE)
    assert next_message(b"x" + looks) == (1 + len(looks), Find.NOTHING)
    assert next_message(masked(8, (7).to_bytes(2), b"wxyz"))[1] is Find.NOTHING
    assert next_message(masked(8, b"x", b"wxyz"))[1] is Find.NOTHING
    assert next_message(masked(8, (1000).to_bytes(2) + b"x" * 200, b"wxyz"))[1] is Find.NOTHING
