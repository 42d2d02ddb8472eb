"""The engine of the session, and the installation most of these tests share."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.containers.engine import Engine, NoEngine, running
from tests.containers.site import Site

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """Give a container engine with all images built; without one every test here is skipped, for one reason."""
    try:
        with running() as made:
            began = time.monotonic()
            Site(made, profiles="demo").compose("build")
            print(f"images built in {time.monotonic() - began:.0f} s")
            yield made
    except NoEngine as error:
        print(f"containers are not tested: {error}")
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def site(engine: Engine) -> Iterator[Site]:
    """Give the running installation of the demo."""
    made = Site(engine)
    try:
        began = time.monotonic()
        up = made.attempt("up", "--detach", "--wait", "--no-build")
        assert up.returncode == 0, f"{up.stderr}\n{made.tail()}"
        print(
            f"up in {time.monotonic() - began:.0f} s, first worker ready {made.first_ready_s():.1f} s after its container's start"
        )
        yield made
    finally:
        made.attempt("down", "--volumes", "--timeout", "10")
