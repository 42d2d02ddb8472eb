"""The second port: three pages for everybody who reaches it, and nothing else; a crowd on it keeps no call out."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path

import pytest
import uvicorn

from router import serving
from router.app import build
from router.health import beside
from router.parts import Outside, assemble
from router.serving import listen, server
from shared.calls import CallSid, IncomingCall, TraceId
from shared.ticket import Ticket
from shared.traces import Traces
from shared.workers import PoolId, WorkerId
from tests.fakes_pool import FakePool
from tests.router.harness import Outer, Router, settings_for, until


@contextlib.asynccontextmanager
async def two_ports(folder: Path, **overrides: object) -> AsyncIterator[tuple[Router, Router]]:
    """Run a router with a second port; give it as it is seen through each."""

    async def enqueue(_: IncomingCall) -> bool:
        return True

    async def look(_: Ticket) -> Traces:
        return Traces()

    parts = assemble(settings_for(folder, **overrides), {}, Outside(enqueue, look))
    first, second = listen("127.0.0.1", 0), listen("127.0.0.1", 0, "ROUTER_METRICS_PORT")
    web: uvicorn.Server = server(build(parts), beside(parts.health), [second])
    task = asyncio.create_task(web.serve(sockets=[first]))
    try:
        await until(lambda: (web.started and len(web.servers) == 2) or task.done())
        calls, pages = (
            Router(sock.getsockname()[1], parts, [], Outer(), web.server_state.connections) for sock in (first, second)
        )
        yield calls, pages
    finally:
        web.should_exit = True
        await task


async def test_metrics_are_for_everybody_on_the_second_port_and_for_the_token_on_the_first(folder: Path) -> None:
    async with FakePool(folder).serving(), two_ports(folder, console_token="the-token") as (calls, pages):
        assert (await calls.get("/metrics")).status == HTTPStatus.UNAUTHORIZED
        assert (await calls.get("/metrics", authorization="Bearer the-token")).status == HTTPStatus.OK
        answer = await pages.get("/metrics")
        assert (answer.status, "offhook_router_ready_workers 4.0" in answer.text) == (HTTPStatus.OK, True)
        assert (await pages.get("/healthz")).status == HTTPStatus.OK
        assert json.loads((await pages.get("/readyz")).body) == {"ready": 4, "problems": []}


async def test_nothing_else_is_served_there(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with FakePool(folder, ready=9).serving() as pool, two_ports(folder) as (calls, pages):
        assert (await calls.post()).status == HTTPStatus.OK
        assert len(pool.reserved) == 1
        for method, target in [
            ("POST", "/incoming-call"), ("GET", "/incoming-call"), ("POST", "/hold"), ("GET", "/console"),
            ("GET", "/clips/hold.wav"), ("GET", "/metrics/"), ("GET", "/"),
        ]:  # fmt: skip
            assert (await pages.request(method, target)).status == HTTPStatus.NOT_FOUND, target
        assert (await pages.request("POST", "/metrics")).status == HTTPStatus.METHOD_NOT_ALLOWED
        assert (await pages.post()).status == HTTPStatus.NOT_FOUND, "also for whom Twilio has signed"
        ticket = Ticket(CallSid("CA" + "0" * 32), 0, PoolId("p1"), "b1", WorkerId("1-1"), TraceId("0" * 32), 2**40)
        segment = calls.office.sign(ticket)
        upgrade = {"upgrade": "websocket", "connection": "upgrade, close", "sec-websocket-version": "13",
                   "sec-websocket-key": "MDEyMzQ1Njc4OWFiY2RlZg=="}  # fmt: skip
        with caplog.at_level(logging.WARNING):
            answer = await pages.request("GET", f"/media/{segment}", headers=upgrade)
        assert answer.status == HTTPStatus.NOT_FOUND
        assert pool.taken.empty()
        assert len(pool.reserved) == 1
        assert not caplog.records, "what anybody can make us say"


async def test_a_crowd_of_idle_connections_there_keeps_neither_a_call_nor_a_scrape_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "MOST_CONNECTIONS", 20)
    async with FakePool(folder, ready=99).serving(), two_ports(folder) as (calls, pages):
        streams = []
        for number in range(50):
            streams.append(await asyncio.open_connection("127.0.0.1", pages.port))
            if number % 3 == 0:
                streams[-1][1].write(b"GET /metrics HTTP/1.1\r\n")
            if number % 10 == 9:
                assert (await calls.post()).status == HTTPStatus.OK
                assert (await pages.get("/metrics")).status == HTTPStatus.OK
        await until(lambda: len(calls.connections) <= 20)
        for _, writer in streams:
            writer.close()


async def test_a_client_there_that_never_finishes_its_head_is_let_go(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "HEAD_TIMEOUT_S", 0.05)
    async with two_ports(folder) as (calls, pages):
        reader, writer = await asyncio.open_connection("127.0.0.1", pages.port)
        writer.write(b"GET /metrics HTTP/1.1\r\nhost: x\r\n")
        async with asyncio.timeout(20):
            assert await reader.read() == b""
        assert not calls.connections
        writer.close()
