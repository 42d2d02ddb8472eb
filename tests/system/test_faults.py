"""What callers, carriers and parts do wrong, and that it costs nobody else anything."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.stack import Plan, Stack
from tests.standins.carrier_settings import CallFaults
from tests.system.talk import ask, greeted, recording

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.standins.carrier import Carrier

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan(pool_ready=3, env={"START_TIMEOUT": "1.5", "SILENCE_TIMEOUT": "2", "TICKET_TTL": "6"})


@pytest.fixture
async def carrier(stack: Stack) -> AsyncIterator[Carrier]:
    await stack.ready()
    async with stack.carrier() as made:
        yield made
    await settled(stack)


async def settled(stack: Stack) -> None:
    """Wait until no call is left: every fault must end in an ended call and a released descriptor."""
    await stack.until(
        lambda: (
            stack.metric("offhook_calls_active") == 0
            and stack.metric("offhook_workers", state="in_call") == 0
            and stack.metric("offhook_workers", state="ready") >= stack.plan.pool_ready
        ),
        "the pool is at rest",
    )


async def ended_for(stack: Stack, reason: str, carrier: Carrier, faults: CallFaults) -> None:
    """Place a call with a fault and check that it ended for a reason, counted once."""
    before = stack.metric("offhook_calls_total", end_reason=reason)
    call = await carrier.dial(faults=faults)
    await call.ended()
    await stack.until(
        lambda: stack.metric("offhook_calls_total", end_reason=reason) == before + 1, f"one call ended for {reason}"
    )


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        (CallFaults(no_start=True), "start_timeout"),
        (CallFaults(wrong_call_sid=True), "ticket_mismatch"),
        (CallFaults(silent_after_s=0.2), "stream_silent"),
        (CallFaults(oversize_frame=True), "protocol_error"),
        (CallFaults(reset_after_s=0.5), "stream_lost"),
        (CallFaults(hangup_before_start=True), "hangup_before_start"),
        (CallFaults(hangup_at_first_media=True), "hangup_before_reply"),
        (CallFaults(hangup_after_s=0.5), "hangup_before_reply"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_call_that_goes_wrong_ends_with_its_reason(
    stack: Stack, carrier: Carrier, faults: CallFaults, reason: str
) -> None:
    await ended_for(stack, reason, carrier, faults)


async def test_a_caller_who_hangs_up_in_the_middle_of_a_reply_releases_everything(
    stack: Stack, carrier: Carrier
) -> None:
    """The carrier fixture waits afterwards until no call, no worker in a call and no reservation is left."""
    before = stack.metric("offhook_calls_total", end_reason="caller_hangup")
    call = await carrier.dial()
    await greeted(call)
    await call.say(recording("book"))
    await call.hears(lambda heard: "said:" in heard.text())
    await call.hangup()
    await call.ended()
    await stack.until(
        lambda: stack.metric("offhook_calls_total", end_reason="caller_hangup") == before + 1, "the call is counted"
    )


@pytest.mark.parametrize(
    ("faults", "oddity"),
    [
        (CallFaults(binary_frame=True), "binary_frame"),
        (CallFaults(invalid_json=True), "invalid_json"),
        (CallFaults(unknown_event=True), "unknown_event"),
        (CallFaults(wrong_stream_sid=True), "wrong_stream"),
        (CallFaults(sequence_gap=True), "sequence_gap"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_an_odd_message_is_counted_and_the_call_goes_on(
    stack: Stack, carrier: Carrier, faults: CallFaults, oddity: str
) -> None:
    before = stack.metric("offhook_stream_oddities_total", oddity=oddity)
    call = await carrier.dial(faults=faults)
    await greeted(call)
    await stack.until(
        lambda: stack.metric("offhook_stream_oddities_total", oddity=oddity) > before, f"{oddity} is counted"
    )
    await ask(call, "yes", "said:")
    await call.hangup()
    assert (await call.ended()).outcome == "completed"


@pytest.mark.parametrize("code", [1000, 1011])
async def test_a_voice_that_is_lost_in_a_call_speaks_again(stack: Stack, carrier: Carrier, code: int) -> None:
    """The provider closes every socket: parked workers are replaced, the one in a call connects again."""
    call = await carrier.dial()
    await greeted(call)
    await stack.cartesia.control(close_code=code, close_all="tts")
    await ask(call, "yes", "said:")
    await call.hangup()
    assert (await call.ended()).outcome == "completed"


async def test_a_stream_without_connected_and_one_in_split_segments_are_served(carrier: Carrier) -> None:
    for faults in (CallFaults(no_connected=True), CallFaults(split_frames=True)):
        call = await carrier.dial(faults=faults)
        await greeted(call)
        await ask(call, "yes", "said:")
        await call.hangup()
        assert (await call.ended()).outcome == "completed"


async def test_a_ticket_admits_one_upgrade(stack: Stack, carrier: Carrier) -> None:
    ready = stack.metric("offhook_workers", state="ready")
    call = await carrier.dial(faults=CallFaults(upgrade_twice=True))
    await greeted(call)
    await call.until(lambda: call.streams[0].repeat_status is not None)
    assert call.streams[0].repeat_status == 403
    assert stack.metric("offhook_workers", state="in_call") == 1
    assert stack.metric("offhook_workers", state="ready") >= ready - 1
    await ask(call, "yes", "said:")
    await call.hangup()
    await call.ended()


@pytest.mark.parametrize("signature", ["missing", "wrong"])
async def test_a_badly_signed_upgrade_is_refused_and_does_not_spend_the_ticket(
    stack: Stack, carrier: Carrier, signature: str
) -> None:
    call = await carrier.dial(faults=CallFaults(upgrade_signature=signature))
    record = await call.ended()
    assert record.stream.upgrade_status == 403
    assert 31920 in record.codes
    assert stack.metric("offhook_workers", state="in_call") == 0
    assert "signature" in stack.router.log
    # the reservation still stands: nobody came for it with a good signature, so it will expire
    assert stack.metric("offhook_workers", state="reserved") == 1
    await stack.until(
        lambda: stack.metric("offhook_workers", state="reserved") == 0, "the reservation expires", deadline_s=60
    )


@pytest.mark.parametrize("sign", ["missing", "wrong"])
async def test_a_forged_webhook_gets_403_and_no_worker(stack: Stack, carrier: Carrier, sign: str) -> None:
    answer = await carrier.webhook(sign="missing" if sign == "missing" else "wrong")
    assert answer.status == 403
    assert stack.metric("offhook_workers", state="reserved") == 0
    assert "the-auth-token" not in stack.router.log


async def test_a_webhook_without_call_sid_gets_400(carrier: Carrier) -> None:
    assert (await carrier.webhook({"From": "+551199", "To": "+1555", "CallStatus": "ringing"})).status == 400


async def test_calls_beyond_the_pool_are_held_until_there_are_workers_for_them(stack: Stack) -> None:
    """Nobody gets an error: who finds no worker hears so, and is served when one is ready."""
    before = stack.metric("offhook_cold_starts_total")
    async with stack.carrier(fast_verbs=False) as carrier:
        calls = await asyncio.gather(*(carrier.dial() for _ in range(8)))
        held = [call for call in calls if b"<Stream" not in call.exchanges[0].body]
        assert 0 < len(held) < len(calls)
        for call in calls:
            await call.streaming(timeout_s=60)
            await call.hangup()
            record = await call.ended()
            assert (record.outcome, record.notices) == ("completed", ())
    assert stack.metric("offhook_cold_starts_total") >= before + len(held)
    await settled(stack)
