"""Whom a transferred caller is to be connected to: what a pool tells its routers, and what stands in Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shared import keys, redis_door
from shared.agents import Agent
from shared.calls import EndReason
from tests.pool_process import new_sid, running_pool

if TYPE_CHECKING:
    from pathlib import Path

PERSON = "+12125550143"


def test_only_a_transfer_dials() -> None:
    agent = Agent(transfer_number=PERSON)
    assert {reason for reason in EndReason if agent.dials(reason)} == {EndReason.TRANSFERRED}
    assert Agent().dials(EndReason.TRANSFERRED) == ""


@pytest.mark.redis
@pytest.mark.parametrize(("reason", "dial"), [("transferred", PERSON), ("agent_hangup", "")])
async def test_the_number_is_told_asked_for_and_stored_with_the_reason(
    tmp_path: Path, redis_url: str, reason: str, dial: str
) -> None:
    (tmp_path / "agents.toml").write_text(f'[agents.default]\ntransfer_number = "{PERSON}"\n', encoding="utf-8")
    settings = {"AGENTS_FILE": str(tmp_path / "agents.toml"), "REDIS_URL": redis_url}
    async with running_pool(tmp_path, ready=1, settings=settings) as pool:
        router = await pool.router()
        await router.ready(1)
        sid = new_sid()
        promised = await router.reserved(sid)
        async with router.upgrade(promised.ticket) as stream:
            await stream.send(f"end {reason}")
            await stream.wait_closed()
        assert [(end.reason, end.dial) for end in router.ends] == [(reason, dial)]
        known = await router.end_of(sid)
        assert (known.reason, known.dial) == (reason, dial)

        redis = redis_door.commands(redis_url)
        assert await redis.get(keys.end(sid, 0)) == f"{reason} {dial}".rstrip(), "stored before the stream was closed"
        await redis.aclose()
        assert PERSON not in pool.log.read_text(encoding="utf-8")
