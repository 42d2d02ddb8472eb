"""The installation that the security tests attack: every secret of it is planted, so that it can be searched for."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import pytest
from redis import Redis

from tests.stack import Plan, Stack

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.standins.carrier import Carrier

SECRET_SETTINGS = (
    "TWILIO_AUTH_TOKEN", "TICKET_KEY", "CONSOLE_TOKEN", "OPENAI_API_KEY", "CARTESIA_API_KEY",
    "ELEVENLABS_API_KEY", "SUPABASE_SECRET_KEY",
    "RECORDS_WEBHOOK_SECRET", "MCP_TOKEN", "OTEL_EXPORTER_OTLP_HEADERS",
)  # fmt: skip


class Planted(Stack):
    """An installation whose secrets are known by their values; also its Redis asks for a password."""

    def __init__(self) -> None:
        super().__init__(Plan(pool_ready=2, database="postgres", env={"LOG_LEVEL": "DEBUG"}))
        self.secrets: Mapping[str, str] = {
            name: f"planted-{secrets.token_hex(12)}" for name in (*SECRET_SETTINGS, "password of Redis")
        }

    def environment(self) -> dict[str, str]:
        """Give the environment of every process: what is secret in it is planted. Called when Redis has started."""
        password = self.secrets["password of Redis"]
        locked = f"{self.redis.url}?password={password}"
        with Redis.from_url(locked if self.parts else self.redis.url) as client:
            client.config_set("requirepass", password)
        planted = {name: self.secrets[name] for name in SECRET_SETTINGS}
        return super().environment() | planted | {"REDIS_URL": locked}

    def open_redis(self) -> Redis:
        """Give a client that knows the password; the caller closes it."""
        return Redis.from_url(f"{self.redis.url}?password={self.secrets['password of Redis']}")

    def caller(self) -> Carrier:
        """Make a carrier that signs with the planted token."""
        return self.carrier(auth_token=self.secrets["TWILIO_AUTH_TOKEN"])


@pytest.fixture(scope="package")
def planted() -> Iterator[Planted]:
    """Give the running installation."""
    made = Planted()
    try:
        made.start()
        yield made
    finally:
        made.stop()
