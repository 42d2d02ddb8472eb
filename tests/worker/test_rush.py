"""A rush of calls: what comes alone is done at once, what comes in numbers is put off, and not for ever."""

from __future__ import annotations

import asyncio

import pytest

from worker.pool import rush
from worker.pool.rush import Rush

AGES = 1000.0


class Work:
    """Notes what was done; `all_of` waits until so many items were."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self._changed = asyncio.Event()

    def __call__(self, item: str) -> None:
        """Do an item."""
        self.done.append(item)
        self._changed.set()

    async def all_of(self, count: int) -> list[str]:
        """Wait for so many."""
        async with asyncio.timeout(10):
            while len(self.done) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.done


async def test_a_single_item_is_done_at_once_and_those_behind_it_later_in_their_order() -> None:
    work = Work()
    calls = Rush(work)
    for item in "abc":
        calls.add(item)
    assert work.done == ["a"]
    assert await work.all_of(3) == ["a", "b", "c"]


async def test_after_a_rush_a_single_item_is_done_at_once_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rush, "QUIET_S", 0.0)
    work = Work()
    calls = Rush(work)
    for item in "abc":
        calls.add(item)
        assert work.done[-1] == item, "every item found calm"


async def test_a_rush_that_does_not_end_puts_off_for_a_limited_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rush, "QUIET_S", AGES)
    work = Work()
    calls = Rush(work)
    for item in "abc":
        calls.add(item)
    assert await work.all_of(3) == ["a", "b", "c"]


async def test_hand_offs_are_part_of_the_rush(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rush, "LATEST_S", AGES)
    work = Work()
    calls = Rush(work)
    calls.more()
    calls.add("a")
    assert work.done == []
    assert await work.all_of(1) == ["a"]
