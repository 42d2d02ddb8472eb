"""The pool from outside: real processes, a real control socket, real callers; only the worker's inside is a fake."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import TYPE_CHECKING

import pytest
from websockets.exceptions import InvalidStatus

from shared.agents import Agent
from shared.calls import CallSid, CallState, EndReason, IncomingCall, TraceId
from shared.messages import Hello, NoPrefetch, NoWorker, Reserved
from shared.ticket import Ticket
from shared.workers import PARKED_RESOURCES, PoolId, Resource, WorkerId
from tests.fake_child import Script
from tests.pool_process import (
    DEADLINE_S,
    Router,
    descriptors,
    eventually,
    eventually_asked,
    lives,
    new_sid,
    running_pool,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from websockets.asyncio.client import ClientConnection

    from tests.pool_process import PoolProcess


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[PoolProcess]:
    async with running_pool(tmp_path) as running:
        yield running


@pytest.fixture
async def router(pool: PoolProcess) -> Router:
    router = await pool.router()
    await router.ready(2)
    return router


async def said(stream: ClientConnection, text: str) -> str:
    await stream.send(text)
    async with asyncio.timeout(DEADLINE_S):
        while True:
            answer = str(await stream.recv())
            if not answer.startswith('{"event":"media"'):  # bridging words of the pool are no answer
                return answer


async def unavailable(stream: ClientConnection) -> bool:
    return await said(stream, "customer") == "unavailable"


async def closed(stream: ClientConnection) -> int:
    async with asyncio.timeout(DEADLINE_S):
        await stream.wait_closed()
    assert stream.close_code is not None
    return stream.close_code


async def ended(router: Router, sid: CallSid) -> EndReason:
    async def known() -> EndReason | None:
        return (await router.end_of(sid)).reason

    return await eventually_asked(known)


# --- reserving ----------------------------------------------------------------------------------------------------------


async def test_ready_means_that_everything_a_parked_worker_needs_is_warm(pool: PoolProcess, router: Router) -> None:
    assert router.welcome is not None
    assert router.welcome.pool == "p1"
    for slot in ("0", "1"):
        assert await pool.metric("offhook_worker_state", worker=slot, state="ready") == 1
        for resource in Resource:
            warm = await pool.metric("offhook_worker_warm", worker=slot, resource=resource)
            assert warm == (resource in PARKED_RESOURCES)
    assert await pool.metric("offhook_workers", state="ready") == 2
    assert await pool.metric("offhook_pipeline_creation_seconds_count") == 2
    status, text = await pool.get("/readyz")
    assert (status, json.loads(text)["ready"]) == (200, 2)


async def test_a_repeated_webhook_gets_the_same_ticket(router: Router) -> None:
    sid = new_sid()
    first, again = await router.reserved(sid), await router.reserved(sid)
    assert first.ticket == again.ticket
    assert first.agent == Agent()
    await router.until(lambda: router.readiness[-1].ready == 1)


async def test_stt_and_llm_are_warm_from_the_reservation_on(pool: PoolProcess, router: Router) -> None:
    await router.reserved(new_sid())
    await router.ready(1)

    async def both() -> bool:
        warm = [
            sum([await pool.metric("offhook_worker_warm", worker=slot, resource=resource) for slot in ("0", "1")])
            for resource in (Resource.STT, Resource.LLM)
        ]
        return min(warm) >= 1

    assert await eventually_asked(both)
    assert await pool.metric("offhook_workers", state="reserved") == 1


async def test_workers_promised_in_one_moment_are_all_prepared(pool: PoolProcess, router: Router) -> None:
    promised = await asyncio.gather(*(router.reserved(new_sid()) for _ in range(2)))

    async def ears() -> bool:
        slots = [one.ticket.worker.split("-")[0] for one in promised]
        warm = [await pool.metric("offhook_worker_warm", worker=slot, resource=Resource.STT) for slot in slots]
        return warm == [1, 1]

    assert await eventually_asked(ears)


async def test_no_worker_is_an_answer_and_a_cold_start(tmp_path: Path) -> None:
    async with running_pool(tmp_path, ready=1, settings={"POOL_MAX": "1"}) as pool:
        router = await pool.router()
        await router.ready(1)
        await router.reserved(new_sid())
        refused = new_sid()
        for _ in range(2):  # one that asks again is counted once
            answer = await router.reserve(refused)
            assert isinstance(answer, NoWorker)
            assert answer.why == "none_ready"
        assert await pool.metric("offhook_cold_starts_total") == 1
        status, text = await pool.get("/readyz")
        assert (status, json.loads(text)["reason"]) == (503, "all_taken")
        assert await pool.metric("offhook_pool_empty_seconds_total") > 0


async def test_a_call_with_others_before_it_gets_a_worker_only_when_enough_are_left_for_them(
    pool: PoolProcess, router: Router
) -> None:
    behind_two, behind_one = new_sid(), new_sid()
    assert isinstance(await router.reserve(behind_two, behind=2), NoWorker)
    promised = await router.reserve(behind_one, behind=1)
    assert isinstance(await router.reserve(new_sid(), behind=1), NoWorker)
    again = await router.reserve(behind_one, behind=5)
    assert isinstance(promised, Reserved)
    assert isinstance(again, Reserved)
    assert again.ticket == promised.ticket
    await router.reserved(new_sid())
    assert await pool.metric("offhook_cold_starts_total") == 2


async def test_callers_before_a_call_count_against_the_ears_that_are_left(tmp_path: Path) -> None:
    async with running_pool(tmp_path, ready=3, settings={"STT_MAX_CONNECTIONS": "2"}) as pool:
        router = await pool.router()
        await router.ready(3)
        assert isinstance(await router.reserve(new_sid(), behind=2), NoWorker)
        assert isinstance(await router.reserve(new_sid(), behind=1), Reserved)


async def test_an_unused_reservation_costs_its_worker_and_ends_the_call(pool: PoolProcess, router: Router) -> None:
    """The worker already holds one caller's profile: it is never given to another."""
    sid = new_sid()
    promised = await router.reserved(sid, ttl_s=0.2)
    assert await ended(router, sid) is EndReason.NEVER_CONNECTED
    await pool.said("worker gone")
    await router.ready(2)
    assert promised.ticket.worker not in pool.workers()
    assert await router.refused(promised.ticket) == 403
    assert await pool.metric("offhook_reservations_expired_total") == 1
    assert await pool.metric("offhook_calls_total", end_reason="never_connected") == 1
    again = await router.reserved(sid)
    assert again.ticket.worker != promised.ticket.worker


