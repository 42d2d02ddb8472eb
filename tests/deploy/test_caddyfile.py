"""The edge by itself: its file in every variant, and what it lets through to a router that notes what it is asked."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock
from urllib.request import HTTPRedirectHandler, Request, build_opener

import psutil
import pytest
from starlette.routing import Route

from router import app
from shared.settings import Settings
from tests import caddy
from tests.caddy import CADDYFILE, HOST, Caddy
from tests.stack import PUBLIC
from tests.standins.carrier_twiml import Hangup, Say, parse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PRIVATE = {"/metrics", "/console"}
PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that got through; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Router:
    """What stands behind the edge: it notes what it is asked, and answers with what a test wants it to."""

    status: int = 200
    kind: str = "text/plain"
    content: bytes = b"of the router"
    hangs: bool = False
    asked: list[Asked] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)


def serve(router: Router) -> ThreadingHTTPServer:
    """Make a server for it, which is not serving yet."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            router.asked.append(Asked(self.command, self.path, headers, body))
            if router.hangs:
                router.released.wait(PATIENCE_S)
                return
            self.send_response(router.status)
            self.send_header("Content-Type", router.kind)
            self.send_header("Content-Length", str(len(router.content)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # the edge has refused the request meanwhile
                self.wfile.write(router.content)

        do_GET = do_POST = answer  # noqa: N815 - the standard library's names

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@pytest.fixture(scope="module")
def behind() -> Iterator[tuple[Router, str]]:
    """Give the router and its address."""
    router = Router()
    server = serve(router)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield router, f"http://127.0.0.1:{server.server_port}"
    router.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def edge(behind: tuple[Router, str]) -> Iterator[Caddy]:
    with Caddy(behind[1]) as made:
        yield made


@pytest.fixture
def router(behind: tuple[Router, str]) -> Router:
    """Give the router, with nothing asked yet and its usual answer."""
    router = behind[0]
    router.asked.clear()
    router.status, router.kind, router.content = 200, "text/plain", b"of the router"
    return router


def environment(**changes: str) -> dict[str, str]:
    """Give what an operator sets at least, and more."""
    return {"HOME": os.devnull, "PUBLIC_BASE_URL": PUBLIC, **changes}


def adapted(**changes: str) -> dict[str, Any]:
    """Give the file as Caddy understands it."""
    done = caddy.run("adapt", "--config", str(CADDYFILE), env=environment(**changes))
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr, done.stderr
    read: dict[str, Any] = json.loads(done.stdout)
    return read


def test_the_file_is_formatted() -> None:
    done = caddy.run("fmt", str(CADDYFILE), env=environment())
    assert done.stdout == CADDYFILE.read_text(), "run `caddy fmt --overwrite deploy/Caddyfile`"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"EDGE_TLS": ""},
        {"EDGE_TLS": "internal"},
        {"EDGE_TLS": "ops@example.com"},
        {"PUBLIC_BASE_URL": "https://voice.example.com:8443", "EDGE_TLS": "internal"},
        {"ROUTER_UPSTREAM": "10.0.0.1:8080 10.0.0.2:8080"},
        {"EDGE_HTTP_PORT": "8080", "EDGE_HTTPS_PORT": "8443", "EDGE_BIND": "127.0.0.1 ::1"},
        {"EDGE_APOLOGY": 'Não podemos atender "agora".', "EDGE_LANGUAGE": "pt-BR", "EDGE_DOWN_STATUS": "503"},
        {"EDGE_STREAM_CLOSE_DELAY": "4h30m", "EDGE_ADMIN": "unix//run/caddy.sock"},
    ],
)
def test_every_variant_of_the_environment_is_a_valid_file(tmp_path: Path, changes: dict[str, str]) -> None:
    env = environment(**{"XDG_DATA_HOME": str(tmp_path), **changes})
    done = caddy.run("validate", "--config", str(CADDYFILE), env=env)
    assert done.returncode == 0, done.stderr
    assert "Valid configuration" in done.stdout + done.stderr


def test_how_the_certificate_is_had_is_one_setting() -> None:
    def issuers(tls: str) -> list[str]:
        policies = adapted(EDGE_TLS=tls)["apps"].get("tls", {}).get("automation", {}).get("policies", [])
        return [f"{one['module']} {one.get('email', '')}".strip() for each in policies for one in each["issuers"]]

    assert issuers("") == [], "Caddy's own way: public authorities"
    assert issuers("internal") == ["internal"]
    assert set(issuers("ops@example.com")) == {"acme ops@example.com"}
    [loaded] = adapted(EDGE_TLS="/run/chain.pem /run/key.pem")["apps"]["tls"]["certificates"]["load_files"]
    assert (loaded["certificate"], loaded["key"]) == ("/run/chain.pem", "/run/key.pem")


