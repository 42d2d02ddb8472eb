"""The pool's own port is open to whoever reaches it: it may cost the pool nothing that calls need."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.pool_process import DEADLINE_S, descriptors, eventually, new_sid, running_pool
from worker.pool.http import MOST_CONNECTIONS

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_crowd_of_idle_connections_is_bounded_and_calls_go_on(tmp_path: Path) -> None:
    async with running_pool(tmp_path, ready=1) as pool:
        router = await pool.router()
        await router.ready(1)
        before = descriptors(pool.pid)
        crowd = [await asyncio.open_connection("127.0.0.1", pool.port) for _ in range(4 * MOST_CONNECTIONS)]
        async with asyncio.timeout(DEADLINE_S):
            assert await crowd[-1][0].read() == b"", "one too many is closed"
        await eventually(lambda: descriptors(pool.pid) <= before + MOST_CONNECTIONS)
        promised = await router.reserved(new_sid())
        async with asyncio.timeout(DEADLINE_S), router.upgrade(promised.ticket) as stream:
            await stream.send("hello")
            assert await stream.recv() == "hello"
            await stream.send("end agent_hangup")
            await stream.wait_closed()
        for _, writer in crowd:
            writer.close()