async def test_a_new_attempt_of_a_call_is_a_new_reservation(router: Router) -> None:
    sid = new_sid()
    first = await router.reserve(sid, attempt=0)
    second = await router.reserve(sid, attempt=1)
    assert not isinstance(first, NoWorker)
    assert not isinstance(second, NoWorker)
    assert first.ticket.worker != second.ticket.worker


# --- the hand-off -------------------------------------------------------------------------------------------------------


async def test_a_caller_talks_to_the_reserved_worker_and_the_end_is_known(pool: PoolProcess, router: Router) -> None:
    sid = new_sid()
    promised = await router.reserved(sid)
    async with router.upgrade(promised.ticket) as stream:
        worker = (await said(stream, "who")).split()[0]
        assert worker == promised.ticket.worker
        assert await said(stream, "prepared") == "prepared"
        assert await said(stream, "hello") == "hello"
        assert (await router.end_of(sid)).state is CallState.STREAMING
        assert await pool.metric("offhook_calls_active") == 1
        await stream.send("end agent_hangup")
        assert await closed(stream) == 1000
    assert await ended(router, sid) is EndReason.AGENT_HANGUP
    assert await pool.metric("offhook_calls_active") == 0
    assert await pool.metric("offhook_calls_total", end_reason="agent_hangup") == 1
    assert await pool.metric("offhook_greeting_start_latency_seconds_count") >= 1
    await router.ready(2)


