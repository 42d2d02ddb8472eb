"""Each way to lose a worker, at each moment of a call, judged from the caller's side.

All calls are placed beforehand, a few at a time and each with its fault; every test is one of them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.chaos.callers import Fault, Moment, Verdict, live_through
from tests.chaos.faults import kill_worker, stop_worker
from tests.chaos.stage import Stage

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.system

AT_ONCE = 4
FAULTS = [*(Fault("kill -9", moment, kill_worker) for moment in Moment), Fault("SIGSTOP", Moment.SPEAKING, stop_worker)]


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Verdict]:
    """Place every call."""
    return {str(verdict.faults[0]): verdict for verdict in asyncio.run(_all(tmp_path_factory.mktemp("chaos")))}


async def _all(logs: Path) -> list[Verdict]:
    turns = asyncio.Semaphore(AT_ONCE)
    async with Stage(logs) as stage, stage.stack.carrier() as carrier:

        async def one(fault: Fault) -> Verdict:
            async with turns:
                return await live_through(stage, carrier, (fault,))

        return list(await asyncio.gather(*(one(fault) for fault in FAULTS)))


@pytest.mark.parametrize("fault", [str(fault) for fault in FAULTS])
def test_a_lost_worker_costs_neither_the_connection_nor_a_word(verdicts: dict[str, Verdict], fault: str) -> None:
    print(verdicts[fault])
    assert verdicts[fault].wrong == []
