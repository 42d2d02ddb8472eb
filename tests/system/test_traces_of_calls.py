"""One call is one trace, whoever has to do with it; and whatever becomes of traces is no call's trouble."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.stack import Plan, Stack
from tests.standins import process as standins
from tests.system.talk import ask, greeted, recording, worker_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.standins.carrier_call import Call
    from tests.standins.process import Standin

pytestmark = pytest.mark.system

CALLER = "+5511987654321"
FIRST_NAME, LAST_NAME = "Ana", "Souza"
CLOCK_S = 0.005
"""How far apart the clocks of two processes may be read: each turns the moments of the other into its own time."""

PARENTS = {
    "webhook": "",
    "reserve": "webhook",
    "prefetch": "webhook",
    "lookup": "prefetch",
    "call": "webhook",
    "hand-off": "call",
    "bind": "hand-off",
    "greeting": "call",
    "customer": "call",
    "turn": "call",
    "answer": "turn",
    "stt": "turn",
    "llm": "turn",
    "tts": "turn",
    "tool": "turn",
}
SERVICES = {
    "offhook-router": {"webhook", "reserve", "hand-off"},
    "offhook-pool": {"call", "bind"},
    "offhook-prefetcher": {"prefetch", "lookup"},
    "offhook-worker": {"greeting", "customer", "turn", "answer", "stt", "llm", "tts", "tool"},
}


@pytest.fixture(scope="module")
def otlp() -> Iterator[Standin]:
    """Somebody who takes traces."""
    with standins.started("otlp") as standin:
        yield standin


@pytest.fixture(scope="module")
def plan(otlp: Standin) -> Plan:
    return Plan(pool_ready=3, env={"OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url})


@pytest.fixture(autouse=True)
async def fresh(stack: Stack, otlp: Standin) -> None:
    """Everybody is there, and nothing was traced yet."""
    await otlp.control(status=200, stall=False, reset=True)
    await stack.supabase.control(
        customers=[{"phone": CALLER, "name": f"{FIRST_NAME} {LAST_NAME}", "facts": {"reference_code": "abc"}}]
    )
    await stack.openai.control(script=[])
    await stack.ready()


def spans(otlp: Standin) -> list[dict[str, Any]]:
    """Give what was taken by now, in the order in which it began."""
    taken = [entry for entry in otlp.state_now()["log"] if entry["kind"] == "span"]
    return sorted(taken, key=lambda span: float(span["start"]))


def trace_of(stack: Stack, call: Call) -> str:
    """Give the trace id of a call, from the pool's log."""
    return next(
        str(line["trace_id"])
        for line in stack.pool.lines()
        if line.get("event") == "bound" and line["call_sid"] == call.call_sid
    )


async def traced(stack: Stack, otlp: Standin, trace: str, *names: str) -> list[dict[str, Any]]:
    """Wait until a trace has spans of these names, and give all that it has."""

    def found() -> list[dict[str, Any]]:
        mine = [span for span in spans(otlp) if span["trace"] == trace]
        return mine if {*names} <= {span["name"] for span in mine} else []

    taken: list[dict[str, Any]] = await stack.until(found, f"spans {names}", 30)
    return taken


async def test_a_call_is_one_trace_of_router_pool_worker_and_prefetcher(stack: Stack, otlp: Standin) -> None:
    async with stack.carrier() as carrier:
        call = await carrier.dial(from_=CALLER)
        await greeted(call)
        await ask(call, "what-time", "It", "UTC.")
        await call.say(recording("goodbye"))
        await call.ended()
    taken = await traced(stack, otlp, trace_of(stack, call), *PARENTS)
    named = {span["id"]: span["name"] for span in taken}
    assert {(span["name"], named.get(span["parent"], span["parent"])) for span in taken} == {*PARENTS.items()}
    of_service: dict[str, set[str]] = {}
    for span in taken:
        of_service.setdefault(span["resource"]["service.name"], set()).add(span["name"])
        assert span["resource"]["service.version"]
    assert of_service == SERVICES
    calls = {line["trace_id"] for line in stack.pool.lines() if line.get("event") == "bound"}
    assert {span["trace"] for span in spans(otlp)} <= calls, "nothing is traced that is in no call"


