"""The pool's side of the tool host: one that ends is started again, and workers get a line to the next."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from shared.agents import McpServer
from shared.channel import Channel
from shared.framing import FROM_WORKER, TO_WORKER
from shared.messages import ToolLine
from shared.metrics import PoolMetrics
from shared.settings import Settings
from shared.tool_metrics import ToolMetrics
from tests.tool_host import DEADLINE_S, alive, standin, until
from worker.call.toolline import HostLine
from worker.pool import toolhost
from worker.pool.roster import Roster, Worker
from worker.pool.toolhost import ToolHost
from worker.pool.troubles import Troubles

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DATABASE: dict[str, Any] = {"supabase_url": "http://127.0.0.1:9", "supabase_secret_key": "sb_secret_stand_in"}


class Pool:
    """A pool that has nothing but its tool host, and workers that have nothing but their lines."""

    def __init__(self, servers: tuple[McpServer, ...] = (), **settings: Any) -> None:
        self._registry = CollectorRegistry()
        self.roster = Roster(8, PoolMetrics(CollectorRegistry(), 1))
        self.troubles = Troubles()
        configured = Settings(_env_file=None, **settings)
        self.host = ToolHost(configured, servers, self.roster, ToolMetrics(self._registry), self.troubles)
        self._open: list[Channel] = []
        self.lines: dict[str, list[HostLine]] = {}

    def worker(self) -> Worker:
        """Fork a worker, as far as the tool host is concerned."""
        worker = self.roster.add(time.monotonic())
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        lines = self.lines.setdefault(worker.id, [])

        def told(message: Any, fds: list[int]) -> None:
            assert isinstance(message, ToolLine)
            line = HostLine()
            line.connect(socket.socket(fileno=fds[0]))
            lines.append(line)

        worker.channel = Channel(ours, FROM_WORKER, lambda _message, _fds: None, lambda _why: None)
        self._open += [worker.channel, Channel(theirs, TO_WORKER, told, lambda _why: None)]
        return worker

    async def served(self, worker: Worker, count: int = 1) -> HostLine:
        """Wait until a worker has its nth line and the host has spoken on it."""
        lines = await until(lambda: len(self.lines[worker.id]) >= count and self.lines[worker.id], f"line {count}")
        assert lines
        line = lines[count - 1]
        await until(lambda: line._has, "the host has said what it has")
        return line

    def metrics(self) -> str:
        """Give what it exposes."""
        return generate_latest(self._registry).decode()

    def problems(self) -> list[str]:
        """List what `/readyz` shows."""
        return [f"{each.resource}: {each.detail}" for each in self.troubles.standing()]

    async def close(self) -> None:
        """End everything."""
        for channel in self._open:
            channel.close()
        for lines in self.lines.values():
            for line in lines:
                line.close()
        await self.host.leave()


@pytest.fixture
async def pool(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pool]:
    for name, value in DATABASE.items():
        monkeypatch.setenv(name.upper(), value)
    made = Pool(**DATABASE)
    yield made
    await made.close()


async def test_there_is_no_host_where_nothing_needs_one() -> None:
    pool = Pool()
    pool.host.start()
    pool.host.attend(pool.worker())
    assert pool.host.pid is None
    await pool.close()


async def test_workers_get_a_line_when_they_are_forked_and_when_the_host_comes_up(pool: Pool) -> None:
    early = pool.worker()
    pool.host.attend(early)
    pool.host.start()
    await pool.served(early)
    late = pool.worker()
    pool.host.attend(late)
    line = await pool.served(late)
    assert line._has == {"database"}
    assert len(pool.lines[early.id]) == 1
    assert "offhook_tool_host_up 1.0" in pool.metrics()


async def test_a_host_that_is_killed_is_started_again_and_everybody_gets_another_line(pool: Pool) -> None:
    pool.host.start()
    workers = [pool.worker() for _ in range(3)]
    for worker in workers:
        await pool.served(worker)
    first = pool.host.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: pool.host.pid != first, "its end is noticed")
    assert "offhook_tool_host_up 0.0" in pool.metrics()
    assert pool.problems() == ["tools: the tool host: it has ended"]
    for worker in workers:
        await pool.served(worker, 2)
    assert pool.problems() == []
    assert "offhook_tool_host_up 1.0" in pool.metrics()


async def test_a_host_that_fails_again_and_again_is_started_less_and_less_often(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOG_LEVEL", "no such level")
    pool.host.start()
    await until(lambda: pool.host._backoff.failures >= 2, "it has failed twice")
    assert pool.problems() == ["tools: the tool host: it has ended"]
    monkeypatch.delenv("LOG_LEVEL")
    worker = pool.worker()
    await pool.served(worker)


async def test_a_host_that_the_system_cannot_start_is_started_when_it_can(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as full:
        full.setattr(toolhost, "launch", refuse)
        pool.host.start()
    assert pool.problems() == [f"tools: the tool host: it cannot be started: {os.strerror(errno.EMFILE)}"]
    await pool.served(pool.worker())


async def test_a_worker_for_which_no_line_can_be_made_gets_one_later(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolhost, "LINE_PAUSE_S", 0.0)
    pool.host.start()
    await pool_up(pool)
    worker = pool.worker()
    with monkeypatch.context() as full:
        full.setattr(socket, "socketpair", refuse)
        pool.host.attend(worker)
    await pool.served(worker)


async def test_a_host_that_says_nothing_is_ended(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolhost, "UP_LIMIT_S", 0.0)
    pool.host.start()
    first = pool.host.pid
    await until(lambda: pool.host._backoff.failures, "its end is noticed")
    assert first is not None
    assert not alive(first)


async def test_a_host_that_does_not_leave_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolhost, "LEAVE_LIMIT_S", 0.1)
    pool = Pool((standin("shop"),))
    pool.host.start()
    await pool_up(pool)
    pid = pool.host.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    async with asyncio.timeout(DEADLINE_S):
        await pool.close()
    assert not alive(pid)


async def test_servers_of_a_changed_agents_file_start_a_host_and_leave_no_trace_when_they_go() -> None:
    empty = Pool()
    empty.host.start()
    assert empty.host.pid is None
    empty.host.serve((McpServer(name="none", command="no-such-command-anywhere"),))
    await until(empty.problems, "the server cannot be reached")
    assert empty.problems() == ["mcp none: there is no command no-such-command-anywhere"]
    assert 'offhook_mcp_server_up{server="none"} 0.0' in empty.metrics()
    empty.host.serve(())
    assert empty.problems() == []
    assert "none" not in empty.metrics()
    await empty.close()


async def test_an_agents_file_too_large_for_a_message_is_said_and_costs_the_servers_only(pool: Pool) -> None:
    pool.host.serve((McpServer(name="shop", command="shop", args=("x" * 70_000,)),))
    await pool_up(pool)
    await until(lambda: "AGENTS_FILE: [mcp]" in "".join(pool.problems()), "it is said")
    worker = pool.worker()
    pool.host.attend(worker)
    assert (await pool.served(worker))._has == {"database"}


def refuse(*_arguments: Any) -> Any:
    """Fail as the system does when too many files are open."""
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


async def pool_up(pool: Pool) -> None:
    """Wait until the host is up."""
    await until(lambda: "offhook_tool_host_up 1.0" in pool.metrics(), "the host is up")
