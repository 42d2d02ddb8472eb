"""The prefetch job against Supabase's own client, a misbehaving server and a real Redis."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import keys, redis_door
from shared.calls import CallSid
from shared.prefetch import Outcome, Result
from tests.standins.process import started
from worker.dataapi import CONTEXT_FUNCTION
from worker.jobs.customer import CONTEXT, Context, look_up, prefetch
from worker.jobs.lookup import MAX_BODY_BYTES, CustomerLookup, LookupFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.postgres import PostgresDatabase
    from tests.redis_server import RedisServer

ANA = {"customer": {"id": 1, "name": "Ana", "phone": "+5511999990000"}, "facts": {"code": "X7QK"}, "next": []}
PHONE = "+5511999990000"
TIMEOUT_S = 5.0


class Supabase:
    """A server whose next answers are what a test says: a function that writes to the connection, or plain JSON."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str], Any]] = []
        self.connections: set[int] = set()
        self.answer: bytes | Callable[[BaseHTTPRequestHandler], None] = b"null"
        self.status = 200
        self.released = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:  # the name is http.server's
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.asked.append((self.path, dict(self.headers), body))
                outer.connections.add(self.client_address[1])
                if callable(outer.answer):
                    outer.answer(self)
                    return
                self.send_response(outer.status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(outer.answer)))
                self.end_headers()
                self.wfile.write(outer.answer)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """Stop, letting every handler that waits go."""
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def supabase() -> Iterator[Supabase]:
    server = Supabase()
    yield server
    server.close()


@contextmanager
def asking(url: str, timeout_s: float = TIMEOUT_S) -> Iterator[CustomerLookup]:
    lookup = CustomerLookup(url, "sb_secret_test", timeout_s, httpx.create_ssl_context())
    try:
        yield lookup
    finally:
        lookup.close()


def test_one_lookup_is_one_post_to_the_rpc_with_the_plus_kept(supabase: Supabase) -> None:
    supabase.answer = json.dumps(ANA).encode()
    with asking(supabase.url) as lookup:
        assert look_up(lookup, PHONE) == ("found", ANA)
    [(path, headers, body)] = supabase.asked
    assert path == f"/rest/v1/rpc/{CONTEXT_FUNCTION}"
    assert body == {"p_phone": PHONE}
    assert {name.lower(): value for name, value in headers.items()}["apikey"] == "sb_secret_test"


async def test_both_forms_of_a_brazilian_number_are_found_in_one_round_trip(database: PostgresDatabase) -> None:
    await database.call("create_customer", {"p_key": "CA1:1", "p_phone": "+551187654321", "p_name": "Ana"})
    with started("supabase_api", postgres=database.dsn) as supabase, asking(supabase.url) as lookup:
        for phone in ("+5511987654321", "+551187654321"):
            outcome, record = look_up(lookup, phone)
            assert outcome == "found"
            assert record is not None
            assert record["customer"]["name"] == "Ana"
        assert look_up(lookup, "+551187654322") == ("unknown", None)
        assert supabase.state_now()["counters"]["requests"] == 3


def test_warming_opens_the_connection_that_lookups_use(supabase: Supabase) -> None:
    with asking(supabase.url) as lookup:
        lookup.warm()
        assert look_up(lookup, PHONE) == ("unknown", None)
        lookup.warm()
    assert len(supabase.asked) == 3
    assert len(supabase.connections) == 1


@pytest.mark.parametrize(
    "phone", ["", "anonymous", "+12", "5511999990000", "+0551199999", "+551199999000012345", "sip:x"]
)
def test_a_caller_without_a_number_is_unknown_and_nobody_is_asked(phone: str) -> None:
    def never(_: str) -> None:
        pytest.fail("asked")

    assert look_up(never, phone) == ("unknown", None)


def test_without_supabase_the_customer_is_unavailable() -> None:
    assert look_up(None, PHONE) == ("unavailable", None)


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
def test_an_error_of_supabase_is_failed_and_not_retried(supabase: Supabase, status: int) -> None:
    supabase.status = status
    supabase.answer = b'{"code": "PGRST202", "message": "no such function", "details": null, "hint": null}'
    with asking(supabase.url) as lookup:
        assert look_up(lookup, PHONE) == ("failed", None)
    assert len(supabase.asked) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"<html>gateway</html>",
        b'{"customer": ',
        b"",
        b"[]",
        b"{}",
        b'"Ana"',
        b"7",
        b"\xff\xfe",
        b'{"name": "\\ud800"}',
        b'{"deep": ' + b"[" * 15_000 + b"]" * 15_000 + b"}",
        json.dumps({"notes": "x" * MAX_BODY_BYTES}).encode(),
    ],
    ids=["html", "cut", "empty", "list", "nothing", "text", "number", "binary", "surrogate", "deep", "huge"],
)
def test_an_answer_that_is_no_record_is_failed(supabase: Supabase, body: bytes) -> None:
    supabase.answer = body
    with asking(supabase.url) as lookup:
        assert look_up(lookup, PHONE) == ("failed", None)


