"""Whether the prefetchers are ready: jobs are taken by both children, and not merely that a process lives."""

from __future__ import annotations

import json
import os
import signal
import urllib.error
import urllib.request
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from wsgiref.util import setup_testing_defaults

import pytest

from shared.prefetch import AFTERCALL_QUEUE, QUEUE
from tests.worker.test_prefetcher import Prefetchers, prefetchers, until
from worker.prefetcher_pages import Listeners, pages

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.redis_server import RedisServer


def asked(listeners: Listeners, path: str) -> tuple[str, bytes]:
    """Ask the application for a page; what is no page of ours comes from the one behind it."""
    said: list[str] = []

    def behind(_environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        start("200 OK", [])
        return [b"metrics"]

    environ: dict[str, Any] = {"PATH_INFO": path}
    setup_testing_defaults(environ)
    body = b"".join(pages(behind, listeners)(environ, lambda status, _headers: said.append(status)))  # type: ignore[arg-type]
    return said[0], body


def test_it_is_ready_when_every_child_takes_jobs() -> None:
    listeners = Listeners([QUEUE, AFTERCALL_QUEUE])
    assert asked(listeners, "/readyz") == (
        "503 Service Unavailable",
        b'{"listening": {"prefetch": 0, "aftercall": 0}, "reason": "nobody takes jobs of prefetch and aftercall"}',
    )
    listeners.show(QUEUE, 4)
    assert json.loads(asked(listeners, "/readyz")[1])["reason"] == "nobody takes jobs of aftercall"
    listeners.show(AFTERCALL_QUEUE, 1)
    assert asked(listeners, "/readyz") == ("200 OK", b'{"listening": {"prefetch": 4, "aftercall": 1}, "reason": ""}')


def test_everything_else_is_the_metrics() -> None:
    assert asked(Listeners([QUEUE]), "/metrics") == ("200 OK", b"metrics")


def readyz(running: Prefetchers) -> tuple[int, dict[str, Any]]:
    until("it listens", lambda: running.said("prefetchers started"))
    [started] = running.said("prefetchers started")
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{started['metrics_port']}/readyz") as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


@pytest.mark.redis
@pytest.mark.system
def test_it_is_not_ready_while_redis_is_away_and_is_again_when_it_is_back(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    with prefetchers(redis_server.url, tmp_path, None) as running:
        until(
            "ready",
            lambda: readyz(running) == (HTTPStatus.OK, {"listening": {"prefetch": 2, "aftercall": 1}, "reason": ""}),
        )
        redis_server.stop()
        until("not ready without Redis", lambda: readyz(running)[1]["listening"] == {"prefetch": 0, "aftercall": 0})
        assert readyz(running)[0] == HTTPStatus.SERVICE_UNAVAILABLE
        redis_server.start()
        until("ready again", lambda: readyz(running)[0] == HTTPStatus.OK)


@pytest.mark.redis
@pytest.mark.system
def test_a_child_that_dies_takes_no_jobs_until_another_one_does(redis_url: str, tmp_path: Path) -> None:
    with prefetchers(redis_url, tmp_path, None) as running:
        until("ready", lambda: readyz(running)[0] == HTTPStatus.OK)
        died = running.children()[QUEUE]
        os.kill(died, signal.SIGKILL)
        until("it is replaced", lambda: running.children()[QUEUE] != died)
        until("ready again", lambda: readyz(running)[0] == HTTPStatus.OK)
