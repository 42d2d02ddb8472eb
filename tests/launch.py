"""Starts our processes and the stand-ins: by exec, as an operator does, or by a fork of a process that has imported them.

A system test starts six processes, each of which imports for a third of a second; on two cores that was half of the suite's
time. A fork of the standard library's fork server begins behind the imports and is the same from there on: its own `__main__`,
arguments, environment, folder and descriptors. What our processes start themselves (zygote, tool host, prefetcher children) is
always exec'ed. Benches and the demo never fork.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from multiprocessing import forkserver, reduction
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PRELOADED = (
    "router.app",
    "router.parts",
    "router.prefetch",
    "router.serving",
    "worker.call.greeting",
    "worker.pool.http",
    "worker.pool.pool",
    "worker.prefetcher_report",
    "prometheus_client",
    "tests.standins.cartesia_socket",
    "tests.standins.control",
    "tests.standins.known_speech",
    "tests.standins.openai_wire",
    "tests.standins.rules",
    "tests.standins.supabase_tables",
)
"""What the modules that are run import; not they themselves, which run as `__main__`."""

NO_THREADS = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

forking = False
"""Whether processes may be forked; the tests' conftest says so."""


class Launched(Protocol):
    """A process that was started: what `subprocess.Popen` has of it."""

    @property
    def pid(self) -> int:
        """Its id."""

    def poll(self) -> int | None:
        """Give its exit status (negative: the signal that ended it); None while it lives."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises subprocess.TimeoutExpired."""

    def send_signal(self, sig: int) -> None:
        """Send it a signal, unless it has ended."""

    def kill(self) -> None:
        """End it now."""


class Forked:
    """A process that was forked."""

    def __init__(self, process: ForkServerProcess) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """Its id."""
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """Give its exit status; None while it lives."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        self._process.join(timeout)
        status = self._process.exitcode
        if status is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0)
        return status

    def send_signal(self, sig: int) -> None:
        """Send it a signal, unless it has ended."""
        with contextlib.suppress(ProcessLookupError):  # it has ended, and its status is on its way
            if self.poll() is None:
                os.kill(self.pid, sig)

    def kill(self) -> None:
        """End it now."""
        self.send_signal(signal.SIGKILL)


def launch(
    module: str, arguments: Sequence[str], env: Mapping[str, str] | None, folder: str, descriptors: tuple[int, int, int]
) -> Launched:
    """Run `python -m module arguments` with this environment (None: ours), in this folder, with stdin, stdout and stderr.

    The descriptors stay the caller's to close.
    """
    if not forking:
        stdin, stdout, stderr = descriptors
        command = [sys.executable, "-m", module, *arguments]
        return subprocess.Popen(command, cwd=folder, env=env, stdin=stdin, stdout=stdout, stderr=stderr)
    duplicates = [reduction.DupFd(fd) for fd in descriptors]
    given = (module, tuple(arguments), dict(os.environ if env is None else env), folder, duplicates)
    process = _context().Process(target=_become, args=given, name=module)
    process.start()
    return Forked(process)


def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    before = {name: os.environ.get(name) for name in NO_THREADS}
    os.environ.update(NO_THREADS)  # the server inherits it: a thread of numpy's would be lost in every fork
    try:
        context.set_forkserver_preload(list(PRELOADED))
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return context


def _become(module: str, arguments: tuple[str, ...], env: dict[str, str], folder: str, descriptors: list[Any]) -> None:
    """Be that process, from its first line."""
    for number, duplicate in enumerate(descriptors):
        fd = duplicate.detach()
        os.dup2(fd, number)
        os.close(fd)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - as long as the process
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    sys.argv = [module, *arguments]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
