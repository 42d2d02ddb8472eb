"""A whole pool in one thread, under a clock moved by hand: for property tests that play everybody around it.

Real are the pool, its book, roster, plan, keeper, nursery and every socket. Played by the test: time, processes (their
births, words and deaths), routers, callers and Redis. Nothing waits: `turn` lets the loop do what is due.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import functools
import gc
import os
import random
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from unittest import mock

from prometheus_client import CollectorRegistry

import worker.pool.pool
from shared.agents import Agent, Agents
from shared.channel import close_all, receive_datagram
from shared.framing import TO_WORKER, encode
from shared.messages import Alive, Bind, Forked, ForkRefused, Message, WarmFailed
from shared.processes import Process
from shared.settings import load
from shared.workers import PoolId, WorkerId
from tests.fakes import FakeReadiness, FakeRecords, HandClock
from worker.pool import door, nursery

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.pool.roster import Worker

POOL = PoolId("p1")
READY, MOST = 2, 4
UNIX_EPOCH = 1_700_000_000.0
"""What the unix clock shows when the hand clock shows 0."""

NO_PID = 5_000_000
"""Beyond what a kernel gives: nothing is there to be read."""

_TURNS = 12
"""Steps of the loop after which everything that follows from one event has happened; the longest chain has six."""


class HandLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is the hand clock's."""

    def __init__(self, clock: HandClock) -> None:
        super().__init__()
        self._hand = clock

    def time(self) -> float:
        """Give the hand clock's time."""
        return self._hand()


class HandWatch:
    """Stands in for `watch.Watch`: a process ends when the test says so, or when it is killed and the test says so."""

    def __init__(self) -> None:
        self.gone: dict[int, Callable[[], None]] = {}
        self.killed: set[int] = set()

    def add(self, pidfd: int, gone: Callable[[], None]) -> None:
        """Watch a process."""
        self.gone[pidfd] = gone

    def kill(self, pidfd: int) -> None:
        """Note that SIGKILL was sent."""
        if pidfd in self.gone:
            self.killed.add(pidfd)

    def send(self, pidfd: int, number: signal.Signals) -> None:
        """Leave a signal unanswered."""

    def die(self, pidfd: int) -> None:
        """End a process."""
        gone = self.gone.pop(pidfd)
        self.killed.discard(pidfd)
        os.close(pidfd)
        gone()


@dataclass(eq=False)
class Player:
    """A worker's process, played: its end of the channel, and what it was told."""

    id: WorkerId
    zygote: HandZygote
    sock: socket.socket
    pidfd: int | None = None
    told: list[Any] = field(default_factory=list)
    streams: list[int] = field(default_factory=list)

    def hear(self) -> None:
        """Read what the pool has said."""
        while self.sock.fileno() >= 0:
            try:
                received = receive_datagram(self.sock)
            except (BlockingIOError, ConnectionError):
                return
            if received is None:
                return
            data, fds = received
            self.told.append(TO_WORKER(data))
            self.streams += fds

    @property
    def binds(self) -> list[Bind]:
        """The calls it was given."""
        return [message for message in self.told if isinstance(message, Bind)]

    def say(self, message: Message) -> None:
        """Say something to the pool."""
        self.write(encode(message))

    def write(self, data: bytes, fds: list[int] | None = None) -> None:
        """Send a datagram, whatever is in it."""
        write(self.sock, data, fds or [])

    def close(self) -> None:
        """Close everything it holds, as the end of its process does."""
        close_all(self.streams)
        self.streams.clear()
        self.sock.close()


@dataclass(eq=False)
class HandZygote:
    """Stands in for `generation.Generation`: it has ears, and children are born when the test says so."""

    rig: Rig
    number: int
    agents: Agents
    alive: bool = True
    gone: bool = False
    pid: int = 0
    killed: bool = False

    def fork(self, worker: WorkerId, channel_fd: int) -> bool:
        """Take a request."""
        if self.alive:
            self.rig.players[worker] = Player(worker, self, socket.socket(fileno=os.dup(channel_fd)))
            self.rig.players[worker].sock.setblocking(False)
        return self.alive

    @property
    def idle(self) -> bool:
        """Whether no process of its own is left, or to come."""
        return not any(player.zygote is self for player in self.rig.players.values())

    def kill(self) -> None:
        """Note the kill."""
        self.killed = True

    def reaped(self, _pid: int) -> WorkerId | None:
        """Know nobody by a process."""
        return None

    def dismiss(self) -> None:
        """Leave."""
        self.alive = False

    async def leave(self) -> None:
        """Leave."""
        self.alive = False


