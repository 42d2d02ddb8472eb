"""The same request is the same run."""

from __future__ import annotations

import asyncio

import pytest

from worker.tools import runs as module
from worker.tools.registry import Outcome
from worker.tools.runs import KEEP_S, Runs

KEY = ("CA1", "call_1")


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


class Tool:
    """A tool that counts its runs, and ends when it is told to."""

    def __init__(self) -> None:
        self.runs = 0
        self.cancelled = 0
        self.end = asyncio.Event()

    async def run(self) -> Outcome:
        """Run until the end is set."""
        self.runs += 1
        try:
            await self.end.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return Outcome({"run": self.runs})


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_who_asks_for_the_same_while_it_runs_gets_the_same() -> None:
    runs, tool = Runs(), Tool()
    first = asyncio.create_task(runs.ask(KEY, tool.run, reads=False))
    await turns()
    second = asyncio.create_task(runs.ask(KEY, tool.run, reads=False))
    await turns()
    assert runs.under_way == 1
    tool.end.set()
    assert (await first).result == (await second).result == {"run": 1}
    assert runs.under_way == 0


async def test_who_asks_for_the_same_later_gets_what_came_of_it() -> None:
    clock = Clock()
    runs, tool = Runs(clock), Tool()
    tool.end.set()
    await runs.ask(KEY, tool.run, reads=False)
    clock.now = KEEP_S
    assert (await runs.ask(KEY, tool.run, reads=False)).result == {"run": 1}
    clock.now = KEEP_S + 1
    assert (await runs.ask(KEY, tool.run, reads=False)).result == {"run": 2}


async def test_another_request_is_another_run() -> None:
    runs, tool = Runs(), Tool()
    tool.end.set()
    for key in (KEY, ("CA1", "call_2"), ("CA2", "call_1")):
        await runs.ask(key, tool.run, reads=False)
    assert tool.runs == 3


async def test_a_write_goes_on_when_nobody_waits_and_is_there_for_who_comes() -> None:
    runs, tool = Runs(), Tool()
    asking = asyncio.create_task(runs.ask(KEY, tool.run, reads=False))
    await turns()
    asking.cancel()
    await turns()
    tool.end.set()
    await turns()
    assert (await runs.ask(KEY, tool.run, reads=False)).result == {"run": 1}
    assert tool.cancelled == 0


async def test_a_read_is_given_up_when_nobody_waits() -> None:
    runs, tool = Runs(), Tool()
    one, other = (asyncio.create_task(runs.ask(KEY, tool.run, reads=True)) for _ in range(2))
    await turns()
    one.cancel()
    await turns()
    assert tool.cancelled == 0
    other.cancel()
    await turns()
    assert tool.cancelled == 1
    assert (len(runs), runs.under_way) == (0, 0)


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_KEPT", 10)
    runs, tool = Runs(), Tool()
    slow = Tool()
    going = asyncio.create_task(runs.ask(("CA0", "slow"), slow.run, reads=False))
    await turns()
    tool.end.set()
    for number in range(50):
        await runs.ask(("CA1", str(number)), tool.run, reads=False)
    assert len(runs) <= 11
    assert (await runs.ask(("CA1", "49"), tool.run, reads=False)).result == {"run": 50}
    slow.end.set()
    assert (await going).result == {"run": 1}, "what is under way is never forgotten"


async def test_answers_that_are_old_do_not_stay_behind_one_that_is_under_way() -> None:
    clock = Clock()
    runs, tool, slow = Runs(clock), Tool(), Tool()
    going = asyncio.create_task(runs.ask(("CA0", "slow"), slow.run, reads=False))
    await turns()
    tool.end.set()
    await runs.ask(KEY, tool.run, reads=False)
    clock.now = KEEP_S + 1
    await runs.ask(("CA2", "call"), tool.run, reads=False)
    assert len(runs) == 2
    slow.end.set()
    await going


async def test_writes_are_waited_for_at_the_end_and_reads_are_not() -> None:
    runs, write, read = Runs(), Tool(), Tool()
    asking = [
        asyncio.create_task(runs.ask(KEY, write.run, reads=False)),
        asyncio.create_task(runs.ask(("CA1", "call_2"), read.run, reads=True)),
    ]
    await turns()
    await runs.finish(0.0)
    finishing = asyncio.create_task(runs.finish(3600.0))
    await turns()
    assert not finishing.done()
    write.end.set()
    await asyncio.wait_for(finishing, 10)
    assert not asking[1].done()
    await asyncio.wait_for(runs.finish(3600.0), 10)
    asking[1].cancel()
    await asyncio.wait(asking)