def test_garbage_with_an_error_status_is_failed(supabase: Supabase) -> None:
    supabase.status = 502
    supabase.answer = b"<html>bad gateway</html>"
    with asking(supabase.url) as lookup:
        assert look_up(lookup, PHONE) == ("failed", None)


def test_a_server_that_never_answers_is_failed_after_the_timeout(supabase: Supabase) -> None:
    supabase.answer = lambda _: (supabase.released.wait(), None)[1]
    with asking(supabase.url, 0.2) as lookup:
        assert look_up(lookup, PHONE) == ("failed", None)
        supabase.released.set()
        supabase.answer = b"null"
        assert look_up(lookup, PHONE) == ("unknown", None)


def test_a_body_that_drips_for_ever_is_cut_off(supabase: Supabase) -> None:
    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 20000\r\n\r\n")
        try:
            while not supabase.released.wait(0.01):
                handler.wfile.write(b" ")
        except OSError:
            handler.close_connection = True

    supabase.answer = drip
    with asking(supabase.url, 0.3) as lookup:
        assert look_up(lookup, PHONE) == ("failed", None)


def test_an_endless_body_is_not_read_to_its_end(supabase: Supabase) -> None:
    def flood(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
        try:
            while not supabase.released.is_set():
                handler.wfile.write(b"x" * 65_536)
        except OSError:
            handler.close_connection = True

    supabase.answer = flood
    with asking(supabase.url) as lookup:
        assert look_up(lookup, PHONE) == ("failed", None)


def test_nobody_listening_is_failed() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with asking(f"http://127.0.0.1:{unused.getsockname()[1]}") as lookup:
            assert look_up(lookup, PHONE) == ("failed", None)


def test_a_connection_closed_while_idle_is_replaced_without_a_failure(supabase: Supabase) -> None:
    def last_words(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnull")
        handler.close_connection = True

    with asking(supabase.url) as lookup:
        supabase.answer = last_words
        assert look_up(lookup, PHONE) == ("unknown", None)
        supabase.answer = json.dumps(ANA).encode()
        deadline = time.monotonic() + 30
        outcome: Outcome = "failed"
        while outcome != "found":  # the end of the old connection may arrive a moment after its answer
            assert time.monotonic() < deadline
            outcome, _ = look_up(lookup, PHONE)
    assert len(supabase.connections) == 2


def test_a_wrong_certificate_is_failed() -> None:
    """Speak TLS to a server that has none."""
    server = Supabase()
    try:
        with asking(server.url.replace("http://", "https://")) as lookup:
            assert look_up(lookup, PHONE) == ("failed", None)
    finally:
        server.close()
    assert isinstance(httpx.create_ssl_context(), ssl.SSLContext)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
        max_leaves=20,
    )
)
def test_no_document_whatever_makes_a_lookup_raise(document: Any) -> None:
    outcome, record = look_up(lambda _: document, PHONE)
    assert outcome in {"found", "unknown", "failed"}
    assert (record is not None) == (outcome == "found")


class Published:
    """A context whose observations can be looked at."""

    def __init__(self, url: str, lookup: Callable[[str], Any] | None) -> None:
        self.observed: list[tuple[Outcome, float]] = []
        self.redis = redis_door.sync_commands(url)
        CONTEXT.set(Context(lookup, self.redis, lambda outcome, seconds: self.observed.append((outcome, seconds))))

    def results(self, call_sid: str) -> list[Result]:
        """Read the call's stream."""
        entries: Any = self.redis.xrange(keys.customer(CallSid(call_sid)))
        return [msgspec.json.decode(fields["result"], type=Result) for _, fields in entries]


@pytest.mark.redis
def test_the_result_stands_on_the_stream_of_the_call_and_expires(redis_url: str) -> None:
    at = Published(redis_url, lambda _: ANA)
    with at.redis:
        prefetch("CA1", PHONE, "0" * 32, time.time() - 1)
        [result] = at.results("CA1")
        assert (result.outcome, result.record) == ("found", ANA)
        assert result.took_s >= 1
        assert 0 < int(at.redis.ttl(keys.customer(CallSid("CA1")))) <= keys.CUSTOMER_TTL_S
        assert at.observed == [("found", result.took_s)]


@pytest.mark.redis
def test_a_failure_is_published_too_because_the_call_waits_for_it(redis_url: str) -> None:
    def fail(_: str) -> None:
        raise LookupFailed("away")

    at = Published(redis_url, fail)
    with at.redis:
        prefetch("CA1", PHONE, "0" * 32, time.time() + 100)  # a clock ahead of ours
        [result] = at.results("CA1")
        assert (result.outcome, result.record, result.took_s) == ("failed", None, 0)


@pytest.mark.redis
def test_a_job_does_not_fail_when_redis_is_gone(redis_server: RedisServer) -> None:
    at = Published(redis_server.url, lambda _: ANA)
    with at.redis:
        redis_server.stop()
        prefetch("CA1", PHONE, "0" * 32, time.time())
        assert at.observed == []
