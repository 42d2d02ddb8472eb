"""The front desk of the tool tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.worker.tools.desk import ANA, BOB, Desk

if TYPE_CHECKING:
    from tests.postgres import PostgresDatabase


@pytest.fixture
def empty(database: PostgresDatabase) -> Desk:
    """Give a desk that knows nobody; Ana calls."""
    return Desk(database)


@pytest.fixture
def desk(empty: Desk) -> Desk:
    """Give a desk that knows Ana, who calls, and Bob."""
    return _knowing(empty)


@pytest.fixture(scope="module")
def quiet_desk(shared_database: PostgresDatabase) -> Desk:
    """Give a desk that knows both, one for all tests of a file, which must not change anything: each saves 0.1 s."""
    return _knowing(Desk(shared_database))


def _knowing(desk: Desk) -> Desk:
    desk.knows(ANA, "Ana Souza")
    desk.knows(BOB, "Bob")
    return desk