async def test_a_caller_who_hangs_up_ends_the_call(router: Router) -> None:
    sid = new_sid()
    promised = await router.reserved(sid)
    async with router.upgrade(promised.ticket) as stream:
        await said(stream, "hello")
    assert await ended(router, sid) is EndReason.CALLER_HANGUP


async def test_a_ticket_admits_once(router: Router) -> None:
    promised = await router.reserved(new_sid())
    async with router.upgrade(promised.ticket) as stream:
        assert await router.refused(promised.ticket) == 403
        assert await said(stream, "hello") == "hello"
    assert await router.refused(promised.ticket) == 403


async def test_a_malformed_upgrade_is_refused_and_spends_nothing(pool: PoolProcess, router: Router) -> None:
    promised = await router.reserved(new_sid())
    assert await router.refused(promised.ticket, head=b"GET /media/x HTTP/1.1\r\nHost: x\r\n\r\n") == 426
    assert await router.refused(promised.ticket, head=b"\x00\xff\r\n\r\n") == 400
    assert await pool.metric("offhook_handoffs_refused_total", reason="malformed") == 2
    async with router.upgrade(promised.ticket) as stream:
        assert await said(stream, "hello") == "hello"


async def test_a_ticket_this_pool_never_wrote_is_refused(router: Router) -> None:
    promised = await router.reserved(new_sid())
    assert await router.refused(_of(promised.ticket, call_sid=new_sid())) == 403


async def test_a_ticket_of_a_pool_that_is_gone_is_served_by_any_ready_worker_once(router: Router) -> None:
    promised = await router.reserved(new_sid())
    foreign = _of(promised.ticket, call_sid=new_sid(), boot="former life", worker=WorkerId("9-9"))
    async with router.upgrade(foreign) as stream:
        assert await said(stream, "prepared") == "unprepared"
        assert await eventually_asked(lambda: unavailable(stream))  # said behind the hand-over, on a way of its own
        assert await router.refused(foreign) == 403
    assert await router.refused(_of(foreign, call_sid=new_sid(), expires_at=1)) == 403


async def test_a_call_of_a_pool_that_is_gone_is_served_as_its_router_knows_it(tmp_path: Path) -> None:
    """By the agent of the number that was called; only when no router knows of it any more, by the default one."""
    (tmp_path / "agents.toml").write_text('[agents.clinic]\nnumbers = ["+15550002222"]\n')
    async with running_pool(tmp_path, settings={"AGENTS_FILE": str(tmp_path / "agents.toml")}) as pool:
        router = await pool.router()
        await router.ready(2)
        for called, agent in (("+15550002222", "clinic"), ("", "default")):
            sid = new_sid()
            ticket = Ticket(sid, 0, PoolId("other"), "boot", WorkerId("0-1"), TraceId("0" * 32), 2**40)
            call = IncomingCall(call_sid=sid, caller="+15550001111", called=called, trace_id=ticket.trace_id)
            async with router.upgrade(ticket, call=call if called else None) as stream:
                assert await said(stream, "agent") == agent


async def test_without_any_worker_the_upgrade_is_refused_with_503(tmp_path: Path) -> None:
    async with running_pool(tmp_path, said=Script(fail="tts")) as pool:
        router = await pool.router()
        ticket = Ticket(new_sid(), 0, PoolId("other"), "boot", WorkerId("0-1"), TraceId("0" * 32), 2**40)
        with pytest.raises(InvalidStatus) as refused:
            async with router.upgrade(ticket):
                pass
        assert refused.value.response.status_code == 503


