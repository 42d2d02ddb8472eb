"""The pools a router can reach, through the sockets in `HANDOFF_DIR`: found in any start order, asked, handed calls.

Each pool pushes its readiness; nothing here decides about workers. A file whose socket refuses connections is what a
killed pool leaves behind, and is removed. A pool that cannot be used is named in the log once, and in `problems` as long as
its socket is there. One of another version gets no new call from us, and does get the streams of those it has promised a
worker: while an update runs, routers of both versions share a port.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from watchfiles import awatch

from router.cutoff import Whereabouts
from router.link import Address, ForeignSocket, Link, dial
from shared import handoff_dir, logs
from shared.calls import CallSid, CallState, EndReason, IncomingCall
from shared.errors import SettingsError, system_words
from shared.messages import (
    PROTOCOL_VERSION,
    AskEnd,
    Ended,
    EndKnown,
    HandOff,
    NoPrefetch,
    NoWorker,
    Problem,
    Reserve,
    Reserved,
)
from shared.ticket import Ticket
from shared.workers import PoolId

RESERVE_TIMEOUT_S: Final = 2.0
"""For all pools together. A pool answers in under a millisecond; Twilio gives a webhook 15 s."""

PATIENCE_S: Final = 0.5
"""For one pool while there is another to ask: it may be stopped, or starved of CPU."""

INTRODUCTION_TIMEOUT_S: Final = 0.5
"""From connecting to the first readiness."""

RESCAN_MS: Final = 2_000
"""Watching costs nothing but is not heard on every volume (9p, some overlays), nor when the folder itself is replaced."""

RETRY_S: Final = 0.2
NEWBORN_S: Final = 2.0
"""A younger socket that refuses may be one that is bound and does not listen yet."""

WORDLESS_MOST: Final = 3
"""After so many connections that ended without a word a pool is let alone: each would be made again at once."""

WORDLESS_PAUSE_S: Final = 30.0
"""For how long. Pools before version 5 say nothing to a router of another version."""

ENDS_KEPT: Final = 10_000
"""How many ends of calls are remembered: the carrier asks within seconds, about 2 MB."""

PROMISES_KEPT: Final = 1_000
"""How many promised calls are remembered until their stream comes, which is seconds later: about 500 kB."""

LOST_KEPT: Final = 100
"""How many pools that were lost are remembered, for the calls they had."""

log = logs.get(__name__)


class Pools:
    """Every pool in one folder. `on_ready` is told how many workers are ready, on every change."""

    def __init__(self, folder: Path, on_ready: Callable[[int], None] = lambda _: None) -> None:
        self._folder = folder
        self._on_ready = on_ready
        self._links: dict[Address, Link] = {}
        self._guests: dict[Address, Link] = {}  # to pools of other versions, in theirs, for calls under way
        self._unusable: dict[Address, Problem] = {}
        self._unreached: dict[Address, Problem] = {}  # tried again
        self._wordless: dict[Address, int] = {}
        self._blind = ""  # why the folder cannot be looked into
        self._lost: dict[tuple[PoolId, str], Path] = {}
        self._ends: dict[tuple[CallSid, int], Ended] = {}
        self._promised: dict[tuple[CallSid, int], IncomingCall] = {}
        self._retry: asyncio.TimerHandle | None = None

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Connect to the pools that are there, and keep up with those that come and go."""
        await self._rescan()
        watching = asyncio.create_task(self._watch(), name="watch pools")
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.wait([watching])
            if self._retry is not None:
                self._retry.cancel()
            for links in (self._links, self._guests):
                for link in links.values():
                    link.close()
                links.clear()

    @property
    def ready(self) -> int:
        """How many workers are ready in pools that take calls."""
        return sum(link.ready for link in self._links.values())

    @property
    def warming(self) -> int:
        """How many workers will be ready in a moment."""
        return sum(link.readiness.warming for link in self._open() if not link.readiness.draining)

    @property
    def count(self) -> int:
        """How many pools are connected."""
        return len(self._open())

    @property
    def unusable(self) -> tuple[Problem, ...]:
        """Why pools that are there cannot be used."""
        blind = (Problem(resource="handoff_dir", detail=self._blind),) if self._blind else ()
        return (*blind, *self._unusable.values(), *self._unreached.values())

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Why workers do not become ready, as the pools say, and why other pools are not asked."""
        said = (problem for link in self._open() for problem in link.readiness.problems)
        return (*said, *self.unusable)

    async def reserve(self, call: IncomingCall, ttl_s: float, behind: int = 0) -> Reserved | NoWorker | None:
        """Promise a worker to a call, from the pool with most to spare; None when no pool answered in time.

        `behind` callers are to be served before it. When no pool has a worker for it only one is asked, because it counts
        the cold start.
        """
        if not self.ready:
            await self._rescan()
        answer: Reserved | NoWorker | None = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RESERVE_TIMEOUT_S):
                links = self._to_ask(behind)
                for link in links:
                    patience_s = None if link is links[-1] else PATIENCE_S
                    said = await _reserve(link, call, ttl_s, self._behind_at(link, behind), patience_s)
                    if isinstance(said, Reserved):
                        self._promise(call, said.ticket)
                        return said
                    answer = said or answer
        return answer

    def hand_off(self, ticket: Ticket, head: bytes, fd: int, accepted_at: float) -> PoolId | None:
        """Give an accepted socket to the pool its ticket names or, when that one is gone, to any with a ready worker.

        The descriptor is duplicated on the way: the caller closes its own. Gives who took it, None when nobody did.
        """
        call = self._promised.get((ticket.call_sid, ticket.attempt))
        message = HandOff(ticket=ticket, head=head, accepted_at=accepted_at, call=call)
        for link in (*self._of(ticket), *self._by_spare()):
            if link.send(message, fd) and link.welcome is not None:
                self._promised.pop((ticket.call_sid, ticket.attempt), None)
                return link.welcome.pool
        return None

    def _promise(self, call: IncomingCall, ticket: Ticket) -> None:
        """Remember a call until its stream comes: if its pool is gone by then, another has to know who calls whom."""
        self._promised[ticket.call_sid, ticket.attempt] = msgspec.structs.replace(call, trace_id=ticket.trace_id)
        while len(self._promised) > PROMISES_KEPT:
            del self._promised[next(iter(self._promised))]

    async def ask_end(self, ticket: Ticket) -> EndKnown | None:
        """Ask how a call ended: its own pool, or when that is gone every other one that may have got it.

        What a pool has told by itself needs no asking, and outlives it. Of the other pools none counts whose promise ran
        out: it was asked too, and the call went elsewhere.
        """
        end = self._ends.get((ticket.call_sid, ticket.attempt))
        if end is not None:
            return EndKnown(request=0, state=CallState.ENDED, reason=end.reason, dial=end.dial)
        own = self._of(ticket)
        for link in own or self._open():
            said: Any = await link.ask(
                lambda number: AskEnd(request=number, call_sid=ticket.call_sid, attempt=ticket.attempt)
            )
            if not isinstance(said, EndKnown) or said.state is None:
                continue
            if own or said.reason is not EndReason.NEVER_CONNECTED:
                return said
        return None

    def whereabouts(self, ticket: Ticket) -> Whereabouts:
        """Say whether the pool of a ticket, in the life that wrote it, is here, gone for certain, or not ours to tell."""
        if self._of(ticket):
            return Whereabouts.HERE
        path = self._lost.get((ticket.pool, ticket.boot))
        if path is None:
            return Whereabouts.ELSEWHERE
        try:
            dial(path).close()
        except (FileNotFoundError, ConnectionRefusedError):
            return Whereabouts.GONE
        except (ForeignSocket, OSError):
            return Whereabouts.ELSEWHERE
        # somebody answers there: another life, or the same, which closed its connection to us and will have a new one
        another = any(link.open and link.address.path == path for link in self._links.values())
        return Whereabouts.GONE if another else Whereabouts.ELSEWHERE

    def no_prefetch(self, ticket: Ticket, why: str) -> None:
        """Tell the pool of a reserved call that nobody looks up its customer."""
        for link in self._of(ticket):
            link.send(NoPrefetch(call_sid=ticket.call_sid, why=why))

    def _open(self) -> list[Link]:
        return [link for link in self._links.values() if link.open]

    def _of(self, ticket: Ticket) -> list[Link]:
        links = (*self._links.values(), *self._guests.values())
        return [link for link in links if link.is_pool(ticket.pool, ticket.boot)]

    def _by_spare(self) -> list[Link]:
        ready = (link for link in self._links.values() if link.ready)
        return sorted(ready, key=lambda link: (link.late, -link.spare))

    def _to_ask(self, behind: int) -> Sequence[Link]:
        able = [link for link in self._by_spare() if link.ready > self._behind_at(link, behind)]
        return able or self._by_spare()[:1] or self._open()[:1]

    def _behind_at(self, link: Link, behind: int) -> int:
        """Say how many of those before a call need a worker of this pool: as many as the other pools have none for."""
        return max(0, behind - (self.ready - link.ready))

    async def _rescan(self) -> None:
        """Look for pools, and let those that were found introduce themselves."""
        self._scan()
        new = [link.introduced.wait() for link in self._links.values() if not link.introduced.is_set()]
        if new:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(INTRODUCTION_TIMEOUT_S):
                    await asyncio.gather(*new)

    async def _watch(self) -> None:
        while True:
            try:
                handoff_dir.prepare(self._folder)
                async for _ in awatch(
                    self._folder, watch_filter=None, debounce=100, step=20, rust_timeout=RESCAN_MS,
                    yield_on_timeout=True, recursive=False,
                ):  # fmt: skip
                    self._scan()
            except (OSError, SettingsError, RuntimeError) as error:
                self._cannot_see(str(error))
            await asyncio.sleep(RESCAN_MS / 1000)
            self._scan()

    def _scan(self) -> None:
        """Connect to every socket we have no link to; forget those that are gone."""
        try:
            paths = handoff_dir.look(self._folder)
        except FileNotFoundError:  # it is made when it is watched
            paths = []
        except OSError as error:
            self._cannot_see(str(handoff_dir.refusal(self._folder, error)))
            return
        else:
            self._blind = ""
        seen = set()
        for path in paths:
            with contextlib.suppress(OSError):  # removed meanwhile
                address = Address.of(path)
                seen.add(address)
                if path.is_socket() and address not in self._links and address not in self._unusable:
                    self._connect(address)
        for known in (self._unusable, self._unreached, self._wordless):
            for address in known.keys() - seen:
                del known[address]

    def _cannot_see(self, why: str) -> None:
        if why != self._blind:
            self._blind = why
            log.warning("cannot watch for pools", why=why)

    def _connect(self, address: Address) -> None:
        try:
            sock = dial(address.path)
        except ConnectionRefusedError:
            self._refused(address)
        except ForeignSocket as error:
            self._unusable[address] = self._not_used(address, str(error))
        except PermissionError:
            words = f"belongs to uid {address.path.stat().st_uid}, not {os.geteuid()}"
            self._not_reached(address, words)  # the next look will do: no process of ours made it
        except OSError as error:  # its queue is full, or it is removed meanwhile
            self._not_reached(address, system_words(error))
            self._retry_soon()
        else:
            self._unreached.pop(address, None)
            self._links[address] = Link(address, sock, self._link_changed, self._call_ended, PROTOCOL_VERSION)

    def _not_reached(self, address: Address, why: str) -> None:
        if address not in self._unreached:
            self._unreached[address] = self._not_used(address, why)

    def _not_used(self, address: Address, why: str) -> Problem:
        log.error("pool not used", socket=address.path.name, why=why)
        return Problem(resource="pool", detail=f"a pool is not used: {address.path.name}: {why}")

    def _refused(self, address: Address) -> None:
        with contextlib.suppress(OSError):
            if Address.of(address.path) != address or time.time() - address.made_ns / 1e9 < NEWBORN_S:
                self._retry_soon()
                return
            address.path.unlink()
            log.info("removed the socket of a pool that is gone", socket=address.path.name)

    def _link_changed(self, link: Link) -> None:
        if not link.open and link.introduced.is_set() and self._links.get(link.address) is link:
            del self._links[link.address]
            self._remember_lost(link)
            if link.foreign:
                self._unusable[link.address] = Problem(resource="pool", detail=link.foreign)
                self._visit(link.address, link.theirs)
            elif link.welcome is None:
                self._without_a_word(link.address)
            else:
                self._wordless.pop(link.address, None)
                self._retry_soon()
        self._on_ready(self.ready)

    def _visit(self, address: Address, version: int) -> None:
        """Come to a pool of another version as one of its own: `HandOff` and `AskEnd` are what all versions have."""
        with contextlib.suppress(OSError, ForeignSocket):  # it is gone by now
            self._guests[address] = Link(address, dial(address.path), self._guest_changed, self._call_ended, version)

    def _guest_changed(self, link: Link) -> None:
        if not link.open and link.introduced.is_set() and self._guests.get(link.address) is link:
            del self._guests[link.address]
            self._remember_lost(link)

    def _without_a_word(self, address: Address) -> None:
        """Meet a pool that closes on us again soon, and after some times later."""
        times = self._wordless[address] = self._wordless.get(address, 0) + 1
        if times < WORDLESS_MOST:
            self._retry_soon()
            return
        if times == WORDLESS_MOST:
            log.error("pool not used: it closes without a word", socket=address.path.name, ours=PROTOCOL_VERSION)
        self._unusable[address] = Problem(
            resource="pool",
            detail="a pool closes every connection without a word, as older ones do that speak another version of the "
            f"control protocol than ours, {PROTOCOL_VERSION} ({address.path.name})",
        )
        asyncio.get_running_loop().call_later(WORDLESS_PAUSE_S, self._unusable.pop, address, None)

    def _call_ended(self, end: Ended) -> None:
        if end.reason is EndReason.NEVER_CONNECTED:
            return  # a promise that ran out; another pool may have the call
        self._ends[end.call_sid, end.attempt] = end
        while len(self._ends) > ENDS_KEPT:
            del self._ends[next(iter(self._ends))]

    def _remember_lost(self, link: Link) -> None:
        if link.welcome is not None:
            self._lost[link.welcome.pool, link.welcome.boot] = link.address.path
            while len(self._lost) > LOST_KEPT:
                del self._lost[next(iter(self._lost))]

    def _retry_soon(self) -> None:
        """Scan again in a moment; a pool that is lost is thus met at most 5 times a second."""
        if self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(RETRY_S, self._retry_now)

    def _retry_now(self) -> None:
        self._retry = None
        self._scan()


async def _reserve(
    link: Link, call: IncomingCall, ttl_s: float, behind: int, patience_s: float | None
) -> Reserved | NoWorker | None:
    """Ask one pool; one that does not answer in time is asked last until it says something again."""
    try:
        async with asyncio.timeout(patience_s):
            answer: Reserved | NoWorker | None = await link.ask(
                lambda number: Reserve(request=number, call=call, ttl_s=ttl_s, behind=behind)
            )
            return answer
    except TimeoutError:
        link.late = True
        return None
