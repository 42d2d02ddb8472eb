"""The connections of the model: there before an answer needs them, and no storm when nobody wants them."""

import asyncio
import contextlib
import datetime as dt
import ipaddress
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pipecat.frames.frames import (
    InterruptionFrame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMTextFrame,
)
from pipecat.processors.aggregators.llm_context import LLMContext

from shared.settings import Settings
from tests.pool_process import eventually, eventually_asked
from tests.standins.pipecat_rig import Rig, piped
from tests.standins.process import Standin, running
from worker.providers import openai_connections
from worker.providers.openai_connections import WANTED, Spares, WarmClient
from worker.providers.openai_llm import WarmOpenAILLM

QUICK: dict[str, Any] = {"llm_first_token_ms": 0, "token_ms": 0}
MANY = 20
LOOPBACK = ipaddress.ip_address("127.0.0.1")


def made(url: str) -> WarmOpenAILLM:
    """Make a model."""
    return WarmOpenAILLM(Settings(_env_file=None, openai_api_key="key", openai_base_url=f"{url}/v1"))


@dataclass
class Talk:
    """A conversation with a model."""

    llm: WarmOpenAILLM
    rig: Rig
    standin: Standin

    async def say(self, text: str = "Good morning.") -> None:
        """Say something and hear the whole answer."""
        await self.rig.send(LLMContextFrame(LLMContext([{"role": "user", "content": text}])))
        await self.rig.until(LLMFullResponseEndFrame)

    async def say_and_interrupt(self) -> None:
        """Say something and speak over the answer."""
        await self.rig.send(LLMContextFrame(LLMContext([{"role": "user", "content": "Good morning."}])))
        await self.rig.until(LLMTextFrame)
        await self.rig.send(InterruptionFrame())
        await self.rig.until(InterruptionFrame)

    async def fresh(self) -> list[bool]:
        """Give of each completion whether it was the first request of its connection."""
        return [entry["fresh"] for entry in (await self.standin.state())["log"] if entry["kind"] == "completion"]


@asynccontextmanager
async def talking(**flags: Any) -> AsyncIterator[Talk]:
    """Run a model whose connections are open, against its stand-in."""
    async with running("openai_api", **QUICK | flags) as standin:
        llm = made(standin.url)
        async with piped(llm) as rig:
            await llm.open()
            yield Talk(llm, rig, standin)
        await llm._client.close()


async def looked_at(spares: Spares) -> None:
    """Have it looked at many times, and done what follows."""
    for _ in range(MANY):
        spares.look()
        await asyncio.sleep(0.005)


async def test_no_answer_of_a_conversation_waits_for_a_connection() -> None:
    async with talking() as talk:
        for number in range(6):
            await talk.say(f"Number {number}.")
        assert await talk.fresh() == [False] * 6
        assert talk.llm._spares.awaited == 0
        assert (await talk.standin.state())["counters"]["connections"] == WANTED


async def test_after_each_interruption_the_next_answer_finds_an_open_connection() -> None:
    async with talking() as talk:
        spares = talk.llm._spares
        for _ in range(3):
            await eventually(lambda: not spares._missing())
            await talk.standin.control(token_ms=150)
            await talk.say_and_interrupt()
            await talk.standin.control(token_ms=0)
            await talk.say("And now?")
        assert await talk.fresh() == [False] * 6
        assert spares.awaited == 0


async def test_an_interruption_is_followed_by_a_replacement_although_nobody_speaks() -> None:
    async with talking(token_ms=150) as talk:
        spares = talk.llm._spares
        await eventually(lambda: spares.opened == WANTED)
        await talk.say_and_interrupt()
        await eventually(lambda: spares.opened == WANTED + 1)
        await eventually(lambda: not spares._missing())
        assert talk.llm.warm()


