"""A message to a customer through the whole system: asked for, sent once, and its fate written down."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.stack import AUTH_TOKEN, PUBLIC, Plan, Stack, sample
from tests.standins.carrier_settings import CarrierSettings
from tests.standins.process import Standin, running
from worker.jobs.message_status import TEMPLATE_KEY
from worker.tools.messenger import QueuedMessenger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.system, pytest.mark.redis]

TWILIO = CarrierSettings()
CALL = "CA" + "0" * 32
PHONE = "+5511987654321"


@asynccontextmanager
async def installation() -> AsyncIterator[tuple[Stack, Standin]]:
    """Start everything but workers, with a Twilio that reports to its router."""
    env = {"WHATSAPP_FROM": TWILIO.whatsapp_sender, "WHATSAPP_TEMPLATE_SID": TWILIO.content_sid}
    stack = Stack(Plan(pool_ready=1, database="postgres", wait_ready=False, env=env))
    told: dict[str, Any] = {
        "target": stack.router_url,
        "public_base_url": PUBLIC,
        "auth_token": AUTH_TOKEN,
        "message_repeats": 1,
    }
    async with running("carrier", **told) as twilio:
        env["TWILIO_API_BASE_URL"] = twilio.url
        async with stack:
            await stack.until(lambda: stack.fetch(f"{stack.router_url}/healthz"), "a router")
            yield stack, twilio


def rows(stack: Stack, key: str) -> list[dict[str, Any]]:
    """Give what is stored of a message and of what followed it."""
    query = "select * from message_log where request_key like %s order by request_key"
    return stack.database.rows(query, f"{key}%")


def statuses(stack: Stack, key: str) -> list[str]:
    return [row["status"] for row in rows(stack, key)]


async def test_a_message_is_sent_and_what_became_of_it_is_stored() -> None:
    async with installation() as (stack, twilio):
        messenger = QueuedMessenger(stack.redis.url)

        async def send(key: str, text: str) -> str:
            state = await messenger.send_whatsapp(key, PHONE, text, CALL)
            await stack.until(lambda: rows(stack, key), f"a row of {key}")
            return state

        try:
            assert await send(f"{CALL}:one", "See you on Friday.") in {"sent", "queued"}
            await stack.until(lambda: statuses(stack, f"{CALL}:one") == ["read"], "one message, read")
            (row,) = rows(stack, f"{CALL}:one")
            assert (row["body"], row["phone"], row["call_sid"]) == ("See you on Friday.", PHONE, CALL)
            assert await messenger.send_whatsapp(f"{CALL}:one", PHONE, "See you on Friday.", CALL) == "sent"

            await twilio.control(whatsapp_open=False)
            await send(f"{CALL}:two", "Bring\na coat.")
            await stack.until(lambda: statuses(stack, f"{CALL}:two") == ["undelivered", "read"], "a template, read")
            first, second = rows(stack, f"{CALL}:two")
            assert (first["error_code"], second["request_key"]) == ("63016", f"{CALL}:two{TEMPLATE_KEY}")

            await twilio.control(message_faults="lost", whatsapp_open=True)
            await send(f"{CALL}:three", "Are you there?")
            await stack.until(lambda: statuses(stack, f"{CALL}:three") == ["read"], "nobody knew, now it is read")

            sent = [each["body"] for each in (await twilio.state())["log"] if each["kind"] == "message"]
            assert sent == [
                "See you on Friday.", "Bring\na coat.", f"{TWILIO.content_prefix}Bring a coat.", "Are you there?",
            ]  # fmt: skip
            answered = {each["answered"] for each in (await twilio.state())["log"] if each["kind"] == "message_status"}
            assert answered == {204}
            page = stack.fetch(f"http://127.0.0.1:{stack.prefetch_metrics_port}/metrics")
            assert sample(page, "offhook_messages_total", {"outcome": "sent"}) == 3
            assert sample(page, "offhook_messages_total", {"outcome": "unknown"}) == 1
            logs = stack.prefetcher.log + stack.router.log
            assert "coat" not in logs
            assert PHONE not in logs
            assert "Traceback" not in logs
        finally:
            await messenger.close()
