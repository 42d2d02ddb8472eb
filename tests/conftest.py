"""Fixtures for all tests: a real Redis and a real PostgreSQL, one server each for the session, empty for each test that asks.

And how hard property tests try.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
import structlog

from shared import logs
from tests import effort, launch
from tests.redis_server import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.postgres import Postgres, PostgresDatabase

effort.load()
launch.forking = True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with whole systems: what takes long and comes last is done by one process while the others have nothing to do."""
    items.sort(key=lambda item: item.get_closest_marker("system") is None)


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """Put the logs of this process back after a test that ran something which configures them."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logs._process_fields.clear()
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def _redis_of_the_session() -> Iterator[RedisServer]:
    server = RedisServer()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def redis_url(_redis_of_the_session: RedisServer) -> str:
    """Give the address of an empty Redis."""
    _redis_of_the_session.flush()
    return _redis_of_the_session.url


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """Give a Redis of the test's own, started, which it may stop, kill and start again."""
    server = RedisServer()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Give the PostgreSQL of the session; `fresh()` makes a database in it with all migrations applied."""
    from tests.postgres import Postgres  # 0.3 s, for those who ask

    server = Postgres()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def database(postgres: Postgres) -> Iterator[PostgresDatabase]:
    """Give the functions of the migrations, on a database of the test's own without a row in it."""
    from tests.postgres import PostgresDatabase

    dsn = postgres.fresh()
    yield PostgresDatabase(dsn)
    postgres.drop(dsn)


@pytest.fixture(scope="module")
def shared_database(postgres: Postgres) -> Iterator[PostgresDatabase]:
    """Give the functions of the migrations, on a database for all tests of a file."""
    from tests.postgres import PostgresDatabase

    dsn = postgres.fresh()
    yield PostgresDatabase(dsn)
    postgres.drop(dsn)