async def test_many_calls_leave_no_descriptor_behind(tmp_path: Path) -> None:
    """30 calls, some of whose workers are killed, some refused: pool and zygote hold what they held before."""
    async with running_pool(
        tmp_path, ready=4, settings={"POOL_MAX": "4"}
    ) as pool:  # not one more for a call that waits
        router = await pool.router()
        await router.ready(4)
        before = descriptors(pool.pid), descriptors(pool.zygote)
        for number in range(30):
            await router.until(lambda: router.readiness[-1].ready)
            sid = new_sid()
            promised = await router.reserved(sid)
            async with router.upgrade(promised.ticket) as stream:
                _, pid = (await said(stream, "who")).split()
                if number % 3 == 0:
                    os.kill(int(pid), signal.SIGKILL)
                    await pool.resumed(sid)
                    assert await said(stream, "still there") == "still there"
                elif number % 3 == 1:
                    await stream.send("end agent_hangup")
                    await closed(stream)
            assert await router.refused(promised.ticket) == 403
        await router.ready(4)
        await eventually(lambda: (descriptors(pool.pid), descriptors(pool.zygote)) == before or None)


# --- the customer -------------------------------------------------------------------------------------------------------


async def test_without_a_database_nobody_waits_for_the_customer(router: Router) -> None:
    promised = await router.reserved(new_sid())
    async with router.upgrade(promised.ticket) as stream:
        assert await said(stream, "customer") == "unavailable"


@pytest.mark.parametrize("first", ["reserve", "no_prefetch"])
async def test_without_a_job_or_redis_nobody_waits_for_the_customer(tmp_path: Path, first: str) -> None:
    """The router's word may come before or after the reservation."""
    database = {"SUPABASE_URL": "http://127.0.0.1:9", "SUPABASE_SECRET_KEY": "made-up"}
    async with running_pool(tmp_path, settings=database) as pool:
        router = await pool.router()
        await router.ready(2)
        sid = new_sid()
        if first == "no_prefetch":
            router.channel.send(NoPrefetch(call_sid=sid, why="redis"))
        promised = await router.reserved(sid)
        if first == "reserve":
            router.channel.send(NoPrefetch(call_sid=sid, why="redis"))
        async with router.upgrade(promised.ticket) as stream:
            assert await said(stream, "customer") == "unavailable"


# --- trouble ------------------------------------------------------------------------------------------------------------


async def test_a_parked_worker_that_is_killed_is_replaced(pool: PoolProcess, router: Router) -> None:
    victim, pid = next(iter(pool.workers().items()))
    os.kill(pid, signal.SIGKILL)
    await pool.said("worker gone")
    await router.ready(2)
    assert victim not in pool.workers()


async def test_a_reserved_worker_that_is_killed_is_replaced_by_another(pool: PoolProcess, router: Router) -> None:
    """The promise passes to another ready worker, which is prepared; the ticket stays what it was."""
    sid = new_sid()
    promised = await router.reserved(sid)
    os.kill(pool.workers()[promised.ticket.worker], signal.SIGKILL)
    await pool.said("worker gone")
    assert (await router.reserved(sid)).ticket == promised.ticket
    async with router.upgrade(promised.ticket) as stream:
        assert (await said(stream, "who")).split()[0] != promised.ticket.worker
        assert await said(stream, "prepared") == "prepared"
        assert await said(stream, "customer") == "unavailable"


async def test_a_promise_without_a_worker_expires_too(tmp_path: Path) -> None:
    async with running_pool(tmp_path, ready=1) as pool:
        router = await pool.router()
        await router.ready(1)
        sid = new_sid()
        pool.tell(Script(hang=True))
        promised = await router.reserved(sid, ttl_s=1.0)
        os.kill(pool.workers()[promised.ticket.worker], signal.SIGKILL)
        assert await ended(router, sid) is EndReason.NEVER_CONNECTED


