"""The health check of containers: 0 for answers that are fine, else 1 and one line; and it loads next to nothing."""

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared import healthcheck

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 30.0


@contextlib.contextmanager
def answering(*pieces: bytes, host: str = "127.0.0.1", stays: bool = False) -> Iterator[tuple[str, list[bytes]]]:
    """Answer every connection with these bytes and close it, or stay; give the address and what was asked."""
    asked: list[bytes] = []
    held: list[socket.socket] = []
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, 0), family=family)

    def serve() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            asked.append(peer.recv(65_536))
            with contextlib.suppress(OSError):
                for piece in pieces:
                    peer.sendall(piece)
            held.append(peer)
            if not stays:
                held.pop().close()

    thread = threading.Thread(target=serve)
    thread.start()
    port = listener.getsockname()[1]
    try:
        yield f"http://{f'[{host}]' if ':' in host else host}:{port}", asked
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(DEADLINE_S)
        for peer in held:
            peer.close()


def http(status: str, body: bytes = b"") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def run(*urls: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """Check in this process; give the exit status and the lines."""
    status = healthcheck.main(list(urls))
    output = capsys.readouterr()
    assert output.err == ""
    return status, output.out.splitlines()


@pytest.mark.parametrize("status", ["200 OK", "204 No Content", "299 Well"])
def test_an_answer_that_is_fine_is_no_words_and_0(status: str, capsys: pytest.CaptureFixture[str]) -> None:
    with answering(http(status)) as (url, asked):
        assert run(f"{url}/readyz?a=1", capsys=capsys) == (0, [])
    head = asked[0].decode().split("\r\n")
    assert head[0] == "GET /readyz?a=1 HTTP/1.0"
    assert head[1] == f"host: {url.removeprefix('http://')}"


def test_a_name_alone_is_asked_for_its_root_and_a_v6_address_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    with answering(http("200 OK"), host="::1") as (url, asked):
        assert run(url, capsys=capsys) == (0, [])
    assert asked[0].startswith(b"GET / HTTP/1.0\r\nhost: [::1]:")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (http("503 Service Unavailable", json.dumps({"ready": 0, "reason": "warming"}).encode()), "503: warming"),
        (http("503 No", b'{"reason": "one\\nline\\u001b[31m"}'), "503: one line [31m"),
        (http("503 No", b'{"reason": ["a", "list"]}'), '503: {"reason": ["a", "list"]}'),
        (http("404 Not Found", b"Not Found\nat all\n"), "404: Not Found"),
        (http("500 No", b"\xff\xfe"), "500: \ufffd\ufffd"),
        (http("503 No", b"[" * 50_000), "503: " + "[" * 500),
        (http("301 Moved", b""), "301: says nothing"),
        (b"SSH-2.0-x\r\n", "does not answer with HTTP"),
        (b"HTTP/1.1 \xff\xff\xff\r\n\r\n", "does not answer with HTTP"),
        (b"", "does not answer with HTTP"),
    ],
)
def test_any_other_answer_is_one_line_with_the_reason_and_1(
    answer: bytes, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(answer) as (url, _):
        assert run(f"{url}/readyz", capsys=capsys) == (1, [f"{url}/readyz: {words}"])


def test_all_have_to_be_fine_and_all_that_are_not_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with answering(http("200 OK")) as (fine, asked), answering(http("503 No", b'{"reason":"tts"}')) as (wrong, _):
        assert run(fine, fine, capsys=capsys) == (0, [])
        assert run(wrong, fine, wrong, capsys=capsys) == (1, [f"{wrong}: 503: tts; {wrong}: 503: tts"])
        assert len(asked) == 3


def test_nobody_there_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    url = f"http://127.0.0.1:{port}/readyz"
    assert run(url, capsys=capsys) == (1, [f"{url}: Connection refused"])
    status, (line,) = run("http://no-such-host.invalid:1/", capsys=capsys)
    assert (status, line.count("http://no-such-host.invalid:1/: ")) == (1, 1)


@pytest.mark.parametrize("pieces", [(), (b"HTTP/1.1 200 OK\r\n\r\n", b"x")])
def test_who_does_not_finish_is_given_up_and_all_have_one_limit(
    pieces: tuple[bytes, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(healthcheck, "TIMEOUT_S", 0.2)
    with answering(*pieces, stays=True) as (url, _):
        assert run(url, url, capsys=capsys) == (1, [f"{url}: no answer in time; {url}: no answer in time"])


def test_who_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece comes in time and the whole does not: the clock is moved on by every look at it."""
    now = iter(range(1_000))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(now)))
    with answering(*[b"x"] * 50, stays=True) as (url, _), pytest.raises(healthcheck.Unhealthy, match="in time"):
        healthcheck.check(url, 3.0)


@pytest.mark.parametrize(
    "url",
    ["", "http://", "https://h:1/", "h:1/", "http://h:x/", "http://:1/", "http://h:1/\r\nx: y", "http://\u00e9:1/"],
)
def test_what_is_no_address_is_said(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, (line,) = run(url, capsys=capsys)
    assert (status, line.endswith(": is no URL of the form http://host:port/path")) == (1, True)


def test_without_a_url_it_says_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys=capsys) == (1, ["usage: python -m shared.healthcheck URL..."])


def test_as_a_process_it_ends_with_its_status() -> None:
    command = [sys.executable, "-m", "shared.healthcheck"]
    with answering(http("200 OK")) as (url, _):
        assert subprocess.run([*command, url], cwd=ROOT, check=False, timeout=DEADLINE_S).returncode == 0
    done = subprocess.run([*command, url], cwd=ROOT, check=False, timeout=DEADLINE_S, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (1, f"{url}: Connection refused\n", "")


def test_it_loads_none_of_what_takes_long() -> None:
    """It runs beside calls every few seconds. Compared with what the interpreter loads for `-m` and for sockets."""
    with answering(http("200 OK")) as (url, _):
        code = f"import runpy, socket, sys; b = set(sys.modules); sys.argv[1:] = [{url!r}]\n"
        code += "try: runpy.run_module('shared.healthcheck', run_name='__main__')\n"
        code += "except SystemExit as left: print(left.code, sorted(set(sys.modules) - b))"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, check=True, timeout=DEADLINE_S, capture_output=True
        )
    assert done.stdout.decode().strip() == "0 ['shared']"
