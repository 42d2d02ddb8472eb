"""The first thing a caller asks is answered with what is known of them, however slow the database is."""

from datetime import UTC, datetime, timedelta

from tests.stack import Plan, Stack
from tests.system.talk import ask

CALLER = "+5511987650001"
NEXT = (datetime.now(UTC) + timedelta(days=3)).replace(hour=15, minute=0, second=0, microsecond=0)


async def test_the_first_answer_knows_name_and_next_appointment_with_a_database_that_takes_a_second_and_a_half() -> (
    None
):
    """The caller speaks into the greeting, before the record is there; the model is not asked without it."""
    async with Stack(Plan(pool_ready=1, lookup_ms=1500)) as stack, stack.carrier() as carrier:
        appointment = {"starts_at": NEXT.isoformat(), "status": "booked"}
        await stack.supabase.control(customers=[{"phone": CALLER, "name": "Ana Souza", "appointments": [appointment]}])
        call = await carrier.dial(from_=CALLER)
        await call.streaming()
        await ask(call, "my-appointment", "Ana", "Souza", f"{NEXT:%Y-%m-%d}")
        await call.hangup()
        await call.ended()
        completions = [one for one in (await stack.openai.state())["log"] if one["kind"] == "completion"]
        instruction = completions[0]["messages"][0]["content"]
        assert "Ana Souza" in instruction
        assert f"{NEXT:%Y-%m-%dT15:00}" in instruction
        waited = [line for line in stack.prefetcher.lines() if line.get("event") == "customer prefetched"]
        assert waited[0]["took_s"] >= 1.5