async def test_the_death_of_the_zygote_touches_no_worker_and_a_new_one_takes_over(
    pool: PoolProcess, router: Router
) -> None:
    sid = new_sid()
    promised = await router.reserved(sid)
    async with router.upgrade(promised.ticket) as stream:
        former, workers = pool.zygote, pool.workers()
        os.kill(former, signal.SIGKILL)
        await eventually(lambda: pool.zygote != former or None)
        assert await said(stream, "hello") == "hello"
        await router.ready(2)
        assert workers.items() <= pool.workers().items()
        os.kill(workers[promised.ticket.worker], signal.SIGKILL)  # an orphan now: its pidfd still tells
        await pool.resumed(sid)
        assert (await said(stream, "who")).split()[0] != promised.ticket.worker


async def test_the_end_of_the_pool_leaves_calls_alone_and_ends_everybody_else(tmp_path: Path) -> None:
    async with running_pool(tmp_path) as pool:
        router = await pool.router()
        await router.ready(2)
        promised = await router.reserved(new_sid())
        async with router.upgrade(promised.ticket) as stream:
            name = (await said(stream, "who")).split()[0]
            zygote = pool.zygote
            pool.process.kill()
            await pool.process.wait()
            await eventually(lambda: pool.workers().keys() == {name} or None)
            await eventually(lambda: not lives(zygote) or None)
            assert await said(stream, "hello") == "hello"
        await eventually(lambda: not pool.workers() or None)


async def test_a_socket_left_by_a_killed_pool_is_taken_over(tmp_path: Path) -> None:
    async with running_pool(tmp_path) as pool:
        pool.process.kill()
        await pool.process.wait()
        assert pool.socket.exists()
    async with running_pool(tmp_path) as pool:
        router = await pool.router()
        await router.ready(2)
        assert pool.socket.stat().st_mode & 0o777 == 0o600
        assert pool.socket.parent.stat().st_mode & 0o777 == 0o700
    assert not pool.socket.exists()


async def test_a_provider_that_only_some_agents_have_is_named_in_readyz_while_it_is_away(tmp_path: Path) -> None:
    async with running_pool(tmp_path, said=Script(away="tts elevenlabs", lose_provider_after_ms=300)) as pool:
        router = await pool.router()
        await router.ready(2)
        status, text = await pool.get("/readyz")
        assert status == 200
        said = [(each["resource"], each["detail"]) for each in json.loads(text)["problems"]]
        assert ("tts elevenlabs", "as told") in said
        pool.tell(Script())
        while json.loads((await pool.get("/readyz"))[1])["problems"]:
            pass


async def test_a_provider_that_is_down_is_named_in_readyz_and_the_pool_recovers_by_itself(tmp_path: Path) -> None:
    async with running_pool(tmp_path, said=Script(fail="tts")) as pool:
        router = await pool.router()
        await router.until(lambda: router.readiness and router.readiness[-1].problems)
        assert router.readiness[-1].problems[0].resource == "tts"
        status, text = await pool.get("/readyz")
        health = json.loads(text)
        assert (status, health["reason"]) == (503, "tts")
        assert health["problems"] == [{"resource": "tts", "detail": "as told", "traceback": "Traceback: as told"}]
        assert await pool.metric("offhook_warmups_failed_total", resource="tts") >= 1
        pool.tell(Script())
        await router.ready(2)
        assert (await pool.get("/readyz"))[0] == 200
        assert router.readiness[-1].problems == ()


async def test_a_worker_that_dies_while_warming_is_a_failed_warm_up(tmp_path: Path) -> None:
    async with running_pool(tmp_path, said=Script(die=True)) as pool:
        router = await pool.router()
        await router.until(lambda: router.readiness and router.readiness[-1].problems)
        assert router.readiness[-1].problems[0].resource == "process"
        pool.tell(Script())
        await router.ready(2)


async def test_a_zygote_that_cannot_load_is_named_in_readyz_and_tried_again(tmp_path: Path) -> None:
    async with running_pool(tmp_path, said=Script(load_fails="turn")) as pool:
        router = await pool.router()
        await router.until(lambda: router.readiness and router.readiness[-1].problems)
        health = json.loads((await pool.get("/readyz"))[1])
        assert health["reason"] == "turn"
        assert "the script says so" in health["problems"][0]["traceback"]
        pool.tell(Script())
        await router.ready(2)