async def test_the_spans_of_a_call_follow_each_other(stack: Stack, otlp: Standin) -> None:
    async with stack.carrier() as carrier:
        call = await carrier.dial(from_=CALLER)
        await greeted(call)
        await ask(call, "yes", "said:")
        await call.hangup()
        await call.ended()
    taken = await traced(
        stack, otlp, trace_of(stack, call), "call", "turn", "lookup", "greeting", "bind", "answer", "llm"
    )
    at = {span["name"]: span for span in taken}
    began = [at[name]["start"] for name in ("webhook", "call", "hand-off", "greeting", "turn", "answer", "llm")]
    assert began == sorted(began)
    assert at["hand-off"]["start"] == pytest.approx(at["bind"]["start"], abs=CLOCK_S), "from the same moment on"
    assert at["bind"]["end"] <= at["greeting"]["start"] + CLOCK_S
    assert at["prefetch"]["start"] <= at["lookup"]["start"] <= at["lookup"]["end"] <= at["prefetch"]["end"]
    assert at["call"]["end"] >= max(span["end"] for span in taken if span["name"] in {"greeting", "answer"})
    assert at["call"]["attributes"]["end_reason"] == "caller_hangup"
    assert not any(span["failed"] for span in taken)


async def test_a_trace_tells_neither_who_calls_nor_what_was_said(stack: Stack, otlp: Standin) -> None:
    async with stack.carrier() as carrier:
        call = await carrier.dial(from_=CALLER)
        await greeted(call)
        heard = await ask(call, "my-name", FIRST_NAME)
        await call.hangup()
        await call.ended()
    taken = await traced(stack, otlp, trace_of(stack, call), "call", "turn", "llm", "stt", "tts")
    assert all(call.call_sid in span["attributes"].values() for span in taken if span["scope"] == "offhook")
    text = str(taken)
    assert CALLER not in text
    assert CALLER.lstrip("+") not in text
    assert FIRST_NAME not in text
    assert LAST_NAME not in text
    assert heard.split()[-1] not in text


async def test_a_call_that_lost_its_worker_goes_on_in_its_trace(stack: Stack, otlp: Standin) -> None:
    async with stack.carrier() as carrier:
        call = await carrier.dial(from_=CALLER)
        await greeted(call)
        await ask(call, "yes", "said:")
        killed = await stack.until(lambda: worker_of(stack, call.call_sid), "the log names the worker")
        os.kill(killed, signal.SIGKILL)
        await stack.until(lambda: worker_of(stack, call.call_sid) not in {0, killed}, "another worker serves it")
        await ask(call, "no", "said:")
        await call.hangup()
        await call.ended()
    trace = trace_of(stack, call)
    both = await stack.until(lambda: served(otlp, trace) if len(served(otlp, trace)) > 1 else None, "spans of both", 30)
    assert len(both) == 2
    taken = await traced(stack, otlp, trace, "resume", "call", "turn")
    (resume,) = (span for span in taken if span["name"] == "resume")
    (whole,) = (span for span in taken if span["name"] == "call")
    assert resume["parent"] == whole["id"]
    assert resume["attributes"]["loss"] == "worker_lost"
    assert whole["attributes"]["resumes"] == 1
    after = [span for span in taken if span["name"] == "turn" and span["start"] >= resume["start"]]
    assert {span["parent"] for span in after} == {whole["id"]}


def served(otlp: Standin, trace: str) -> set[str]:
    """Name the workers that have recorded a turn, or a greeting, of a call."""
    mine = [span for span in spans(otlp) if span["trace"] == trace and span["name"] in {"greeting", "turn"}]
    return {span["resource"]["offhook.worker"] for span in mine}


@pytest.mark.parametrize("trouble", [{"stall": True}, {"status": 500}, {"status": 503}])
async def test_calls_do_not_notice_that_nobody_takes_their_traces(
    stack: Stack, otlp: Standin, trouble: dict[str, Any]
) -> None:
    """Two, one after the other: the first leaves spans behind that nobody has taken."""
    await otlp.control(**trouble)
    async with stack.carrier() as carrier:
        for _ in range(2):
            call = await carrier.dial(from_=CALLER)
            await greeted(call)
            await ask(call, "yes", "said:")
            await call.hangup()
            assert (await call.ended()).outcome == "completed"
    await stack.ready()
    assert spans(otlp) == []


async def test_calls_do_not_notice_that_the_endpoint_refuses(stack: Stack) -> None:
    """Nobody listens there; that is said once, however many calls there are."""
    other = stack.another("router", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"})
    other.env["HANDOFF_DIR"] = stack.router.env["HANDOFF_DIR"]
    other.start()
    await stack.until(lambda: "router listening" in other.log, "the router listens")
    port = next(line["port"] for line in other.lines() if line.get("event") == "router listening")
    async with stack.carrier(target=f"http://127.0.0.1:{port}") as carrier:
        for _ in range(2):
            call = await carrier.dial(from_=CALLER)
            await greeted(call)
            await call.hangup()
            assert (await call.ended()).outcome == "completed"
    await stack.until(lambda: "traces are not taken" in other.log, "the router says that nobody takes its traces")
    assert other.terminate() == 0
    assert other.log.count("traces are not taken") == 1
