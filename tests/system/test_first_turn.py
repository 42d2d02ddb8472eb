"""The first thing a caller asks is answered with what is known of them, however slow the database is."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tests.stack import Plan, Stack
from tests.system.talk import ask, greeted

pytestmark = [pytest.mark.system, pytest.mark.redis]

CALLER = "+5511987650001"
NEXT = (datetime.now(UTC) + timedelta(days=3)).replace(hour=15, minute=0, second=0, microsecond=0)
HERE = NEXT.astimezone(ZoneInfo("America/Sao_Paulo"))


async def test_the_first_answer_knows_name_and_next_appointment_with_a_database_that_takes_a_second_and_a_half(
    tmp_path: Path,
) -> None:
    """Told by the clock of the business, though the database answers in UTC.

    The caller speaks into the greeting, before the record is there; the model is not asked without it.
    """
    agents = tmp_path / "agents.toml"
    agents.write_text('[agents.default]\ntimezone = "America/Sao_Paulo"\n')
    plan = Plan(pool_ready=1, lookup_ms=1500, env={"AGENTS_FILE": str(agents)})
    async with Stack(plan) as stack, stack.carrier() as carrier:
        appointment = {"starts_at": NEXT.isoformat(), "status": "booked"}
        await stack.supabase.control(customers=[{"phone": CALLER, "name": "Ana Souza", "appointments": [appointment]}])
        call = await carrier.dial(from_=CALLER)
        await greeted(call)
        await ask(call, "my-appointment", "Ana", "Souza", f"{HERE:%Y-%m-%d}")
        await call.hangup()
        await call.ended()
        completions = [one for one in (await stack.openai.state())["log"] if one["kind"] == "completion"]
        instruction = completions[0]["messages"][0]["content"]
        assert "Ana Souza" in instruction
        assert f"{HERE:%Y-%m-%dT12:00:00-03:00}" in instruction
        assert f"{NEXT:%Y-%m-%dT15:00}" not in instruction
        waited = [line for line in stack.prefetcher.lines() if line.get("event") == "customer prefetched"]
        assert waited[0]["took_s"] >= 1.5
