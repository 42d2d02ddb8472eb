"""`offhook-doctor` on whole installations: a well one, and each thing that may be wrong with one, by its line and its remedy."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from twilio.rest import Client

from shared import keys, redis_door
from shared.framing import MAX_MESSAGE_BYTES, encode
from shared.messages import Welcome
from shared.workers import PoolId
from tests.stack import AUTH_TOKEN, ROOT, Plan, Stack, free_ports
from tests.standins import process as standins
from tests.tls_front import HOST, Authority, authority, front, self_signed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.standins.process import Standin

pytestmark = pytest.mark.system

ACCOUNT = "AC00000000000000000000000000000001"
NUMBER = "+15550001111"
ELSEWHERE = "https://elsewhere.example.test/voice"
CALLING = "tls,public,signature,call"


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
    flags: dict[str, Any] = {"account_sid": ACCOUNT, "auth_token": AUTH_TOKEN, "numbers": NUMBER}
    try:
        stack.start()
        with standins.started("carrier", target=stack.router_url, **flags) as carrier:
            yield Place(stack, port, authority(tmp_path_factory.mktemp("authority")), carrier)
    finally:
        stack.stop()


async def test_a_well_installation_is_well(place: Place) -> None:
    async with front(place.port, place.stack.router_port, place.authority.issue("edge")):
        seen = await doctor(place.environment(), "--set-webhook", "--router", place.stack.router_url)
    assert seen.status == 0, seen.text
    assert {each["state"] for each in seen.findings} <= {"ok", "warning"}
    assert all(each["remedy"] for each in seen.findings if each["state"] == "warning")


async def well(place: Place, *arguments: str, **changes: str) -> Seen:
    """Run a doctor with a good certificate in front of the router, and other settings of its own."""
    async with front(place.port, place.stack.router_port, place.authority.issue("edge")):
        return await doctor(place.environment() | changes, *arguments)


async def test_the_call_it_places_leaves_a_record_that_is_known_by_its_name_and_no_customer(place: Place) -> None:
    assert (await well(place, "--only", "call")).status == 0

    def stored() -> list[dict[str, Any]]:
        return place.stack.database.rows("select * from calls where call_sid like %s and caller = '+0'", "CAd0c70000%")

    [*_, record] = await place.stack.until(stored, "the record of the call")
    assert record["customer_id"] is None
    assert record["end_reason"] == "hangup_before_reply"
    assert place.stack.database.rows("select * from customers") == []


async def test_a_router_of_another_address_refuses_the_signature_and_no_call_is_tried(place: Place) -> None:
    [other] = free_ports(1)
    async with front(other, place.stack.router_port, place.authority.issue("edge")):
        seen = await doctor(place.environment() | {"PUBLIC_BASE_URL": f"https://{HOST}:{other}"}, "--only", CALLING)
    assert seen.status == 1
    said = seen.one("signature")
    assert f"the right signature for https://{HOST}:{other} is refused" in said
    assert "PUBLIC_BASE_URL" in said
    assert "`signature` has to work first" in seen.one("call", "not tried")


async def test_another_token_than_the_routers_refuses_the_signature_too(place: Place) -> None:
    seen = await well(place, "--only", CALLING, TWILIO_AUTH_TOKEN="another-token-than-that")
    assert "TWILIO_AUTH_TOKEN" in seen.one("signature")


@pytest.mark.parametrize("kind", ["self-signed", "expired", "another host's"])
async def test_a_certificate_that_twilio_would_not_believe_stops_what_rests_on_it(
    place: Place, kind: str, tmp_path: Path
) -> None:
    made = {
        "self-signed": lambda: self_signed(tmp_path),
        "expired": lambda: place.authority.issue("expired", days=-1),
        "another host's": lambda: place.authority.issue("other", "voice.example.org"),
    }
    async with front(place.port, place.stack.router_port, made[kind]()):
        seen = await doctor(place.environment(), "--only", CALLING)
    assert seen.status == 1
    assert len(seen.of("tls", "failed")) == 1
    assert [len(seen.of(check, "not tried")) for check in ("public", "signature", "call")] == [1, 1, 1]


async def test_an_authority_that_is_not_named_is_not_believed(place: Place) -> None:
    environment = {name: value for name, value in place.environment().items() if name != "SSL_CERT_FILE"}
    async with front(place.port, place.stack.router_port, place.authority.issue("edge")):
        seen = await doctor(environment, "--only", "tls")
    assert "SSL_CERT_FILE" in seen.one("tls")


async def test_a_router_that_is_down_is_seen_behind_its_edge(place: Place) -> None:
    [nobody] = free_ports(1)
    async with front(place.port, nobody, place.authority.issue("edge")):
        seen = await doctor(
            place.environment(), "--only", "router," + CALLING, "--router", f"http://127.0.0.1:{nobody}"
        )
    assert "python -m router" in seen.one("router")
    assert len(seen.of("public", "failed")) == 1
    assert len(seen.of("call", "not tried")) == 1


async def test_another_program_on_the_routers_port_is_said_to_be_one(place: Place) -> None:
    seen = await doctor(place.environment(), "--only", "router", "--router", place.stack.supabase.url)
    assert "another program" in seen.one("router")
    assert "ROUTER_PORT" in seen.one("router")


async def test_one_wrong_key_hides_nothing_else_and_is_shown_nowhere(place: Place) -> None:
    before = (await place.stack.openai.state())["settings"]["api_key"]
    await place.stack.openai.control(api_key="the-right-key")
    try:
        seen = await well(place, "--skip", "numbers")
    finally:
        await place.stack.openai.control(api_key=before)
    assert seen.status == 1
    assert {each["check"] for each in seen.findings if each["state"] == "failed"} == {"model"}
    assert "OPENAI_API_KEY" in seen.one("model")
    for secret in ("sk-stand-in", AUTH_TOKEN, "sb_secret_stand_in", "cartesia-stand-in"):
        assert secret not in seen.text


async def test_a_missing_setting_is_exit_2_and_the_rest_is_still_looked_at(place: Place) -> None:
    seen = await well(place, "--only", "settings,redis,model,call", OPENAI_API_KEY="")
    assert seen.status == 2
    assert seen.one("settings").startswith("OPENAI_API_KEY: missing")
    assert [each["state"] for each in seen.of("model")] == ["not tried"]
    assert seen.of("call", "ok")


async def test_a_pool_of_another_version_beside_a_good_one_is_named(place: Place) -> None:
    path = place.stack.folder / "handoff" / "older.sock"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    listener.bind(str(path))
    listener.listen()
    loop = asyncio.get_running_loop()

    async def serve() -> None:
        while True:
            peer, _ = await loop.sock_accept(listener)
            with peer:
                await loop.sock_sendall(peer, encode(Welcome(version=1, pool=PoolId("older"), boot="b")))
                await loop.sock_recv(peer, MAX_MESSAGE_BYTES)

    serving = asyncio.create_task(serve())
    try:
        seen = await doctor(place.environment(), "--only", "pools")
    finally:
        serving.cancel()
        await asyncio.wait([serving])
        listener.close()
        path.unlink()
    assert "pool older speaks version 1" in seen.one("pools")
    assert len(seen.of("pools", "ok")) == 1


# --- the webhook ------------------------------------------------------------------------------------------------------


async def point(place: Place, url: str) -> None:
    """Have the number's calls go somewhere, as an operator does in the console."""

    def change() -> None:
        client = Client(ACCOUNT, AUTH_TOKEN)
        client.api.base_url = place.carrier.url
        [owned] = client.incoming_phone_numbers.list(phone_number=NUMBER)
        owned.update(voice_url=url)

    await asyncio.to_thread(change)


