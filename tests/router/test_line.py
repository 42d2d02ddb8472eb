"""One router's view of the hold line: what it knows, and what it does while Redis does not answer."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from router import line as module
from router.hold import Spot
from router.line import Line
from shared import redis_door
from shared.calls import CallSid
from shared.errors import ReadinessUnavailable
from shared.holdline import MOST_WAITING, SharedHoldLine, Standing, Visitor, Word
from shared.metrics_router import RouterMetrics
from tests.router.harness import DEADLINE_S, soon, until

A, B, C = CallSid("a"), CallSid("b"), CallSid("c")


@dataclass(slots=True, eq=False)
class Redis:
    """A shared line that answers what the test says, or does not."""

    standing: Standing = field(default_factory=lambda: Standing(0, 1, ()))
    away: bool = False
    broken: bool = False
    gate: asyncio.Event = field(default_factory=asyncio.Event)  # answers wait for it
    visits: list[tuple[Visitor | None, dict[CallSid, Word]]] = field(default_factory=list)

    async def visit(self, visitor: Visitor | None, words: Mapping[CallSid, Word]) -> Standing:
        """Answer."""
        self.visits.append((visitor, dict(words)))
        await self.gate.wait()
        if self.away:
            raise ReadinessUnavailable("away")
        if self.broken:
            raise AssertionError("an error of ours")
        return self.standing if visitor is not None else Standing(None, self.standing.length, ())

    @property
    def told(self) -> dict[CallSid, Word]:
        """Everything said about callers since the beginning, the last word for each."""
        return {sid: word for _, words in self.visits for sid, word in words.items()}


@dataclass(slots=True, eq=False)
class Desk:
    """A line under test and what is around it."""

    redis: Redis
    line: Line
    registry: CollectorRegistry

    def left(self) -> float:
        """How many callers were counted as having left."""
        return self.registry.get_sample_value("offhook_hold_seconds_count", {"outcome": "left"}) or 0.0

    def waiting(self) -> float:
        """The gauge."""
        return self.registry.get_sample_value("offhook_hold_waiting") or 0.0


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow machine is not a Redis that hangs."""
    monkeypatch.setattr(module, "ANSWER_S", DEADLINE_S)


@pytest.fixture
def desk() -> Desk:
    """Make a line that does not look by itself."""
    registry = CollectorRegistry()
    redis = Redis()
    redis.gate.set()
    return Desk(redis, Line(redis, RouterMetrics(registry)), registry)