def test_nobody_can_have_certificates_made_for_other_names() -> None:
    assert "on_demand" not in json.dumps(adapted())


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({}, "PUBLIC_BASE_URL is not set"),
        ({"PUBLIC_BASE_URL": ""}, "PUBLIC_BASE_URL is not set"),
        ({"PUBLIC_BASE_URL": "http://voice.example.com"}, "the edge serves https:// only"),
        ({"PUBLIC_BASE_URL": "voice.example.com"}, "the edge serves https:// only"),
        ({"PUBLIC_BASE_URL": f"{PUBLIC}/"}, "no slash at the end"),
        ({"PUBLIC_BASE_URL": f"{PUBLIC}/voice"}, "scheme and host only"),
        ({"PUBLIC_BASE_URL": PUBLIC, "EDGE_TLS": "/no/chain.pem /no/key.pem"}, "open /no/chain.pem: no such file"),
        ({"PUBLIC_BASE_URL": PUBLIC, "EDGE_TLS": "yes"}, "must either be 'internal'"),
        ({"PUBLIC_BASE_URL": PUBLIC, "EDGE_HTTPS_PORT": "https"}, "converting port 'https'"),
        ({"PUBLIC_BASE_URL": PUBLIC, "EDGE_STREAM_CLOSE_DELAY": "long"}, "long"),
    ],
)
def test_a_wrong_or_missing_setting_is_named_and_nothing_is_served(
    tmp_path: Path, env: dict[str, str], said: str
) -> None:
    whole = caddy.PATH | {"HOME": str(tmp_path), "EDGE_ADMIN": "off", **env}
    done = subprocess.run([caddy.RUN, CADDYFILE], env=whole, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in {1, 2}
    assert said in done.stdout + done.stderr


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        env = environment(HOME=str(tmp_path), EDGE_ADMIN="off", EDGE_TLS="internal", EDGE_BIND="127.0.0.1")
        done = caddy.run("run", "--config", str(CADDYFILE), env=env | {"EDGE_HTTPS_PORT": port, "EDGE_HTTP_PORT": "0"})
    assert done.returncode == 1
    assert f"{port}: bind: address already in use" in done.stdout + done.stderr


def test_what_is_refused_is_not_tried_again_in_a_storm(tmp_path: Path) -> None:
    """It ends when it is told to, and not before its pause."""
    env = caddy.PATH | {"HOME": str(tmp_path), "RESTART_PAUSE": "600"}
    with subprocess.Popen([caddy.RUN, CADDYFILE], env=env, stderr=subprocess.PIPE, text=True) as refused:
        assert refused.stderr is not None
        assert refused.stderr.readline() == "edge: PUBLIC_BASE_URL is not set\n"
        assert refused.poll() is None
        children = psutil.Process(refused.pid).children()
        refused.terminate()
        assert refused.wait(60) == 2
        for child in children:
            child.terminate()


def test_a_reload_with_a_mistake_is_refused_and_nothing_changes(edge: Caddy, router: Router) -> None:
    before = edge.configuration()
    with pytest.raises(AssertionError, match="long"):
        edge.reload(EDGE_STREAM_CLOSE_DELAY="long")
    assert edge.configuration() == before
    assert edge.request("GET", "/healthz").body == router.content


def test_calls_outlive_a_reload_for_longer_than_a_call_may_last() -> None:
    text = json.dumps(adapted())
    delays = {int(found) for found in re.findall(r'"stream_close_delay": (\d+)', text)}
    assert len(delays) == 1
    assert delays.pop() > 1e9 * Settings.model_fields["max_call_duration"].default


def test_what_the_router_serves_is_let_through_or_kept_private_on_purpose(edge: Caddy, router: Router) -> None:
    routes = [route for route in app.build(Mock()).routes if isinstance(route, Route)]
    paths = {re.sub(r"\{.*?\}", "x", route.path) for route in routes} | {"/media/x"}
    assert "/call-ended/x" in paths
    for path in sorted(paths | PRIVATE):
        page = edge.request("GET", path)
        assert page.status == (404 if path in PRIVATE else 200), path
    assert {one.path for one in router.asked} == paths - PRIVATE


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/metrics/",
        "/METRICS",
        "/clips/../metrics",
        "/clips/..%2fmetrics",
        "/healthz/../metrics",
        "//metrics",
        "/.env",
    ],
)
def test_nothing_else_reaches_the_router(edge: Caddy, router: Router, path: str) -> None:
    assert edge.request("GET", path).status == 404
    assert router.asked == []


