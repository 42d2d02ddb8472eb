"""Fixture of the system tests: one installation shared by the calls of a module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.stack import Plan, Stack

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def plan() -> Plan:
    """Say what the module's installation is made of; a module may override this."""
    return Plan()


@pytest.fixture(scope="module")
def stack(plan: Plan) -> Iterator[Stack]:
    """Give a running installation."""
    made = Stack(plan)
    try:
        made.start()
        yield made
    finally:
        made.stop()