class Rig:
    """The pool and everybody around it. Close it at the end: it says what was left open."""

    def __init__(self, **overrides: Any) -> None:
        gc.disable()  # it would close now and then what was forgotten
        self._before = descriptors()
        self._left = contextlib.ExitStack()
        folder = self._left.enter_context(tempfile.TemporaryDirectory(prefix="offhook-"))
        self.clock = HandClock()
        self.loop = HandLoop(self.clock)
        self.failures: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.failures.append(context))
        self.players: dict[WorkerId, Player] = {}
        self.records = FakeRecords(self.clock)
        self.directory = FakeReadiness(self.clock)
        self.callers: list[socket.socket] = []
        self.renewals: list[asyncio.Task[Any]] = []
        self.handoff_dir = Path(folder)
        self._take_time()
        self._take_processes()
        self.pool = self.loop.run_until_complete(self._build(overrides))
        self.pool._crew._jitter = self.pool._troubles._jitter = random.Random(0)
        self.pool._tasks = cast("Any", SimpleNamespace(create_task=self.loop.create_task))
        self.loop.call_soon(self.pool._nursery.start)
        self.turn()
        self.zygote_alive()

    # --- what is taken into the hand --------------------------------------------------------------------------------

    def _take_time(self) -> None:
        """Put the hand clock behind `time` in every room of the pool."""
        hand = SimpleNamespace(
            monotonic=self.clock, time=lambda: UNIX_EPOCH + self.clock(), monotonic_ns=lambda: int(self.clock() * 1e9)
        )
        for name, module in list(sys.modules.items()):
            if name.startswith("worker.pool.") and getattr(module, "time", None) is time:
                self._left.enter_context(mock.patch.object(module, "time", hand))
        hand_secrets = SimpleNamespace(randbelow=lambda most: most // 2, token_hex=lambda _: "b00t")
        self._left.enter_context(mock.patch.object(nursery, "secrets", hand_secrets))
        self._left.enter_context(mock.patch.object(worker.pool.pool, "secrets", hand_secrets))

    def _take_processes(self) -> None:
        def zygote(number: int, agents: Agents, *_: Any) -> HandZygote:
            self.zygote = HandZygote(self, number, agents)
            return self.zygote

        self.watch = HandWatch()
        self._left.enter_context(mock.patch.object(nursery, "Watch", return_value=self.watch))
        self._left.enter_context(mock.patch.object(nursery, "Generation", zygote))
        self._left.enter_context(mock.patch.object(worker.pool.pool, "Records", return_value=self.records))
        self._left.enter_context(mock.patch.object(worker.pool.pool, "Directory", return_value=self.directory))

    async def _build(self, overrides: dict[str, Any]) -> worker.pool.pool.Pool:
        values: dict[str, Any] = {
            "openai_api_key": "made-up", "cartesia_api_key": "made-up", "cartesia_voice_id": "made-up",
            "handoff_dir": self.handoff_dir, "pool_ready": READY, "pool_max": MOST, "_env_file": None,
        }  # fmt: skip
        settings = load(Process.POOL, **values | overrides)
        listener = door.listen(self.handoff_dir, POOL)
        http = self._left.enter_context(socket.socket())
        given = worker.pool.pool.Given(
            settings, Agents(default=Agent()), POOL, listener, http, CollectorRegistry(), "nobody"
        )
        return worker.pool.pool.Pool(given)

    # --- time -------------------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Let the loop do what is due, and the players hear what they are told."""
        for _ in range(_TURNS):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
        for player in self.players.values():
            player.hear()
        failures, self.failures[:] = list(self.failures), []
        assert not failures, failures

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.advance(seconds)
        self.turn()

    def do(self, act: Callable[[], Any]) -> None:
        """Do something on the loop, where the pool lives, and what follows from it."""
        self.loop.call_soon(act)
        self.turn()

    # --- processes --------------------------------------------------------------------------------------------------

    def worker(self, player: Player) -> Worker | None:
        """Give the pool's view of a worker."""
        return self.pool._roster.get(player.id)

    def zygote_alive(self) -> None:
        """Have the zygote say that it has loaded."""
        self._hear(self.zygote, Alive(warm_s=1.0, threads=1))

    def change(self, *, good: bool) -> None:
        """Have the pool take a change, or refuse one that cannot be loaded."""
        former = self.zygote
        self.do(lambda: self.renewals.append(self.loop.create_task(self.pool._nursery.renew(Agents(default=Agent())))))
        coming = self.zygote
        if good:
            self._hear(coming, Alive(warm_s=1.0, threads=1))
        else:
            self.zygote = former
            self._hear(coming, WarmFailed(resource="tools", detail="as told", traceback=""))
            coming.alive, coming.gone = False, True
            self.do(lambda: self.pool._nursery.lost(cast("Any", coming)))
        (renewal,) = self.renewals
        self.renewals.clear()
        assert (renewal.result() is None) is good

    def zygote_dies(self) -> None:
        """End the zygote; what it was asked and had not done is never done."""
        self.zygote.alive, self.zygote.gone = False, True
        unborn = [each for each in self.players.values() if each.pidfd is None and each.zygote is self.zygote]
        for player in unborn:
            player.close()
            del self.players[player.id]
        self.do(lambda: self.pool._nursery.lost(cast("Any", self.zygote)))

    def birth(self, player: Player) -> None:
        """Have the zygote fork a worker; its descriptor of the process is any."""
        player.pidfd = os.open("/dev/null", os.O_RDONLY)
        message = Forked(worker=player.id, pid=NO_PID + len(self.watch.gone))
        self._hear(player.zygote, message, player.pidfd)

    def stillbirth(self, player: Player) -> None:
        """Have the zygote refuse a fork."""
        del self.players[player.id]
        player.close()
        self._hear(player.zygote, ForkRefused(worker=player.id, why="as told"))

    def _hear(self, zygote: HandZygote, message: Message, *fds: int) -> None:
        """Have the pool hear a zygote."""
        self.do(lambda: self.pool._nursery.told(cast("Any", zygote), message, list(fds)))

    def death(self, player: Player) -> None:
        """End a worker's process: its descriptors close, and its pidfd fires, in this order or almost at once."""
        assert player.pidfd is not None
        pidfd = player.pidfd
        del self.players[player.id]
        player.close()
        self.do(lambda: self.watch.die(pidfd))

    # --- the end ----------------------------------------------------------------------------------------------------

    def close(self) -> set[int]:
        """Take everything down; give the descriptors that are open and were not before."""
        try:
            self._end()
        finally:
            self._left.close()
            gc.enable()
        return descriptors() - self._before

    def _end(self) -> None:
        """Have everybody leave, and let all their time pass: what the pool still holds then, it has forgotten."""
        self.pool._nursery.close()
        for caller in self.callers:
            caller.close()
        self.zygote_dies()
        for player in list(self.players.values()):
            player.close()
        self.turn()
        for pidfd in list(self.watch.gone):
            self.do(functools.partial(self.watch.die, pidfd))
        self.advance(600)
        self.pool._door.close()
        self.pool._keeper.leave()
        for member in self.pool._roster:
            if member.channel is not None:
                member.channel.close()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.turn()
        self.loop.run_until_complete(self.pool._redis.aclose())
        self.loop.close()


def descriptors() -> set[int]:
    """Give the open descriptors of this process."""
    listed = [int(name) for name in os.listdir("/proc/self/fd")]  # noqa: PTH208 - no objects that hold one themselves
    return {fd for fd in listed if _is_open(fd)}


def _is_open(fd: int) -> bool:
    """Say whether it is open still: the listing's own is not."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def write(sock: socket.socket, data: bytes, fds: list[int]) -> bool:
    """Send a datagram with descriptors, whatever is in it; False when the peer is gone or does not read."""
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    try:
        sock.sendmsg([data], ancillary, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
    except OSError:
        return False
    return True
