"""The tools' database: Supabase's own client against the stand-in on a real PostgreSQL, and servers that misbehave."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from postgrest import APIError

from shared.settings import Settings
from tests.postgres import PostgresDatabase
from tests.standins.process import Standin, started
from worker import dataapi
from worker.tools import database as module
from worker.tools.database import MAX_ANSWER_BYTES, SupabaseDatabase
from worker.tools.services import ServiceTrouble

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


SECRET = "sb_secret_of_the_test"
ANA = "+5511987654321"
BOOK = {
    "p_phone": ANA,
    "p_calendar": "main",
    "p_starts_at": "2090-01-01T10:00:00Z",
    "p_ends_at": "2090-01-01T10:30:00Z",
    "p_notes": None,
}
SHORT_S = 0.3
TLS = httpx.create_ssl_context()


@pytest.fixture(scope="module")
def dsn(shared_database: PostgresDatabase) -> str:
    return shared_database.dsn


@pytest.fixture(scope="module")
def process(dsn: str) -> Iterator[Standin]:
    with started("supabase_api", postgres=dsn) as standin:
        yield standin


@pytest.fixture
async def api(process: Standin) -> AsyncIterator[Standin]:
    settings = (await process.state())["settings"]
    await process.control(customers=[{"phone": ANA, "name": "Ana"}], reset=True)
    yield process
    await process.control(**settings)


@asynccontextmanager
async def asking(url: str, timeout_s: float = 20.0, key: str = SECRET) -> AsyncIterator[SupabaseDatabase]:
    conf = Settings(_env_file=None, supabase_url=url, supabase_secret_key=key)
    database = SupabaseDatabase(conf, timeout_s, TLS)
    try:
        yield database
    finally:
        await database.close()


async def trouble_of(
    database: SupabaseDatabase, function: str = "book_appointment", **arguments: Any
) -> ServiceTrouble:
    """Ask for something that goes wrong; what is said of it has no secret and nothing of the caller's."""
    with pytest.raises(ServiceTrouble) as caught:
        await database.call(function, arguments or BOOK | {"p_key": "CA1:1"})
    for hidden in (SECRET, ANA, ANA[1:], "2090"):
        assert hidden not in str(caught.value)
    return caught.value


async def asked(api: Standin, count: int) -> None:
    """Return when the stand-in, another process, has been asked so many times."""
    async with asyncio.timeout(30):
        while True:
            if (await api.state())["counters"].get("requests", 0) >= count:
                return
            await asyncio.sleep(0.01)


# --- with the database ------------------------------------------------------------------------------------------------


async def test_the_functions_of_the_migrations_are_called_by_name(api: Standin, dsn: str) -> None:
    async with asking(api.url) as database:
        booked = await database.call("book_appointment", BOOK | {"p_key": "CA1:1"})
        assert booked["outcome"] == "booked"
        assert await database.call("book_appointment", BOOK | {"p_key": "CA1:1"}) == booked
        span = {"p_calendar": "main", "p_from": "2090-01-01", "p_to": "2091-01-01"}
        assert len(await database.call("busy_between", span)) == 1
        assert await database.call("message_of", {"p_key": "CA1:1"}) is None
    assert len(PostgresDatabase(dsn).rows("select from appointments")) == 1


async def test_calls_share_a_connection_that_was_opened_before(api: Standin) -> None:
    async with asking(api.url) as database:
        await database.warm()
        await database.call("message_of", {"p_key": "x"})
        await database.warm()
        log = (await api.state())["log"]
    assert json.loads(log[0]["body"]) == {"p_phone": dataapi.NOBODY}
    assert len({entry["connection"] for entry in log}) == 1


async def test_calls_at_the_same_time_do_not_wait_for_each_other(api: Standin) -> None:
    await api.control(latency_ms=200)
    async with asking(api.url, 2.0) as database:
        answers = await asyncio.gather(*(database.call("message_of", {"p_key": str(n)}) for n in range(16)))
    assert answers == [None] * 16


async def test_what_text_of_the_database_cannot_hold_is_replaced(api: Standin, dsn: str) -> None:
    note = "a\x00b\ud800c"
    async with asking(api.url) as database:
        await database.call("book_appointment", BOOK | {"p_key": "CA1:2", "p_notes": note})
        fact = {"p_key": "CA1:3", "p_phone": ANA, "p_fact": "k", "p_value": [{note: note}], "p_source": None}
        await database.call("add_customer_fact", fact)
    held = PostgresDatabase(dsn)
    assert [row["notes"] for row in held.rows("select notes from appointments")] == ["a\ufffdb\ufffdc"]
    assert [row["value"] for row in held.rows("select value from customer_facts")] == [
        [{"a\ufffdb\ufffdc": "a\ufffdb\ufffdc"}]
    ]


@pytest.mark.parametrize(
    ("function", "arguments", "code"),
    [
        ("create_customer", {"p_key": "CA1:1", "p_phone": "5511987654321"}, "23514"),
        ("update_customer_status", {"p_key": "CA1:1", "p_phone": ANA, "p_status": "king"}, "23514"),
        ("book_appointment", BOOK | {"p_key": "CA1:1", "p_ends_at": "2090-02-31T10:00:00Z"}, "22008"),
        ("no_such_function", {"p_phone": ANA}, "PGRST202"),
    ],
)
async def test_a_refusal_of_the_database_did_nothing(
    api: Standin, function: str, arguments: dict[str, Any], code: str
) -> None:
    async with asking(api.url) as database:
        trouble = await trouble_of(database, function, **arguments)
    assert code in str(trouble)
    assert not trouble.maybe_done