@pytest.fixture
async def looking(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    """Let it look in the background."""
    monkeypatch.setattr(module, "LOOK_S", 0.02)
    async with desk.line.open():
        yield desk


def visitor(sid: CallSid, waited_s: float = 0.0, patience_s: float = 1000.0) -> Visitor:
    return Visitor(sid, waited_s, patience_s)


async def test_a_place_is_what_the_shared_line_says(desk: Desk) -> None:
    desk.redis.standing = Standing(4, 7, (3.0, 5.0))
    assert await desk.line.visit(visitor(A)) == Spot(4, shared=True)
    assert (desk.line.waiting, desk.waiting(), desk.left()) == (7, 7, 2)


async def test_a_full_line_takes_nobody(desk: Desk) -> None:
    desk.redis.standing = Standing(None, MOST_WAITING, ())
    assert await desk.line.visit(visitor(A)) is None
    desk.redis.away = True
    assert await desk.line.visit(visitor(B)) == Spot(0, shared=False), "who was sent away is in no order"


async def test_without_redis_callers_keep_the_order_in_which_they_came(desk: Desk) -> None:
    assert await desk.line.visit(visitor(A)) == Spot(0, shared=True)
    desk.redis.away = True
    assert await desk.line.visit(visitor(B)) == Spot(1, shared=False)
    assert await desk.line.visit(visitor(C, waited_s=60.0)) == Spot(0, shared=False), "it waited at another router"
    assert desk.line.waiting == 3
    asked = len(desk.redis.visits)
    assert await desk.line.visit(visitor(A)) == Spot(1, shared=False)
    assert len(desk.redis.visits) == asked, "nobody waits for what does not answer"


async def test_a_redis_that_hangs_costs_one_caller_a_moment_and_the_others_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_S", 0.05)
    desk.redis.gate.clear()
    spots = await soon(asyncio.gather(*(desk.line.visit(visitor(sid)) for sid in (A, B, C))))
    assert spots == [Spot(0, shared=False), Spot(1, shared=False), Spot(2, shared=False)]
    assert len(desk.redis.visits) == 1


async def test_the_line_is_shared_again_when_redis_is_back(looking: Desk) -> None:
    looking.redis.away = True
    await looking.line.visit(visitor(A))
    asked = len(looking.redis.visits)
    await until(lambda: len(looking.redis.visits) > asked)
    looking.redis.away, looking.redis.standing = False, Standing(0, 5, ())
    await until(lambda: looking.line.waiting == 5)
    assert await looking.line.visit(visitor(A)) == Spot(0, shared=True)


async def test_a_line_that_began_elsewhere_is_seen_without_anybody_asking(looking: Desk) -> None:
    looking.redis.standing = Standing(None, 3, ())
    await until(lambda: looking.line.waiting == 3)


async def test_the_line_is_looked_at_when_a_worker_becomes_ready_where_there_was_none(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_S", 1000.0)
    async with desk.line.open():
        await until(lambda: len(desk.redis.visits) == 1)
        desk.redis.standing = Standing(None, 3, ())
        desk.line.ready(2)
        await until(lambda: desk.line.waiting == 3)
        desk.line.ready(3)
        assert not desk.line._news.is_set(), "the line is known by now"


async def test_an_error_of_ours_does_not_end_the_looking(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.01)
    desk.redis.broken = True
    async with desk.line.open():
        await until(lambda: len(desk.redis.visits) > 1)
        desk.redis.standing, desk.redis.broken = Standing(None, 2, ()), False
        await until(lambda: desk.line.waiting == 2)


async def test_who_is_served_or_hangs_up_is_told_to_the_shared_line_once(looking: Desk) -> None:
    for sid in (A, B):
        await looking.line.visit(visitor(sid))
    looking.line.served(A)
    looking.line.gone(B)
    await until(lambda: looking.redis.told == {A: "served", B: "gone"})
    asked = len(looking.redis.visits)
    await until(lambda: len(looking.redis.visits) > asked)
    assert looking.redis.visits[-1] == (None, {})
    assert looking.left() == 0, "the shared line counts it"


async def test_what_is_to_be_told_waits_until_redis_is_back(looking: Desk) -> None:
    await looking.line.visit(visitor(A))
    looking.redis.away = True
    await looking.line.visit(visitor(B))
    looking.line.served(A)
    looking.redis.away = False
    seen = len(looking.redis.visits)
    await until(lambda: (None, {A: "served"}) in looking.redis.visits[seen:])


async def test_who_leaves_while_redis_is_away_is_counted_here_and_not_again(looking: Desk) -> None:
    looking.redis.away = True
    await looking.line.visit(visitor(A))
    await looking.line.visit(visitor(B, patience_s=0.0))
    looking.line.gone(A)
    looking.line.gone(A)
    await until(lambda: looking.left() == 2)
    assert looking.line.waiting == 0
    looking.redis.away = False
    await until(lambda: looking.redis.told == {A: "served", B: "served"})


async def test_a_caller_that_was_never_held_leaves_no_trace(desk: Desk) -> None:
    desk.line.gone(A)
    assert await desk.line.visit(visitor(B)) is not None
    assert desk.redis.visits[-1][1] == {}


async def test_a_caller_who_comes_back_is_not_let_out_by_an_earlier_word(desk: Desk) -> None:
    await desk.line.visit(visitor(A))
    desk.redis.away = True
    await desk.line.visit(visitor(A))
    desk.line.served(A)
    await desk.line.visit(visitor(A))
    desk.redis.away = False
    await desk.line._ask(None)
    assert A not in desk.redis.told


async def test_what_is_said_during_a_long_outage_is_bounded(desk: Desk) -> None:
    for number in range(MOST_WAITING + 10):
        desk.line.served(CallSid(str(number)))
    await desk.line.visit(visitor(A))
    assert len(desk.redis.visits[-1][1]) == MOST_WAITING


async def test_who_is_being_given_a_worker_stands_in_nobodys_way(desk: Desk) -> None:
    await desk.line.visit(visitor(A))
    with desk.line.asking(A):
        await desk.line.visit(visitor(B))
        assert desk.redis.visits[-1][1] == {A: "asking"}
        desk.redis.away = True
        assert await desk.line.visit(visitor(B)) == Spot(0, shared=False)
    assert await desk.line.visit(visitor(B)) == Spot(1, shared=False)


# --- fairness, on a real Redis --------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Town:
    """Two routers with one line, and workers that become ready; checks at each step that nobody is overtaken."""

    routers: tuple[Line, Line]
    ready: int = 0
    arrived: list[CallSid] = field(default_factory=list)
    served: list[CallSid] = field(default_factory=list)

    @property
    def waiting(self) -> list[CallSid]:
        """Who waits, by arrival."""
        return [sid for sid in self.arrived if sid not in self.served]

    async def arrive(self, router: Line) -> None:
        """Let a caller arrive at a router that has looked at the line lately."""
        sid = CallSid(f"CA-{len(self.arrived)}")
        self.arrived.append(sid)
        await router._ask(None)
        if self.ready > router.waiting:
            self._serve(sid)
        else:
            await self.ask(router, sid)

    async def ask(self, router: Line, sid: CallSid) -> bool:
        """Let a caller ask at any router; say whether it was served."""
        spot = await router.visit(visitor(sid, waited_s=1.0 if sid in self.waiting[:-1] else 0.0))
        assert spot is not None
        assert spot.shared
        if spot.before >= self.ready:
            return False
        self._serve(sid)
        router.served(sid)
        return True

    def _serve(self, sid: CallSid) -> None:
        before = self.waiting.index(sid)
        self.ready -= 1
        assert before <= self.ready, "there is a worker for everybody who came before"
        self.served.append(sid)


async def play(url: str, steps: list[tuple[str, int, int]], most: int) -> Town:
    """Let things happen at two routers, then serve everybody who waits, one by one."""
    clients = [redis_door.commands(url) for _ in range(2)]
    await clients[0].flushall()
    one, two = (Line(SharedHoldLine(client), RouterMetrics(CollectorRegistry())) for client in clients)
    town = Town((one, two))
    for kind, who, where in steps:
        router = town.routers[where]
        if kind == "arrive":
            await town.arrive(router)
        elif kind == "free":
            town.ready = min(town.ready + 1, most)
        elif town.waiting:
            await town.ask(router, town.waiting[who % len(town.waiting)])
    while town.waiting:
        town.ready = max(town.ready, 1)
        for router in town.routers:
            await router._ask(None)
        asked = [await town.ask(town.routers[number % 2], sid) for number, sid in enumerate(reversed(town.waiting))]
        assert any(asked), "the line moves"
    for client in clients:
        await client.aclose()
    return town


STEPS = st.lists(
    st.tuples(st.sampled_from(["arrive", "arrive", "ask", "ask", "free"]), st.integers(0, 20), st.integers(0, 1)),
    max_size=30,
)
ON_REDIS = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.redis
@ON_REDIS
@given(STEPS)
def test_one_worker_at_a_time_serves_callers_of_two_routers_in_the_order_of_arrival(
    redis_url: str, steps: list[tuple[str, int, int]]
) -> None:
    town = asyncio.run(play(redis_url, steps, most=1))
    assert town.served == town.arrived


@pytest.mark.redis
@ON_REDIS
@given(STEPS)
def test_several_workers_at_a_time_serve_nobody_at_the_cost_of_one_who_came_before(
    redis_url: str, steps: list[tuple[str, int, int]]
) -> None:
    town = asyncio.run(play(redis_url, steps, most=3))
    assert sorted(town.served) == sorted(town.arrived)
