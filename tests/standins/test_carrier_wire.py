"""The carrier's own framing is what the library would read, and its clock keeps time for many."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise

import pytest
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from tests.standins.carrier_messages import Numbering, StreamIds, payloads
from tests.standins.carrier_wheel import SLOTS, TURN_S, Wheel
from tests.standins.carrier_wire import masked_text


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 200_000])
def test_a_frame_of_any_size_is_read_back(size: int) -> None:
    server = ServerProtocol(state=OPEN)
    payload = bytes(index % 128 for index in range(size))
    server.receive_data(masked_text(payload))
    [frame] = server.events_received()
    assert isinstance(frame, Frame)
    assert (frame.opcode, frame.fin, bytes(frame.data)) == (Opcode.TEXT, True, payload)


def test_frames_of_speech_are_filled_up_with_silence() -> None:
    assert len(payloads(b"x" * 161)) == 2
    assert payloads(b"") == ()


def test_a_mark_name_is_escaped() -> None:
    made = Numbering(StreamIds("AC", "CA", "MZ")).mark('a"b\\c')
    assert '{"name":"a\\"b\\\\c"}' in made


async def test_the_wheel_calls_each_member_every_fourth_turn_and_stops_when_all_have_left() -> None:
    wheel, calls, enough = Wheel(), [], asyncio.Event()

    def tick(due: float, now: float) -> None:
        assert now >= due - TURN_S
        calls.append(due)
        if len(calls) == 5:
            wheel.leave("member")
            enough.set()

    wheel.join("member", tick)
    wheel.join("other", lambda _due, _now: None)
    await asyncio.wait_for(enough.wait(), 30)
    wheel.leave("other")
    assert wheel._timer is None
    steps = [after - before for before, after in pairwise(calls)]
    assert steps == pytest.approx([SLOTS * TURN_S] * 4)


async def test_a_wheel_that_was_held_up_makes_up_for_every_turn() -> None:
    wheel, calls, enough = Wheel(), [], asyncio.Event()

    def tick(due: float, now: float) -> None:
        calls.append((due, now))
        if len(calls) == 10:
            enough.set()

    wheel.join("member", tick)
    time.sleep(0.2)  # noqa: ASYNC251 - the held-up loop is what is tested
    await asyncio.wait_for(enough.wait(), 30)
    wheel.leave("member")
    assert calls[-1][0] - calls[0][0] == pytest.approx(9 * SLOTS * TURN_S)
