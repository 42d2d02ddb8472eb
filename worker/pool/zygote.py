"""The zygote: imports and loads everything once, then only forks workers. Started by the pool, in a session of its own.

    python -m worker.pool.zygote --control-fd N [--child worker.call.child]

It has one thread and no event loop, because a forked child inherits nothing else's threads but all their locks: it
counts `/proc/self/task` before each fork and refuses when there is a second one. What runs in the child is the module
named by `--child`, with two functions:

    def load(settings: Settings) -> Loaded                                       # here, once
    def serve(loaded: Loaded, worker: WorkerId, channel: socket.socket) -> NoReturn   # in each child

When the pool is gone (end of the control socket) the zygote leaves, and its children go on alone.
"""

import argparse
import array
import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any, Final, NoReturn, Protocol, cast

from shared import logs, rlimits, settings, tracing
from shared.channel import close_all, receive_datagram
from shared.errors import OffhookError, WarmupFailed
from shared.framing import TO_ZYGOTE, encode
from shared.messages import Alive, Forked, ForkRefused, Message, Reaped, WarmFailed
from shared.processes import Process
from shared.settings import Settings
from shared.workers import WorkerId

CHILD: Final = "worker.call.child"

OOM_SCORE: Final = "500"
"""Raised in each worker, so that a machine out of memory takes one caller and not the pool (0) with all of them."""

EXIT_CRASHED: Final = 70
EXIT_NOT_LOADED: Final = 3
MAX_TRACEBACK: Final = 16_000
"""Characters of a traceback that travel: a message holds 64 KiB."""


class Child(Protocol):
    """What the module named by `--child` offers."""

    def load(self, settings: Settings) -> Any:
        """Import and load everything that workers share; `problems` of the result says what was left out."""

    def serve(self, loaded: Any, worker: WorkerId, channel: socket.socket) -> NoReturn:
        """Warm, park, serve one call, leave by `os._exit`."""


class Zygote:
    """The loop: one control socket, and a pidfd for each child that has not been waited for."""

    def __init__(self, control: socket.socket, child: Child, loaded: Any) -> None:
        self._control = control
        self._child = child
        self._loaded = loaded
        self._children: dict[int, int] = {}  # pid by pidfd
        self._poll = select.poll()
        self._poll.register(control.fileno(), select.POLLIN)

    def run(self) -> None:
        """Serve until the pool is gone."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while True:
                for fd, _ in self._poll.poll():
                    if fd in self._children:
                        self._reap(fd)
                    elif not self._serve_one():
                        return

    def _serve_one(self) -> bool:
        received = receive_datagram(self._control)
        if received is None:
            return False
        data, fds = received
        try:
            message = TO_ZYGOTE(data)
            if len(fds) != 1:
                msg = f"a request to fork came with {len(fds)} descriptors"
                raise OffhookError(msg)
            self._fork(message.worker, fds[0])
        finally:
            close_all(fds)
        return True

    def _fork(self, worker: WorkerId, channel_fd: int) -> None:
        if (threads := thread_count()) != 1:
            self._send(ForkRefused(worker=worker, why=f"the zygote has {threads} threads"))
            return
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            pid = os.fork()
        except OSError as error:
            self._send(ForkRefused(worker=worker, why=str(error)))
            return
        if pid == 0:
            self._become(worker, channel_fd)
        pidfd = os.pidfd_open(pid)  # before anybody can wait for the child: the pid is still its own
        self._children[pidfd] = pid
        self._poll.register(pidfd, select.POLLIN)
        self._send(Forked(worker=worker, pid=pid), pidfd)

    def _become(self, worker: WorkerId, channel_fd: int) -> NoReturn:
        """Be the worker: drop what is the zygote's, and never come back."""
        try:
            self._control.close()
            close_all(list(self._children))
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            with contextlib.suppress(OSError):
                Path("/proc/self/oom_score_adj").write_text(OOM_SCORE, encoding="ascii")
            self._child.serve(self._loaded, worker, socket.socket(fileno=channel_fd))
        except BaseException:  # noqa: BLE001 - a worker must not fall back into the zygote's loop, whatever happens
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(EXIT_CRASHED)

    def _reap(self, pidfd: int) -> None:
        self._poll.unregister(pidfd)
        pid = self._children.pop(pidfd)
        os.close(pidfd)
        _, status = os.waitpid(pid, 0)
        self._send(Reaped(pid=pid, status=status))

    def _send(self, message: Message, *fds: int) -> None:
        send(self._control, message, *fds)


def send(control: socket.socket, message: Message, *fds: int) -> None:
    """Send a message to the pool, waiting while it does not read."""
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    control.sendmsg([encode(message)], ancillary, socket.MSG_NOSIGNAL)


def thread_count() -> int:
    """Count the threads of this process, also those Python knows nothing of."""
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def main(arguments: list[str] | None = None) -> int:
    """Load, tell the pool, fork until it is gone; give the exit status."""
    parser = argparse.ArgumentParser(prog="python -m worker.pool.zygote", description="Forks workers for a pool.")
    parser.add_argument("--control-fd", type=int, required=True, help="the zygote's end of the pool's socket pair")
    parser.add_argument("--child", default=CHILD, help="the module whose load() and serve() run in each worker")
    options = parser.parse_args(arguments)
    control = socket.socket(fileno=options.control_fd)
    control.set_inheritable(False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    rlimits.take()
    began = time.monotonic()
    gc.disable()  # while it loads nothing becomes garbage that matters, and looking for it takes a fifth of the time (measured)
    try:
        configured = settings.load(Process.ZYGOTE)
        logs.configure(configured.log_level, process="zygote")
        with tracing.loading(configured):
            child = cast("Child", importlib.import_module(options.child))
        loaded = child.load(configured)
    except Exception as error:  # noqa: BLE001 - whatever it is, the operator reads it in /readyz
        with contextlib.suppress(OSError):
            send(control, _not_loaded(error))
        return EXIT_NOT_LOADED
    gc.collect()
    gc.enable()
    gc.freeze()  # nothing loaded here is ever garbage: no child need look through it (90 ms a time, measured)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        problems = getattr(loaded, "problems", ())
        send(control, Alive(warm_s=time.monotonic() - began, threads=thread_count(), problems=problems))
        Zygote(control, child, loaded).run()
    return 0


def _not_loaded(error: Exception) -> WarmFailed:
    named = error.resource if isinstance(error, WarmupFailed) else "zygote"
    detail = f"{type(error).__name__}: {error}"[:1000]
    words = "".join(traceback.format_exception(error))
    return WarmFailed(resource=named, detail=detail, traceback=words[-MAX_TRACEBACK:])


if __name__ == "__main__":
    sys.exit(main())