def test_a_request_is_passed_on_with_what_the_edge_knows_of_its_sender(edge: Caddy, router: Router) -> None:
    """What the sender says of itself is gone; the rest is as it came: body, query and signature take part in checks."""
    lies = {
        "X-Forwarded-For": "6.6.6.6",
        "X-Forwarded-Proto": "http",
        "X-Forwarded-Host": "evil.test",
        "X-Forwarded-Port": "1",
        "X-Forwarded-Prefix": "/evil",
        "X-Real-IP": "6.6.6.6",
        "Forwarded": "for=6.6.6.6",
    }
    body, path = b"CallSid=CA1&From=%2B1", "/incoming-call?From=%2B1+2;x&b=%7E~"
    edge.request("POST", path, body, lies | {"X-Twilio-Signature": "abc=", "Content-Type": "application/x-w"})
    [asked] = router.asked
    assert (asked.method, asked.path, asked.body) == ("POST", path, body)
    about = {name: value for name, value in asked.headers.items() if "forward" in name or "real" in name}
    assert about == {"x-forwarded-for": "127.0.0.1", "x-forwarded-proto": "https", "x-forwarded-host": HOST}
    assert asked.headers["host"] == HOST
    assert asked.headers["x-twilio-signature"] == "abc="
    assert asked.headers["content-type"] == "application/x-w"
    assert "accept-encoding" not in asked.headers or asked.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("status", [204, 400, 403, 404, 500, 502, 503, 504])
def test_what_the_router_answers_passes_unchanged(edge: Caddy, router: Router, status: int) -> None:
    router.status, router.kind, router.content = status, "text/x-own", b"" if status == 204 else b"its own words"
    page = edge.request("POST", "/incoming-call", b"a=1")
    assert (page.status, page.headers["Content-Type"], page.body) == (status, "text/x-own", router.content)
    assert "Server" not in page.headers or "Caddy" not in page.headers["Server"]
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert len(router.asked) == 1, "an answer is no reason to ask again"


def test_a_body_larger_than_any_form_of_twilio_is_refused(edge: Caddy, router: Router) -> None:
    assert edge.request("POST", "/incoming-call", b"x" * 70_000).status == 413
    assert len(router.asked) <= 1, "it is not asked again"


@pytest.mark.parametrize("begun", [b"", b"POST /hold HTTP/1.1\r\nHost: "])
def test_who_does_not_finish_a_head_is_let_go(tmp_path: Path, behind: tuple[Router, str], begun: bytes) -> None:
    with Caddy(behind[1], config=caddy.impatient(tmp_path)) as edge, edge.connect() as client:
        client.sendall(begun)
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert not answer or answer.startswith(b"HTTP/1.1 4"), answer


def test_plain_http_is_sent_to_https(edge: Caddy) -> None:
    class Stay(HTTPRedirectHandler):
        def redirect_request(self, *_: Any, **__: Any) -> None:
            return None

        def http_error_308(self, _req: Any, fp: Any, *_: Any) -> Any:
            return fp

    request = Request(f"http://127.0.0.1:{edge.http_port}/hold?turn=2", headers={"Host": HOST})
    with build_opener(Stay).open(request, timeout=PATIENCE_S) as answer:
        assert answer.status == 308
        assert answer.headers["Location"] == f"https://{HOST}/hold?turn=2"


def test_http_3_is_not_offered(edge: Caddy) -> None:
    assert "Alt-Svc" not in edge.request("GET", "/healthz").headers
    assert psutil.Process(edge.pid).net_connections("udp") == []


def test_another_name_gets_no_certificate(edge: Caddy) -> None:
    with pytest.raises(OSError, match="alert"):
        edge.request("GET", "/healthz", name="other.example.test")


def test_your_own_certificate_is_served(edge: Caddy, behind: tuple[Router, str]) -> None:
    """Here: the one another edge has made for itself, so that only its authority's word is good."""
    made = next((edge.folder / "data" / "caddy" / "certificates" / "local").rglob("*.crt"))
    with Caddy(behind[1], EDGE_TLS=f"{made} {made.with_suffix('.key')}", ca_file=edge.ca_file) as other:
        assert other.request("GET", "/healthz").body == b"of the router"


def test_a_router_that_hangs_is_a_router_that_is_away(edge: Caddy, router: Router) -> None:
    """Within the time that Twilio waits."""
    router.hangs = True
    try:
        page = edge.request("POST", "/incoming-call", b"CallSid=CA1")
    finally:
        router.hangs = False
    assert (page.status, page.headers["Content-Type"]) == (200, "text/xml")
    [said, hangup] = parse(page.body)
    assert isinstance(said, Say)
    assert (said.language, said.text[:15]) == ("en-US", "We are sorry, w")
    assert isinstance(hangup, Hangup)
    assert len(router.asked) == 1, "there is no time to ask again"


def test_the_apology_is_yours_and_may_be_left_to_the_fallback_url() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with Caddy(nobody, EDGE_APOLOGY='Ligue "mais tarde".', EDGE_LANGUAGE="pt-BR", EDGE_DOWN_STATUS="503") as edge:
        page = edge.request("GET", "/hold?turn=2")
    assert page.status == 503
    [said, _] = parse(page.body)
    assert isinstance(said, Say)
    assert (said.language, said.text) == ("pt-BR", 'Ligue "mais tarde".')