async def test_a_call_that_is_given_up_leaves_the_database_usable(api: Standin) -> None:
    async with asking(api.url) as database:
        await api.control(stall=True)
        call = asyncio.create_task(database.call("message_of", {"p_key": "x"}))
        await asked(api, 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await api.control(stall=False)
        assert await database.call("message_of", {"p_key": "x"}) is None


# --- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "maybe_done"),
    [
        ({"fail_status": 503}, False),  # with a body of PostgREST: it answered instead of the database
        ({"fail_status": 404, "garbage": True}, False),
        ({"fail_status": 502, "garbage": True}, True),  # a gateway: what is behind it may have gone on
        ({"fail_status": 504, "garbage": True}, True),
        ({"garbage": True}, True),
        ({"wrong_shape": True}, True),
        ({"api_key": "another"}, False),
    ],
)
async def test_a_fault_is_trouble_that_says_whether_it_may_be_done(
    api: Standin, fault: dict[str, Any], *, maybe_done: bool
) -> None:
    await api.control(**fault)
    async with asking(api.url) as database:
        trouble = await trouble_of(database)
    assert trouble.maybe_done is maybe_done
    assert (await api.state())["counters"]["requests"] == 1


async def test_a_server_that_never_answers_may_have_done_it(api: Standin) -> None:
    await api.control(stall=True)
    async with asking(api.url, SHORT_S) as database:
        assert (await trouble_of(database)).maybe_done
        await api.control(stall=False)
        assert await database.call("message_of", {"p_key": "x"}) is None


async def test_with_nobody_listening_nothing_was_done() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with asking(f"http://127.0.0.1:{unused.getsockname()[1]}") as database:
            assert not (await trouble_of(database)).maybe_done


async def test_a_key_that_no_header_can_hold_is_not_in_the_message() -> None:
    async with asking("http://127.0.0.1:1", key=f"{SECRET}\u00e9\n{SECRET}") as database:
        assert not (await trouble_of(database)).maybe_done


# --- servers that misbehave -------------------------------------------------------------------------------------------


@asynccontextmanager
async def serving(*answers: bytes | None) -> AsyncIterator[tuple[str, list[int]]]:
    """Answer one request on each connection; None breaks it. Gives the address and a count of the requests."""
    asked = [0]

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.splitlines() if line.lower().startswith(b"content-length:"))
        await reader.readexactly(length)
        answer = answers[min(asked[0], len(answers) - 1)]
        asked[0] += 1
        if answer is not None:
            writer.write(answer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


def with_body(body: bytes, length: int | None = None) -> bytes:
    """Write an answer of status 200."""
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (len(body) if length is None else length) + body


async def test_a_connection_that_breaks_is_opened_again_once() -> None:
    async with serving(None, with_body(b'{"outcome": "booked"}')) as (url, asked), asking(url) as database:
        assert await database.call("book_appointment", BOOK) == {"outcome": "booked"}
        assert asked == [2]


async def test_a_connection_that_breaks_twice_may_have_done_it() -> None:
    async with serving(None) as (url, asked), asking(url) as database:
        assert (await trouble_of(database)).maybe_done
        assert asked == [2]


async def test_what_tells_what_it_deleted_is_asked_once() -> None:
    async with serving(None) as (url, asked), asking(url) as database:
        assert (await trouble_of(database, "forget_caller", p_phone=ANA)).maybe_done
        assert asked == [1]


@pytest.mark.parametrize(
    "body",
    [
        with_body(b'{"outcome": '),
        with_body(b""),
        with_body(b'"booked"'),
        with_body(b"\xff\xfe"),
        with_body(b"{" + b'"a":{' * 15_000),
        with_body(json.dumps({"long": "x" * MAX_ANSWER_BYTES}).encode()),
        with_body(b'{"outcome"', 100),  # and there it ends
    ],
    ids=["cut", "empty", "text", "binary", "deep", "huge", "short"],
)
async def test_an_answer_that_cannot_be_used_may_have_been_done(body: bytes) -> None:
    async with serving(body) as (url, _), asking(url) as database:
        assert (await trouble_of(database)).maybe_done


async def test_a_body_that_drips_for_ever_is_cut_off() -> None:
    over = asyncio.Event()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 20000\r\n\r\n")
        reading = asyncio.create_task(reader.read())  # to its end: the client has gone
        while not (await asyncio.wait([reading], timeout=0.01))[0]:
            writer.write(b" ")
        writer.close()
        over.set()

    async with await asyncio.start_server(drip, "127.0.0.1", 0) as server:
        async with asking(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", SHORT_S) as database:
            assert (await trouble_of(database)).maybe_done
        await over.wait()


async def test_keeping_warm_outlives_an_outage(monkeypatch: pytest.MonkeyPatch, api: Standin) -> None:
    monkeypatch.setattr(module, "WARM_EVERY_S", 0.01)
    await api.control(fail_status=503)
    async with asking(api.url) as database:
        warming = asyncio.create_task(database.keep_warm())
        for _ in range(2):
            await asked(api, 2)
            await api.control(fail_status=0, reset=True)
        assert not warming.done()
        warming.cancel()


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        ({"code": "23505", "message": ANA}, True),
        ({"code": "40P01"}, True),  # a deadlock is rolled back
        ({"code": "57014"}, True),  # so is what a timeout cancels
        ({"code": "57P01"}, False),
        ({"code": "08006"}, False),
        ({"code": "40003"}, False),
        ({"code": "PGRST003", "message": "timed out acquiring connection"}, True),
        ({"code": "404"}, True),
        ({"code": "500"}, False),
        ({"message": "Invalid API key"}, True),
        ({}, False),
    ],
)
def test_an_error_of_the_api_says_whether_anything_was_done(error: dict[str, Any], *, refused: bool) -> None:
    said = dataapi.failed(APIError(error))
    assert said.refused is refused
    assert ANA not in str(said)
