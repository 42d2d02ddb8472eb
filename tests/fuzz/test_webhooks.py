"""What anybody on the internet can send to the router, and what Twilio might: refused or answered, never an error of ours.

One router serves all examples, over real connections: one that broke something for the next would be found too.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.effort import effort
from tests.fakes_pool import FakePool
from tests.router.harness import BASE, SID, Answer, Router, params_for, running, signature, soon

PATHS = ("/incoming-call", "/call-ended/", "/hold", "/call-status", "/clips/", "/media/", "/healthz", "/metrics", "/")
AS_BROKEN = "/readyz"
"""503 by design while nobody is ready."""


@dataclass(frozen=True, slots=True)
class Site:
    """A running router with a pool that has a worker for everybody, and the loop both live in."""

    runner: asyncio.Runner
    router: Router
    pool: FakePool

    def request(
        self, method: str, target: str, headers: list[tuple[str, str]], body: bytes, connection: str = "close"
    ) -> Answer:
        """Make a request with these headers, as they are; the connection ends with its answer."""
        lines = [f"{method} {target} HTTP/1.1", "host: x", f"connection: {connection}", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers]
        raw = "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body
        return self.runner.run(soon(self.router.send(raw)))

    def lives(self) -> bool:
        """Say whether the router is well: it serves, and nothing in it has failed."""
        return self.request("GET", "/healthz", [], b"").status == HTTPStatus.OK


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Give a router."""
    with tempfile.TemporaryDirectory(prefix="offhook-") as name, asyncio.Runner() as runner:
        failures: list[dict[str, Any]] = []
        runner.get_loop().set_exception_handler(lambda _, context: failures.append(context))
        stack = AsyncExitStack()

        async def start() -> Site:
            pool = await stack.enter_async_context(FakePool(Path(name), ready=10**9).serving())
            router = await stack.enter_async_context(running(Path(name), {"hold": b"RIFF"}))
            return Site(runner, router, pool)

        yield runner.run(start())
        runner.run(stack.aclose())
        assert failures == []


def sound(answer: Answer) -> bool:
    """Say whether it was answered, and not with an error of ours."""
    return HTTPStatus.OK <= answer.status < HTTPStatus.INTERNAL_SERVER_ERROR


text = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=20)
anything_in_a_path = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)
targets = st.one_of(
    st.tuples(st.sampled_from(PATHS), st.text(max_size=20)).map(lambda it: it[0] + quote(it[1])),
    st.tuples(st.sampled_from(PATHS), anything_in_a_path).map("".join),
    st.tuples(st.sampled_from(PATHS), st.sampled_from(["?", "?attempt=", "?a=%ff&", "/", "//", "%00", "/.."])).map("".join),
)  # fmt: skip
headers = st.lists(
    st.tuples(
        st.sampled_from(
            ["x-twilio-signature", "x-twilio-webhooks-signature-settings", "content-type", "i-twilio-idempotency-token",
             "authorization", "transfer-encoding", "expect", "upgrade", "x-forwarded-for", "cookie", "range"]
        ),
        text | st.sampled_from(["websocket", "100-continue", "key=k,algorithm=HMAC_SHA256", "Bearer x", "chunked", ","]),
    ),
    max_size=4,
)  # fmt: skip


@effort(80)
@given(
    method=st.sampled_from(["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "CONNECT", "get", "\xe9"]),
    target=targets,
    sent=headers,
    body=st.binary(max_size=100),
)
def test_a_request_of_anybody_is_answered_and_reserves_nobody(
    site: Site, method: str, target: str, sent: list[tuple[str, str]], body: bytes
) -> None:
    before = len(site.pool.reserved)
    upgrades = any(name == "upgrade" for name, _ in sent)
    chunked = any(name == "transfer-encoding" for name, _ in sent)
    if chunked:
        body = b"0\r\n\r\n"  # or the router would rightly wait for more
    answer = site.request(method, target, sent, body)
    assert sound(answer) or (method == "HEAD" and answer.status) or upgrades, answer
    assert len(site.pool.reserved) == before
    assert site.lives()


words = st.text(st.characters(codec="utf-8"), max_size=30)
forms = st.dictionaries(
    st.sampled_from(["CallSid", "From", "To", "CallStatus", "AccountSid", "Direction", "Digits"]) | words,
    words | st.sampled_from([SID, "+15005550006", "completed", "in-progress", "", "\x00", "\r\n", "<Say>", "]]>"]),
    max_size=8,
)


@effort(80)
@given(
    target=st.sampled_from(["/incoming-call", "/incoming-call?attempt=1", "/incoming-call?attempt=x", "/hold",
                            "/call-status", "/call-ended/x", "/call-ended/a.b"]),
    form=forms | forms.map(lambda form: params_for() | form),
    token=text,
)  # fmt: skip
@example(target="/incoming-call", form=params_for(From="\ud7ff\U0010ffff", To="\x00\x1b[2J"), token="")
def test_whatever_twilio_signs_is_answered(site: Site, target: str, form: dict[str, str], token: str) -> None:
    """An answer to a call is TwiML, whatever the caller is called."""
    sent = [
        ("content-type", "application/x-www-form-urlencoded"),
        ("x-twilio-signature", signature(BASE + target, form)),
    ]
    answer = site.request("POST", target, [*sent, ("i-twilio-idempotency-token", token)], urlencode(form).encode())
    assert sound(answer), answer
    assert answer.status != HTTPStatus.FORBIDDEN or target.startswith("/call-ended/")
    assert answer.status != HTTPStatus.OK or answer.body.startswith(b"<?xml")


@effort(50)
@given(body=st.binary(max_size=300), signed=st.booleans())
def test_a_body_that_is_no_form_is_refused_or_signed_as_it_stands(site: Site, body: bytes, *, signed: bool) -> None:
    """Bytes that Twilio would never write, also with a signature that fits an empty form."""
    sent = [("x-twilio-signature", signature(f"{BASE}/incoming-call", {}))] if signed else []
    answer = site.request("POST", "/incoming-call", sent, body)
    assert answer.status in {HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN}


@effort(50)
@given(garbage=st.binary(max_size=300))
@example(garbage=b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 2_000)
@example(garbage=b"GET /media/" + b"x" * 20_000)
@example(garbage=b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
def test_bytes_that_are_no_request_are_refused(site: Site, garbage: bytes) -> None:
    """TLS on the plain port, somebody's scanner, a head that never ends."""
    answer = site.runner.run(soon(site.router.send(garbage + b"\r\n\r\n\r\n\r\n")))
    assert answer.status < HTTPStatus.INTERNAL_SERVER_ERROR
    assert site.lives()


@effort(50)
@given(
    segment=st.one_of(anything_in_a_path, anything_in_a_path.map(lambda text: "a.b" + text)),
    sent=headers,
    signed=st.booleans(),
)
def test_an_upgrade_without_a_ticket_of_ours_reaches_no_pool(
    site: Site, segment: str, sent: list[tuple[str, str]], *, signed: bool
) -> None:
    """Also one that Twilio signed: whoever holds its token is not thereby let in."""
    path = f"/media/{segment}"
    upgrade = [
        ("upgrade", "websocket"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "13"),
        *([("x-twilio-signature", signature("wss" + BASE.removeprefix("https") + path))] if signed else []),
    ]
    answer = site.request("GET", path, [*upgrade, *sent], b"", connection="upgrade, close")
    assert HTTPStatus.BAD_REQUEST <= answer.status < HTTPStatus.INTERNAL_SERVER_ERROR
    assert site.pool.taken.empty()