async def test_an_interruption_of_a_model_that_still_thinks_is_followed_by_a_replacement() -> None:
    async with talking(llm_first_token_ms=600_000) as talk:
        spares = talk.llm._spares
        await eventually(lambda: spares.opened == WANTED)
        await talk.rig.send(LLMContextFrame(LLMContext([{"role": "user", "content": "Good morning."}])))
        await eventually_asked(talk.fresh)
        await talk.rig.send(InterruptionFrame())
        await eventually(lambda: spares.opened == WANTED + 1)


async def test_what_a_server_closes_in_a_pause_costs_the_next_answer_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_connections, "LEAST_REFRESH_S", 0.2)
    async with talking(keep_alive_s=1.0) as talk:

        async def closed() -> bool:
            talk.llm.warm()  # as with each beat
            counters: dict[str, int] = (await talk.standin.state())["counters"]
            return counters.get("idle_closed", 0) >= WANTED

        await eventually_asked(closed)
        await eventually(talk.llm.warm)
        await talk.say()
        assert await talk.fresh() == [False]
        assert talk.llm._spares._every_s < 1.0


async def test_warm_means_that_a_connection_is_there_now() -> None:
    async with talking() as talk:
        assert talk.llm.warm()
        talk.standin.kill()
        await eventually(lambda: not talk.llm.warm())


async def test_a_refused_key_is_shown_twice_and_then_no_more() -> None:
    async with running("openai_api", api_key="another", **QUICK) as standin:
        llm = made(standin.url)
        async with piped(llm) as rig:
            await llm.open()
            assert llm.warm(), "a refusal is an open connection, too"
            await looked_at(llm._spares)
            await rig.send(LLMContextFrame(LLMContext([{"role": "user", "content": "Hello?"}])))
            await eventually(lambda: bool(llm._trouble.refused))
            await looked_at(llm._spares)
            assert (await standin.state())["counters"]["requests"] <= WANTED + 1
        await llm._client.close()


async def test_what_was_opened_is_told_with_the_answers_and_the_rest_at_the_end() -> None:
    async with talking(token_ms=150) as talk:
        told: list[dict[str, float]] = []
        talk.llm.on_used = lambda **amounts: told.append(amounts)
        spares = talk.llm._spares
        await eventually(lambda: not spares._missing())
        await talk.say_and_interrupt()
        await eventually(lambda: spares.opened == WANTED + 1 and bool(told))
        talk.llm.report()
        talk.llm.report()
        assert sum(each.get("llm_connections", 0) for each in told) == WANTED + 1
        assert sum(each.get("completions", 0) for each in told) == 1
        assert {"llm_connections": 1} in told


# --- spares alone, against a server that does what it is told -------------------------------------------------------------