async def test_a_webhook_elsewhere_is_a_failure_and_is_left_alone_without_consent(place: Place) -> None:
    await point(place, ELSEWHERE)
    seen = await well(place, "--only", "account,numbers")
    assert seen.status == 1
    assert ELSEWHERE in seen.one("numbers")
    assert "--set-webhook" in seen.one("numbers")
    assert ELSEWHERE in (await well(place, "--only", "account,numbers")).one("numbers")


async def test_with_consent_it_is_set_when_calls_are_answered(place: Place) -> None:
    await point(place, ELSEWHERE)
    seen = await well(place, "--set-webhook", "--only", "account,numbers," + CALLING)
    assert seen.status == 0
    assert f"before: {ELSEWHERE}" in seen.of("numbers", "ok")[0]["said"]
    assert (await well(place, "--only", "account,numbers")).status == 0


async def test_it_is_not_set_while_calls_are_not_answered(place: Place) -> None:
    await point(place, ELSEWHERE)
    seen = await doctor(place.environment(), "--set-webhook", "--only", "account,numbers," + CALLING)
    assert seen.status == 1
    assert "not set" in seen.one("numbers")
    assert ELSEWHERE in (await doctor(place.environment(), "--only", "account,numbers")).one("numbers")


@pytest.mark.parametrize(("answer", "status"), [("y", 0), ("", 1), ("n", 1)])
async def test_a_person_at_a_terminal_is_asked_first(place: Place, answer: str, status: int) -> None:
    await point(place, ELSEWHERE)
    ours, theirs = os.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "worker.doctor", "--only", "account,numbers",
        cwd=ROOT, env=place.environment(), stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    said = await asyncio.to_thread(_until, ours, "[y/N]")
    os.write(ours, f"{answer}\n".encode())
    rest = await asyncio.to_thread(_until, ours, "")
    os.close(ours)
    assert await process.wait() == status
    assert "incoming-call" in said
    assert ("come here now" in rest) == (answer == "y")


def _until(terminal: int, words: str) -> str:
    """Read what is written to a terminal until words come, or its end."""
    said = ""
    while not words or words not in said:
        try:
            said += os.read(terminal, 4096).decode()
        except OSError:  # nobody has the other end any more
            return said
    return said


async def test_without_a_ready_worker_the_call_is_held_and_leaves_the_line(place: Place) -> None:
    """The last one: it stops the pool."""
    place.stack.pool.terminate()
    await place.stack.until(lambda: '"ready": 0' in ready_page(place) or '"ready":0' in ready_page(place), "no worker")
    seen = await well(place, "--only", "pools," + CALLING)
    assert seen.status == 1
    assert "no pool" in seen.one("pools")
    assert seen.of("public", "warning")
    assert "no worker was free" in seen.one("call")
    with redis_door.sync_commands(place.stack.redis.url) as client:
        assert client.zcard(keys.HOLD_LINE) == 0


def ready_page(place: Place) -> str:
    return place.stack.fetch(f"{place.stack.router_url}/readyz")