async def test_a_parked_worker_that_loses_its_provider_is_replaced(tmp_path: Path) -> None:
    async with running_pool(tmp_path, said=Script(lose_provider_after_ms=1)) as pool:
        router = await pool.router()
        await pool.said("provider lost")
        pool.tell(Script())
        await router.ready(2)


async def test_workers_are_recycled_without_ever_being_fewer(tmp_path: Path) -> None:
    async with running_pool(tmp_path, settings={"RECYCLE_AFTER": "0.5"}) as pool:
        router = await pool.router()
        await router.ready(2)
        reached, first = len(router.readiness), pool.workers()
        await eventually(lambda: not (first.keys() & pool.workers().keys()) or None)
        assert min(each.ready for each in router.readiness[reached:]) >= 2


# --- routers ------------------------------------------------------------------------------------------------------------


async def test_a_router_of_another_version_is_shown_the_door(pool: PoolProcess, router: Router) -> None:
    stranger = Router(pool.socket)
    stranger.channel.send(Hello(version=99))
    async with asyncio.timeout(DEADLINE_S):
        await stranger.lost.wait()
    assert await router.end_of(new_sid()) is not None


async def test_a_router_that_sends_garbage_is_cut_off_alone(pool: PoolProcess, router: Router) -> None:
    stranger = Router(pool.socket)
    stranger.channel._sock.send(b"not json")
    async with asyncio.timeout(DEADLINE_S):
        await stranger.lost.wait()
    assert (await router.reserved(new_sid())).ticket.pool == "p1"


# --- leaving ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_draining_lets_calls_finish_and_takes_no_new_one(tmp_path: Path, number: signal.Signals) -> None:
    async with running_pool(tmp_path, ready=3, settings={"DRAIN_TIMEOUT": "3600"}) as pool:
        router = await pool.router()
        await router.ready(3)
        talking, coming = new_sid(), new_sid()
        promised, later = await router.reserved(talking), await router.reserved(coming)
        async with router.upgrade(promised.ticket) as stream:
            await said(stream, "hello")
            pool.process.send_signal(number)
            await router.until(lambda: router.readiness[-1].draining)
            pool.process.send_signal(number)  # the second one changes nothing
            answer = await router.reserve(new_sid())
            assert isinstance(answer, NoWorker)
            assert answer.why == "draining"
            assert (await pool.get("/readyz"))[0] == 503
            async with router.upgrade(later.ticket) as second:  # promised before: still welcome
                assert await said(second, "hello") == "hello"
            assert await said(stream, "hello") == "hello"
            assert pool.process.returncode is None
            await stream.send("end agent_hangup")
            await closed(stream)
        assert await pool.stop() == 0
        assert not pool.socket.exists()
        assert not pool.workers()


async def test_draining_ends_calls_when_their_time_is_over(tmp_path: Path) -> None:
    async with running_pool(tmp_path, settings={"DRAIN_TIMEOUT": "0.2"}) as pool:
        router = await pool.router()
        await router.ready(2)
        promised = await router.reserved(new_sid())
        async with router.upgrade(promised.ticket) as stream:
            await said(stream, "hello")
            pool.process.send_signal(signal.SIGTERM)
            assert await closed(stream) == 1000
        assert await pool.stop() == 0
        assert (await pool.said("call ended"))["reason"] == "drained"


async def test_a_pool_that_has_no_zygote_yet_leaves_at_once(tmp_path: Path) -> None:
    async with running_pool(tmp_path) as pool:
        assert await pool.stop() == 0


def _of(ticket: Ticket, **changed: object) -> Ticket:
    fields = {name: getattr(ticket, name) for name in ticket.__struct_fields__}
    return Ticket(**{**fields, **changed})
