"""`offhook-doctor` on whole installations: a well one, and each thing that may be wrong with one, by its line and its remedy."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.stack import AUTH_TOKEN, ROOT, Plan, Stack, free_ports
from tests.standins import process as standins
from tests.tls_front import HOST, Authority, authority, front

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.standins.process import Standin

pytestmark = pytest.mark.system

NUMBER = "+15550001111"


@dataclass(frozen=True, slots=True)
class Place:
    """An installation behind an edge: where the edge listens, who is believed, and the carrier's REST API."""

    stack: Stack
    port: int
    authority: Authority
    carrier: Standin

    @property
    def public(self) -> str:
        """The public address."""
        return f"https://{HOST}:{self.port}"

    def environment(self) -> dict[str, str]:
        """Give the environment of a doctor that believes the tests' authority."""
        return self.stack.environment() | {
            "SSL_CERT_FILE": str(self.authority.root),
            "TWILIO_API_BASE_URL": self.carrier.url,
        }


@dataclass(frozen=True, slots=True)
class Seen:
    """What a doctor said."""

    status: int
    findings: list[dict[str, Any]]
    text: str

    def of(self, check: str, state: str = "") -> list[dict[str, Any]]:
        """Give a check's findings."""
        return [each for each in self.findings if each["check"] == check and state in {"", each["state"]}]

    def one(self, check: str, state: str = "failed") -> str:
        """Give the only finding of a check in a state, with its remedy."""
        found = self.of(check, state)
        assert len(found) == 1, self.text
        return f"{found[0]['said']} -> {found[0]['remedy']}"


async def doctor(environment: dict[str, str], *arguments: str) -> Seen:
    """Run it for a program."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "worker.doctor", "--json", *arguments,
        cwd=ROOT, env=environment, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, errors = await process.communicate()
    assert errors == b"", errors.decode()
    said = json.loads(out)
    assert process.returncode == said["status"]
    return Seen(said["status"], said["findings"], out.decode())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    [port] = free_ports(1)
    plan = Plan(database="postgres", env={"PUBLIC_BASE_URL": f"https://{HOST}:{port}"})
    stack = Stack(plan)
    flags = {"account_sid": "AC00000000000000000000000000000001", "auth_token": AUTH_TOKEN, "numbers": NUMBER}
    try:
        stack.start()
        with standins.started("carrier", target=stack.router_url, **flags) as carrier:
            yield Place(stack, port, authority(tmp_path_factory.mktemp("authority")), carrier)
    finally:
        stack.stop()


async def test_a_well_installation_is_well(place: Place) -> None:
    async with front(place.port, place.stack.router_port, place.authority.issue("edge")):
        seen = await doctor(place.environment(), "--set-webhook", "--router", place.stack.router_url)
    print(seen.text)
    assert seen.status == 0