@dataclass
class Server:
    """Answers requests with `status`; with `closing` it closes after each, with `idle_s` after so long."""

    status: int = 200
    closing: bool = False
    connections: int = 0
    requests: int = 0
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    port: int = 0
    tasks: list[asyncio.Task[Any] | None] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection."""
        self.connections += 1
        self.tasks.append(asyncio.current_task())
        self.writers.append(writer)
        end = "connection: close\r\n" if self.closing else ""
        while await reader.readline():
            while (await reader.readline()).strip():
                pass
            self.requests += 1
            writer.write(f"HTTP/1.1 {self.status} X\r\ncontent-length: 2\r\n{end}\r\n{{}}".encode())
            if self.closing:
                break
        writer.close()
        await writer.wait_closed()

    async def over(self) -> None:
        """Wait until no connection is left; the clients must have closed theirs."""
        await asyncio.gather(*(task for task in self.tasks if task is not None), return_exceptions=True)


@asynccontextmanager
async def kept(
    server: Server, context: ssl.SSLContext | None = None, allowed: Callable[[], bool] = lambda: True
) -> AsyncIterator[tuple[Spares, WarmClient]]:
    """Keep spares for such a server."""
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=context)
    server.port = listening.sockets[0].getsockname()[1]
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(listening)
        stack.push_async_callback(server.over)
        client = await stack.enter_async_context(WarmClient())
        spares = Spares(client, f"http{'s' if context else ''}://127.0.0.1:{server.port}/", {}, allowed)
        await spares.open()
        stack.push_async_callback(spares.stop)
        yield spares, client


async def test_a_spare_is_used_before_it_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_connections, "REFRESH_S", 0.05)
    server = Server()
    async with kept(server):
        await eventually(lambda: server.requests >= 4 * WANTED)
        assert server.connections == WANTED


async def test_a_spare_that_nobody_used_in_time_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_connections, "EXPIRY_S", 0.05)
    server = Server()
    async with kept(server) as (spares, _):
        await eventually(lambda: spares.warm() and server.connections > WANTED)
        assert spares._every_s == openai_connections.REFRESH_S, "the server has closed nothing"


async def test_a_server_that_keeps_no_connection_is_asked_less_and_less() -> None:
    server = Server(closing=True)
    async with kept(server) as (spares, _):
        assert not spares.warm()
        await looked_at(spares)
        assert server.connections <= 2


async def test_a_server_that_closes_whatever_is_idle_is_asked_less_and_less() -> None:
    server = Server()
    async with kept(server) as (spares, _):
        for _ in range(MANY):
            if not spares._missing():
                for writer in server.writers:
                    writer.close()
            await asyncio.sleep(0.005)
            spares.warm()
        assert WANTED < server.connections <= WANTED * openai_connections.MOST_CLOSINGS


async def test_a_server_that_is_not_there_is_asked_less_and_less() -> None:
    async with WarmClient() as client:
        spares = Spares(client, "http://127.0.0.1:1/", {})
        await spares.open()
        assert not spares.warm()
        await looked_at(spares)
        assert spares.opened <= 2
        await spares.stop()


@pytest.mark.parametrize("status", [401, 403, 429, 503])
async def test_where_it_is_unwelcome_it_asks_again_only_when_an_answer_has_worked(status: int) -> None:
    server = Server(status=status)
    async with kept(server) as (spares, client):
        await looked_at(spares)
        assert server.requests == 1
        assert spares.warm()
        await client.get(f"http://127.0.0.1:{server.port}/answer")  # on the spare
        assert (server.connections, spares.awaited) == (1, 0)
        spares.works()
        spares.look()
        await eventually(lambda: server.connections == WANTED)


async def test_a_provider_in_trouble_is_asked_nothing_that_nobody_waits_for() -> None:
    server = Server()
    async with kept(server, allowed=lambda: False) as (spares, _):
        await looked_at(spares)
        assert server.requests == 1, "the first was asked for"


async def test_a_request_that_finds_none_waits_for_one_and_is_counted() -> None:
    server = Server()
    async with kept(server, allowed=lambda: False) as (spares, client):
        address = f"http://127.0.0.1:{server.port}/"
        async with client.stream("GET", address), client.stream("GET", address):
            assert (spares.opened, spares.awaited) == (2, 1)


async def test_all_spares_are_closed_with_the_client() -> None:
    server = Server()
    async with kept(server) as (spares, client):
        await eventually(lambda: not spares._missing())
        await client.aclose()
        assert not list(spares._spares)
        await looked_at(spares)
        assert server.connections == WANTED


def self_signed(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Make a certificate for this machine; gives the context of a server that has it and of a client that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(LOOPBACK)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(path)
    return serving, ssl.create_default_context(cafile=str(path))


async def test_a_spare_of_tls_is_warm_although_its_server_sends_tickets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What TLS 1.3 sends behind its handshake makes a socket readable, which must not be taken for its end."""
    serving, trusting = self_signed(tmp_path)
    monkeypatch.setattr(openai_connections, "CONTEXT", trusting)
    server = Server()
    async with kept(server, serving) as (spares, client):
        await eventually(lambda: not spares._missing())
        assert spares.warm()
        for _ in range(3):
            await client.get(f"https://127.0.0.1:{server.port}/")
        assert (server.connections, spares.awaited) == (WANTED, 0)
