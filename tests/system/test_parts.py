"""Parts that are started in any order, absent or wrongly set: calls are answered all the same, or it is said why not.

What fails while people are on the line is in `test_outages`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from shared.metrics import Loss
from tests.effort import LONG
from tests.pool_process import descriptors
from tests.stack import Plan, Stack
from tests.system.talk import ask, greeted, worker_of

if TYPE_CHECKING:
    from tests.standins.carrier import Carrier

pytestmark = pytest.mark.system

CALLER = "+5511987654321"
READY_RESOURCES = ("tools", "vad", "turn", "tts")


async def served(stack: Stack, carrier: Carrier) -> None:
    """Place a call that is greeted, answered once, and hung up."""
    await stack.ready(1)
    call = await carrier.dial(from_=CALLER)
    await greeted(call)
    await ask(call, "yes", "said:")
    await call.hangup()
    assert (await call.ended()).outcome == "completed"


async def test_each_process_stops_with_zero_and_comes_back_in_any_order() -> None:
    async with Stack(Plan(pool_ready=1)) as stack, stack.carrier() as carrier:
        await served(stack, carrier)
        for order in (("router", "pool", "prefetcher"), ("prefetcher", "pool", "router")):
            for name in order:
                assert await asyncio.to_thread(stack.parts[name].terminate) == 0, f"{name}\n{stack.tail()}"
            for name in reversed(order):
                stack.parts[name].start()
            await served(stack, carrier)
        for name in ("pool", "router"):
            stack.parts[name].stop(signal.SIGKILL)
            stack.parts[name].start()
            await served(stack, carrier)


async def test_redis_was_never_there() -> None:
    async with Stack(Plan(pool_ready=1, redis=False, prefetcher=False)) as stack, stack.carrier() as carrier:
        await served(stack, carrier)


async def test_without_supabase_nobody_waits_for_a_customer() -> None:
    """The gate opens at once, so the first answer comes long before `PREFETCH_TIMEOUT`."""
    async with (
        Stack(Plan(pool_ready=1, supabase=False, env={"PREFETCH_TIMEOUT": "25"})) as stack,
        stack.carrier() as carrier,
    ):
        await served(stack, carrier)


async def test_a_record_that_comes_late_but_in_time_is_in_the_first_answer() -> None:
    """The lookup takes longer than the caller needs to ask: the first completion is held, not sent without it."""
    plan = Plan(pool_ready=1, lookup_ms=2500, env={"PREFETCH_TIMEOUT": "20"})
    async with Stack(plan) as stack, stack.carrier() as carrier:
        await stack.supabase.control(customers=[{"phone": CALLER, "name": "Ana Souza"}])
        call = await carrier.dial(from_=CALLER)
        await call.streaming()
        await ask(call, "my-name", "Ana", "Souza.")
        await call.hangup()
        await call.ended()
        completions = [one for one in (await stack.openai.state())["log"] if one["kind"] == "completion"]
        assert "<customer_record>" in completions[0]["messages"][0]["content"]


async def test_ten_calls_at_once_all_know_their_own_caller() -> None:
    """Nobody hears another caller's record, and every first answer knows its own."""
    callers = {f"+55119876500{number:02}": f"Cliente{number:02}" for number in range(10)}
    async with Stack(Plan(pool_ready=10, prefetch_workers=10, lookup_ms=500)) as stack, stack.carrier() as carrier:
        await stack.supabase.control(customers=[{"phone": phone, "name": name} for phone, name in callers.items()])

        async def first_answer(phone: str) -> str:
            call = await carrier.dial(from_=phone)
            await greeted(call)
            await ask(call, "my-name", "is")
            await call.hears(lambda heard: "Cliente" in heard.text() and heard.text().endswith("."))
            await call.hangup()
            await call.ended()
            return call.heard.text()

        answers = await asyncio.gather(*(first_answer(phone) for phone in callers))
        for answer, name in zip(answers, callers.values(), strict=True):
            assert f"{name}." in answer
            assert not any(f"{other}." in answer for other in callers.values() if other != name)


async def test_a_lost_voice_takes_the_worker_out_of_ready_and_it_recovers() -> None:
    async with Stack(Plan(pool_ready=2)) as stack:
        slots = [str(slot) for slot in range(2)]
        for slot in slots:
            for resource in READY_RESOURCES:
                assert stack.metric("offhook_worker_warm", worker=slot, resource=resource) == 1
            assert stack.metric("offhook_worker_warm", worker=slot, resource="stt") == 0, "plans count idle ears"
            assert stack.metric("offhook_worker_state", worker=slot, state="ready") == 1
        port = stack.cartesia.port
        stack.cartesia.kill()
        await stack.until(lambda: stack.metric("offhook_workers", state="ready") == 0, "no worker is ready")
        for number in range(20):
            assert stack.metric("offhook_worker_warm", worker=str(number), resource="tts") == 0
        readiness = await stack.until(
            lambda: next(iter([page for page in [stack.fetch(f"{stack.router_url}/readyz")] if '"tts"' in page]), ""),
            "the reason names the voice",
        )
        assert json.loads(readiness)["ready"] == 0
        stack.restart_cartesia(port)
        await stack.ready()


