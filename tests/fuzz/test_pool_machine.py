"""The pool against everybody at once: whatever order births, words, deaths, webhooks, upgrades and time come in.

Each run is a story of up to fifty events; after each event what must always hold is looked at from the pool's own books
and from the other side of its sockets.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shared.calls import CallSid, CallState, EndReason, IncomingCall, StreamSid, TraceId
from shared.messages import (
    Beat,
    Closed,
    Ending,
    EndStored,
    Entry,
    FirstMedia,
    HandOff,
    Message,
    NoPrefetch,
    ProviderLost,
    Ready,
    Reserve,
    Reserved,
    Resumed,
    Started,
    WarmFailed,
)
from shared.ticket import Ticket
from shared.workers import PARKED_RESOURCES, PoolId, Resource, WorkerId, WorkerState
from tests.effort import effort
from tests.fuzz.pool_rig import MOST, POOL, UNIX_EPOCH, Player, Rig
from worker.pool.plan import EXIT_LIMIT_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.pool.book import Call

S = WorkerState
HEAD = (
    b"GET /media/x HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
TRACE = TraceId("0" * 32)

which = st.integers(0, 5)
sids = st.integers(1, 4).map(lambda number: CallSid(f"CA{number:032x}"))
attempts = st.integers(0, 1)
AFTER_RESERVED = {S.RESERVED, S.IN_CALL, S.RETIRED, None}


class _PoolMachine(RuleBasedStateMachine):
    """A pool of two ready workers, four at most."""

    @initialize(stt_most=st.sampled_from([0, 0, 1]))
    def begin(self, stt_most: int) -> None:
        self.rig = Rig(stt_max_connections=stt_most)
        self.pool = self.rig.pool
        self.tickets: list[Ticket] = []
        self.ended: dict[int, tuple[Call, EndReason | None]] = {}
        self.states: dict[WorkerId, WorkerState] = {}

    def teardown(self) -> None:
        if hasattr(self, "rig"):
            assert self.rig.close() == set()

    # --- who is there -----------------------------------------------------------------------------------------------

    def players(self, like: Callable[[Player], bool]) -> list[Player]:
        return [player for player in self.rig.players.values() if like(player)]

    def unborn(self) -> list[Player]:
        return self.players(lambda player: player.pidfd is None)

    def alive(self, *states: WorkerState) -> list[Player]:
        """Give the processes that run, those of workers in one of these states when any is given."""

        def fits(player: Player) -> bool:
            worker = self.rig.worker(player)
            return player.pidfd is not None and (not states or (worker is not None and worker.state in states))

        return self.players(fits)

    # --- births and deaths ------------------------------------------------------------------------------------------

    @precondition(lambda self: self.unborn())
    @rule(number=which)
    def a_worker_is_born(self, number: int) -> None:
        born = self.unborn()
        self.rig.birth(born[number % len(born)])

    @precondition(lambda self: self.unborn())
    @rule(number=which)
    def a_worker_parks_at_once(self, number: int) -> None:
        born = self.unborn()
        player = born[number % len(born)]
        player.say(Ready(build_s=0.1))
        self.rig.birth(player)

    @precondition(lambda self: self.alive(S.WARMING))
    @rule(number=which)
    def a_worker_parks(self, number: int) -> None:
        warming = self.alive(S.WARMING)
        self.say(warming[number % len(warming)], Ready(build_s=0.1))

    @precondition(lambda self: self.unborn())
    @rule(number=which)
    def a_fork_is_refused(self, number: int) -> None:
        born = self.unborn()
        self.rig.stillbirth(born[number % len(born)])

    @precondition(lambda self: self.alive())
    @rule(number=which)
    def a_worker_dies(self, number: int) -> None:
        living = self.alive()
        self.rig.death(living[number % len(living)])

    @precondition(lambda self: self.alive(S.RESERVED, S.IN_CALL))
    @rule(number=which)
    def a_busy_worker_dies(self, number: int) -> None:
        busy = self.alive(S.RESERVED, S.IN_CALL)
        self.rig.death(busy[number % len(busy)])

    @precondition(lambda self: self.rig.watch.killed)
    @rule()
    def what_was_killed_dies(self) -> None:
        for player in self.alive():
            if player.pidfd in self.rig.watch.killed:
                self.rig.death(player)

    @precondition(lambda self: self.alive())
    @rule(number=which)
    def a_channel_ends_before_its_process(self, number: int) -> None:
        living = self.alive()
        living[number % len(living)].close()
        self.rig.turn()

    @precondition(lambda self: self.rig.zygote.alive)
    @rule()
    def the_zygote_dies(self) -> None:
        self.rig.zygote_dies()

    @rule(good=st.booleans())
    def the_agents_are_changed(self, *, good: bool) -> None:
        self.rig.change(good=good)

    # --- what workers say -------------------------------------------------------------------------------------------

    def say(self, player: Player, message: Message) -> None:
        if player.sock.fileno() >= 0:
            player.say(message)
        self.rig.turn()

    words = st.one_of(
        st.builds(Ready, build_s=st.just(0.1)),
        st.builds(WarmFailed, resource=st.sampled_from(Resource), detail=st.just("x"), traceback=st.just("x")),
        st.builds(ProviderLost, resource=st.sampled_from(Resource), detail=st.just("x")),
        st.builds(
            Beat,
            warm=st.dictionaries(st.sampled_from(Resource), st.booleans())
            | st.just(dict.fromkeys(PARKED_RESOURCES, True)),
            lag_s=st.just(0.0),
        ),
        st.builds(FirstMedia, at=st.just(0.0)),
        st.builds(Resumed, at=st.just(1_000.0)),
        st.builds(Started, stream_sid=st.just(StreamSid("MZ1"))),
        st.builds(Entry, kind=st.just("user"), text=st.just("hello"), at=st.just(0.0)),
        st.builds(Closed),
    )

    @precondition(lambda self: self.alive())
    @rule(number=which, message=words)
    def a_worker_says(self, number: int, message: Message) -> None:
        living = self.alive()
        self.say(living[number % len(living)], message)

    @precondition(lambda self: self.alive(S.IN_CALL))
    @rule(number=which, reason=st.sampled_from(EndReason))
    def a_worker_ends_its_call(self, number: int, reason: EndReason) -> None:
        """However Redis is, it is told within moments that it may close."""
        talking = self.alive(S.IN_CALL)
        player = talking[number % len(talking)]
        worker = self.rig.worker(player)
        assert worker is not None
        reachable = worker.channel is not None and worker.channel.open
        self.say(player, Ending(reason=reason))
        assert not reachable or any(isinstance(message, EndStored) for message in player.told)

    # --- what routers and callers do --------------------------------------------------------------------------------

    def ask(self, message: Message, fds: list[int] | None = None) -> list[Any]:
        answers: list[Any] = []

        def answer(said: Message) -> bool:
            answers.append(said)
            return True

        self.rig.do(lambda: self.pool._control.receive(message, fds or [], answer))
        return answers

    @rule(sid=sids, attempt=attempts, ttl=st.sampled_from([0.0, 5.0, 30.0]))
    def a_webhook_asks_for_a_worker(self, sid: CallSid, attempt: int, ttl: float) -> None:
        call = IncomingCall(call_sid=sid, caller="", called="", trace_id=TRACE, attempt=attempt)
        (answer,) = self.ask(Reserve(request=1, call=call, ttl_s=ttl))
        if isinstance(answer, Reserved):
            self.tickets.append(answer.ticket)
            assert self.ask(Reserve(request=2, call=call, ttl_s=ttl))[0] == Reserved(
                request=2, ticket=answer.ticket, agent=answer.agent
            ) or ttl == 0.0  # fmt: skip

    @precondition(lambda self: self.tickets)
    @rule(number=st.integers(0, 20), head=st.sampled_from([HEAD, HEAD, HEAD, b"", b"GET / HTTP/1.1\r\n\r\n"]))
    def an_upgrade_comes(self, number: int, head: bytes) -> None:
        self.upgrade(self.tickets[-1 - number % len(self.tickets)], head)

    @rule(sid=sids, attempt=attempts, expires_in=st.sampled_from([-1, 30]), ours=st.booleans())
    def an_upgrade_of_another_life_comes(self, sid: CallSid, attempt: int, expires_in: int, *, ours: bool) -> None:
        """A ticket that this pool has no promise for: of another pool that is gone, or claiming to be its own."""
        pool, boot = (POOL, "b00t") if ours else (PoolId("p2"), "b2")
        expires_at = int(UNIX_EPOCH + self.rig.clock.now) + expires_in
        self.upgrade(Ticket(sid, attempt, pool, boot, WorkerId("0-1"), TRACE, expires_at), HEAD)

    def upgrade(self, ticket: Ticket, head: bytes) -> None:
        """Hand a socket over: it is answered, with a 101 exactly when a worker has got it."""
        caller, accepted = socket.socketpair()
        caller.setblocking(False)
        self.rig.callers.append(caller)
        bound = sum(len(player.binds) for player in self.rig.players.values())
        message = HandOff(ticket=ticket, head=head, accepted_at=self.rig.clock.now)
        self.ask(message, [accepted.detach()])
        bound = sum(len(player.binds) for player in self.rig.players.values()) - bound
        answer = caller.recv(65_536)
        assert answer.startswith(b"HTTP/1.1 101 ") == (bound == 1), answer

    @precondition(lambda self: self.tickets)
    @rule(count=st.sampled_from([0, 2]))
    def a_hand_off_without_its_one_socket_comes(self, count: int) -> None:
        message = HandOff(ticket=self.tickets[-1], head=HEAD, accepted_at=self.rig.clock.now)
        assert self.ask(message, [os.open("/dev/null", os.O_RDONLY) for _ in range(count)]) == []

    @precondition(lambda self: self.rig.callers)
    @rule(number=which)
    def a_caller_hangs_up(self, number: int) -> None:
        self.rig.callers.pop(number % len(self.rig.callers)).close()
        self.rig.turn()

    @rule(sid=sids)
    def no_job_was_queued(self, sid: CallSid) -> None:
        self.ask(NoPrefetch(call_sid=sid, why="not_queued"))

    @rule(away=st.booleans())
    def redis_comes_or_goes(self, *, away: bool) -> None:
        self.rig.records.away = self.rig.directory.away = away

    @rule(seconds=st.sampled_from([0.0, 0.5, 2.0, 5.0, 31.0, 300.0]))
    def time_passes(self, seconds: float) -> None:
        self.rig.advance(seconds)

    @precondition(lambda self: self.pool._drain_until is None and self.tickets)
    @rule()
    def the_pool_is_told_to_leave(self) -> None:
        self.rig.do(self.pool.drain)

    # --- what always holds ------------------------------------------------------------------------------------------

    @invariant()
    def what_always_holds(self) -> None:
        """Look at everything; one rule, so that a story that failed is short to read."""
        self.no_worker_has_two_calls()
        self.calls_and_workers_agree()
        self.what_streams_is_counted_once()
        self.an_ended_call_stays_ended_for_its_reason()
        self.a_reserved_worker_is_bound_or_leaves_in_its_time()
        self.who_was_told_to_leave_and_stays_is_killed()
        self.there_are_never_more_workers_than_allowed()
        self.whoever_is_not_of_the_newest_generation_is_outdated()

    def calls(self) -> list[Call]:
        """Give every attempt that is not over; the book's own list has the latest of each call."""
        return [call for call in self.pool._book._calls.values() if call.state is not CallState.ENDED]

    def no_worker_has_two_calls(self) -> None:
        for player in self.rig.players.values():
            assert len(player.binds) <= 1
        serving = [call.worker for call in self.calls() if call.worker is not None]
        assert len(serving) == len(set(serving))

    def calls_and_workers_agree(self) -> None:
        for call in self.calls():
            worker = self.pool._roster.get(call.worker)
            assert call.worker is None or (worker is not None and worker.call is call)
            assert call.state is not CallState.STREAMING or (worker is not None and worker.state is S.IN_CALL)
        for worker in self.pool._roster:
            if worker.state in {S.RESERVED, S.IN_CALL}:
                assert worker.call is not None
                assert worker.call.worker == worker.id

    def what_streams_is_counted_once(self) -> None:
        streaming = [call for call in self.pool._book._calls.values() if call.streaming]
        assert self.pool._book.streaming == len(streaming)
        assert all(call.stream is not None for call in streaming)

    def an_ended_call_stays_ended_for_its_reason(self) -> None:
        for call in self.pool._book._calls.values():
            if call.state is CallState.ENDED:
                self.ended.setdefault(id(call), (call, call.reason))
        for call, reason in self.ended.values():
            assert call.state is CallState.ENDED
            assert call.reason is reason is not None
            known = self.pool._book.get(call.sid, call.attempt)
            assert known is not None or self.rig.clock.now - call.ended_at > 100

    def a_reserved_worker_is_bound_or_leaves_in_its_time(self) -> None:
        now = {worker.id: worker.state for worker in self.pool._roster}
        for name, state in self.states.items():
            assert state is not S.RESERVED or now.get(name) in AFTER_RESERVED
            assert state is not S.IN_CALL or now.get(name) in {S.IN_CALL, None}
        self.states = now
        for worker in self.pool._roster:
            if worker.state is S.RESERVED and not worker.killed:
                assert worker.call is not None
                assert worker.call.deadline > self.rig.clock.now

    def who_was_told_to_leave_and_stays_is_killed(self) -> None:
        for worker in self.pool._roster:
            overdue = worker.state in {S.RETIRED, S.FAILED} and worker.since + EXIT_LIMIT_S <= self.rig.clock.now
            assert not overdue or worker.killed

    def there_are_never_more_workers_than_allowed(self) -> None:
        assert len(self.pool._roster) <= MOST
        slots = [worker.slot for worker in self.pool._roster]
        assert len(slots) == len(set(slots))

    def whoever_is_not_of_the_newest_generation_is_outdated(self) -> None:
        """One that was replaced because it died has left nothing to change."""
        newest = self.pool._nursery.agents
        assert all(worker.outdated or worker.agents is newest for worker in self.pool._roster)


TestPoolMachine = _PoolMachine.TestCase
TestPoolMachine.settings = effort(60)
