"""A process that cannot be started leaves nothing behind, whatever it fails for."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from worker.pool.launch import launch

if TYPE_CHECKING:
    from collections.abc import Iterator

QUIET = "worker.pool.launch"
"""A module that does nothing when it is run."""


@contextlib.contextmanager
def room_for(count: int) -> Iterator[None]:
    """Leave room for so many more descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fillers: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                fillers.append(os.open("/dev/null", os.O_RDONLY))
        for _ in range(count):
            os.close(fillers.pop())
        yield
    finally:
        for filler in fillers:
            os.close(filler)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def descriptors() -> set[str]:
    """List what is open."""
    return {each.name for each in Path("/proc/self/fd").iterdir()}


def started() -> bool:
    """Start a process, and end it if that worked."""
    try:
        process, control, pidfd = launch(QUIET, [], os.environ)
    except OSError:
        return False
    process.kill()
    process.wait()
    control.close()
    os.close(pidfd)
    return True


def test_without_descriptors_nothing_is_started_and_nothing_is_left_open() -> None:
    before = descriptors()
    outcomes = []
    for count in range(10):
        with room_for(count):
            outcomes.append(started())
        assert descriptors() == before
    assert outcomes == sorted(outcomes), "with more room it works"
    assert (outcomes[0], outcomes[-1]) == (False, True)


def test_a_process_that_cannot_be_watched_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    before, seen = descriptors(), []

    def none(pid: int) -> int:
        seen.append(pid)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pidfd_open", none)
    with pytest.raises(OSError, match="Too many open files"):
        launch(QUIET, [], os.environ)
    (pid,) = seen
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    assert descriptors() == before