async def test_a_provider_that_is_down_at_the_start_is_named_and_waited_for() -> None:
    plan = Plan(pool_ready=1, env={"CARTESIA_TTS_URL": "ws://127.0.0.1:9/tts/websocket"}, wait_ready=False)
    async with Stack(plan) as stack:
        await stack.until(lambda: '"tts"' in stack.fetch(f"{stack.pool_url}/readyz"), "the pool names the voice")
        await stack.until(lambda: '"tts"' in stack.fetch(f"{stack.router_url}/readyz"), "and so does the router")
        assert stack.router.running
        assert stack.pool.running


@pytest.mark.parametrize(
    ("name", "env", "words"),
    [
        ("router", {"PUBLIC_BASE_URL": "voice.example"}, ["PUBLIC_BASE_URL"]),
        ("router", {"PUBLIC_BASE_URL": "http://example.com", "ROUTER_PORT": "x"}, ["PUBLIC_BASE_URL", "ROUTER_PORT"]),
        ("router", {"TWILIO_VALIDATE_SIGNATURES": "false"}, ["TWILIO_VALIDATE_SIGNATURES"]),
        ("pool", {"CARTESIA_API_KEY": ""}, ["CARTESIA_API_KEY"]),
        ("pool", {"AGENTS_FILE": "/nonexistent/agents.toml"}, ["AGENTS_FILE"]),
        ("pool", {"GREETING_AUDIO_CLIP": "nobody.ulaw"}, ["nobody.ulaw"]),
        ("pool", {"DIRECT_GREETING_INJECTION": "perhaps"}, ["DIRECT_GREETING_INJECTION"]),
        ("prefetcher", {"PREFETCH_WORKERS": "0", "REDIS_URL": "http://x"}, ["PREFETCH_WORKERS", "REDIS_URL"]),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_2(stack: Stack, name: str, env: dict[str, str], words: list[str]) -> None:
    part = stack.another(name, env)
    part.start()
    assert part.wait() == 2, part.log
    assert len(part.log.splitlines()) == len(words), part.log
    for line, word in zip(sorted(part.log.splitlines()), sorted(words), strict=True):
        assert word in line
    assert "stand-in" not in part.log, "no value is repeated: it may be a secret"


def test_a_corrupt_clip_stops_the_pool_before_it_listens(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "manifest.toml").write_text(
        '[[clip]]\nid="greeting"\nfile="g.ulaw"\ntext="Hi"\nlanguage="en"\nvoice="v"\nduration_ms=1000\n'
        'sha256="00"\nlicence="CC0-1.0"\n'
    )
    (tmp_path / "g.ulaw").write_bytes(b"\x80" * 8000)
    part = stack.another("pool", {"ASSETS_DIR": str(tmp_path)})
    part.start()
    assert part.wait() == 2, part.log
    assert "greeting" in part.log


@pytest.mark.skipif(
    not LONG, reason="a minute; the pool's own descriptors are counted over a hundred kills in every run"
)
async def test_many_calls_leave_no_descriptor_behind() -> None:
    """200 calls, 20 of which lose their worker: router, pool and zygote hold what they held before.

    Without Redis, whose client opens connections of its own when writes coincide.
    """
    full = {"POOL_MAX": "4"}  # not one more for a call that waits
    plan = Plan(pool_ready=4, connect_ms=0, redis=False, prefetcher=False, supabase=False, env=full)
    async with Stack(plan) as stack:
        zygote = next(
            child for child in psutil.Process(stack.pool.pid).children() if "zygote" in " ".join(child.cmdline())
        )

        def held() -> dict[str, int]:
            return {
                "router": descriptors(stack.router.pid),
                "pool": descriptors(stack.pool.pid),
                "zygote": descriptors(zygote.pid),
            }

        async with stack.carrier() as carrier:
            await one(stack, carrier, kill=False)
            await at_rest(stack)
            before = held()
            for round_ in range(50):
                await asyncio.gather(*(one(stack, carrier, kill=number == 0 and round_ % 5 < 2) for number in range(4)))
            await at_rest(stack)
            with contextlib.suppress(AssertionError):  # what is closing may need a moment
                await stack.until(lambda: held() == before, "as many descriptors as before", deadline_s=20)
            assert held() == before
        assert stack.metric("offhook_failovers_total", reason=Loss.DIED, outcome="resumed") == 20
        assert stack.metric("offhook_calls_total", end_reason="worker_lost") == 0


async def one(stack: Stack, carrier: Carrier, *, kill: bool) -> None:
    """Place one short call; with `kill`, end its worker from outside."""
    await stack.ready()
    call = await carrier.dial()
    await call.streaming()
    await call.until(lambda: bool(call.streams[0].media))
    if kill:
        pid = await stack.until(lambda: worker_of(stack, call.call_sid), "the log names the worker")
        os.kill(pid, signal.SIGKILL)
        await stack.until(lambda: worker_of(stack, call.call_sid) not in {0, pid}, "another worker serves the call")
    await call.hangup()
    assert (await call.ended()).outcome == "completed"


async def at_rest(stack: Stack) -> None:
    await stack.until(
        lambda: (
            stack.metric("offhook_calls_active") == 0
            and stack.metric("offhook_workers", state="in_call") == 0
            and stack.metric("offhook_workers", state="ready") == stack.plan.pool_ready
            and stack.metric("offhook_workers", state="warming") == 0
        ),
        "the pool is at rest",
    )
