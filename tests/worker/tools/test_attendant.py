"""One worker's requests, beside those of others."""

from __future__ import annotations

import asyncio
from typing import Any

from shared.agents import Agent
from shared.calls import CallSid, IncomingCall, TraceId
from shared.messages import Message
from shared.tool_messages import DropTool, RunTool, ToolRan
from shared.workers import WorkerId
from worker.tools.attendant import AT_ONCE, BUSY, MOST_REFUSED, MOST_WAITING, Attendant
from worker.tools.registry import Outcome
from worker.tools.running import OUT_OF_ORDER

CALL = IncomingCall(call_sid=CallSid("CA1"), caller="+1", called="+2", trace_id=TraceId("0" * 32))


def ask(number: int) -> RunTool:
    return RunTool(request=number, tool="look", call_id=f"call_{number}", arguments={}, call=CALL, agent=Agent())


class Desk:
    """An attendant whose tool ends when it is told to."""

    def __init__(self) -> None:
        self.running: set[str] = set()
        self.given_up: set[str] = set()
        self.end = asyncio.Event()
        self.result: Any = {"found": True}
        self.told: list[Message] = []
        self.closed = False
        self.attendant = Attendant(WorkerId("0-1"), self.answer)
        self.attendant.send = self.send
        self.attendant.close = self.close

    def send(self, message: Message) -> bool:
        """Take an answer; one that cannot be written is refused as the channel does."""
        assert isinstance(message, ToolRan)
        if "large" in message.result:
            raise ValueError("too large")
        self.told.append(message)
        return True

    def close(self) -> None:
        """Note that the line was closed."""
        self.closed = True

    async def answer(self, asked: RunTool, room: asyncio.Semaphore) -> Outcome:
        """Run the tool."""
        async with room:
            self.running.add(asked.call_id)
            try:
                await self.end.wait()
            except asyncio.CancelledError:
                self.given_up.add(asked.call_id)
                raise
            finally:
                self.running.discard(asked.call_id)
        return Outcome(self.result, answer=False)

    def ask(self, *numbers: int) -> None:
        """Ask for runs."""
        for number in numbers:
            self.attendant.receive(ask(number), [])


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_an_answer_names_its_request() -> None:
    desk = Desk()
    desk.end.set()
    desk.ask(7)
    await turns()
    assert desk.told == [ToolRan(request=7, result={"found": True}, answer=False)]


async def test_a_few_run_at_a_time_and_the_others_wait() -> None:
    desk = Desk()
    desk.ask(*range(10))
    await turns()
    assert len(desk.running) == AT_ONCE
    desk.end.set()
    await turns(50)
    assert sorted(each.request for each in desk.told if isinstance(each, ToolRan)) == list(range(10))


async def test_who_floods_is_told_so_at_once_and_nobody_else_waits() -> None:
    flood, other = Desk(), Desk()
    flood.ask(*range(MOST_WAITING + 5))
    other.end.set()
    other.ask(1)
    await turns()
    assert [each for each in flood.told if isinstance(each, ToolRan) and each.result == BUSY] == flood.told
    assert len(flood.told) == 5
    assert len(other.told) == 1
    assert not flood.closed


async def test_who_does_not_stop_loses_the_line() -> None:
    desk = Desk()
    desk.ask(*range(MOST_WAITING + MOST_REFUSED + 1))
    await turns()
    assert desk.closed


async def test_the_number_of_a_request_under_way_is_not_used_twice() -> None:
    desk = Desk()
    desk.ask(1, 1)
    await turns()
    assert desk.told == [ToolRan(request=1, result=dict(BUSY))]


async def test_what_nobody_waits_for_is_given_up() -> None:
    desk = Desk()
    desk.ask(1, 2, 3)
    await turns()
    desk.attendant.receive(DropTool(request=2), [])
    desk.attendant.receive(DropTool(request=99), [])
    await turns()
    assert desk.given_up == {"call_2"}
    desk.attendant.leave()
    await turns()
    assert desk.given_up == {"call_1", "call_2", "call_3"}


async def test_an_answer_that_fits_no_message_is_a_sentence() -> None:
    desk = Desk()
    desk.result = {"large": 1}
    desk.end.set()
    desk.ask(1)
    await turns()
    assert desk.told == [ToolRan(request=1, result=dict(OUT_OF_ORDER))]
