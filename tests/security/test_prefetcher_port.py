"""The prefetchers' open port gives each client a thread, and so only for a while."""

from __future__ import annotations

import socket
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import start_http_server

from shared.metrics import registry
from shared.settings import Settings
from worker import prefetcher
from worker.prefetcher_pages import Listeners

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Expose metrics with little patience, and stop the server afterwards."""
    made: list[Any] = []

    def remembered(*given: Any) -> Any:
        made.extend(start_http_server(*given))
        return tuple(made)

    monkeypatch.setattr(prefetcher, "start_http_server", remembered)
    monkeypatch.setattr(prefetcher, "PATIENCE_S", 0.1)
    settings = Settings(_env_file=None, prefetch_metrics_port=0, pool_metrics_host="127.0.0.1")
    yield prefetcher.expose(settings, registry(), Listeners(["prefetch"]))
    server, thread = made
    server.RequestHandlerClass.timeout = None
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_client_that_says_nothing_is_let_go_and_one_that_asks_is_answered(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as idle:
        assert idle.recv(1) == b""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        assert b"process_resident_memory_bytes" in answer.read()
