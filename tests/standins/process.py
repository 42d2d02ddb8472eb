"""Start, steer and stop stand-ins as the processes they are.

    async with running("cartesia", connect_ms=0) as cartesia:
        await cartesia.control(stall_tts=True)
        assert (await cartesia.state())["counters"]["tts_open"] == 0

A stand-in never outlives its parent: it leaves when the pipe that is its stdin ends.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.launch import launch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from typing import IO

    from tests.launch import Launched

ROOT = Path(__file__).resolve().parents[2]
START_DEADLINE_S = 60.0  # a loaded machine needs seconds to import numpy; a healthy one 0.7 s
HTTP_DEADLINE_S = 30.0
STOP_DEADLINE_S = 10.0
TIMER_S = 0.01  # an event loop's timers count in milliseconds and may ring one early: for tests of least delays


class StandinFailed(RuntimeError):
    """A stand-in did not start, or refused a control request; the message is its own."""


@dataclass(frozen=True, slots=True)
class Standin:
    """A running stand-in. Every method may be called from any thread."""

    name: str
    port: int
    process: Launched
    pipes: tuple[IO[str], IO[str]]  # its stdin, at whose end it leaves, and its stdout

    @property
    def pid(self) -> int:
        """The process id, for tests that send it signals."""
        return self.process.pid

    @property
    def url(self) -> str:
        """`http://127.0.0.1:port`, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    async def control(self, **changes: object) -> dict[str, Any]:
        """Change settings or run actions; returns the settings that hold now. Raises StandinFailed when refused."""
        return await asyncio.to_thread(self.control_now, **changes)

    async def state(self) -> dict[str, Any]:
        """Fetch settings, counters and log."""
        return await asyncio.to_thread(self.state_now)

    def control_now(self, **changes: object) -> dict[str, Any]:
        """Blocking form of `control`."""
        settings: dict[str, Any] = self._request("POST", json.dumps(changes))["settings"]
        return settings

    def state_now(self) -> dict[str, Any]:
        """Blocking form of `state`."""
        return self._request("GET", None)

    def stop(self) -> int:
        """End it with SIGTERM and return its exit status; harmless when it has already gone."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.send_signal(signal.SIGCONT)  # a test may have stopped it
        return self._reap()

    def kill(self) -> int:
        """End it with SIGKILL and return its exit status."""
        self.process.kill()
        return self._reap()

    def _reap(self) -> int:
        try:
            return self.process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:  # it hangs: nothing may be left behind
            self.process.kill()
            return self.process.wait(STOP_DEADLINE_S)
        finally:
            for pipe in self.pipes:
                pipe.close()

    def _request(self, method: str, body: str | None) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=HTTP_DEADLINE_S)
        try:
            connection.request(method, "/_control", body)
            response = connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read())
        finally:
            connection.close()
        if response.status != http.HTTPStatus.OK:
            raise StandinFailed(f"{self.name}: {answer.get('error', answer)}")
        return answer


def start(name: str, *, port: int = 0, **flags: object) -> Standin:
    """Start `tests.standins.<name>` and return when it listens.

    Flags are written with underscores; True and False become `--flag` and `--no-flag`. The caller stops it.

    Raises:
        StandinFailed: it ended or said nothing within a minute; its stderr is the test's stderr.
    """
    arguments = [f"--port={port}", "--until-stdin-closes"]
    for flag, value in flags.items():
        word = flag.replace("_", "-")
        match value:
            case True:
                arguments.append(f"--{word}")
            case False:
                arguments.append(f"--no-{word}")
            case _:
                arguments.append(f"--{word}={value}")
    theirs, ours = _pipes()
    with theirs[0], theirs[1]:
        descriptors = (theirs[0].fileno(), theirs[1].fileno(), sys.__stderr__.fileno() if sys.__stderr__ else 2)
        process = launch(f"tests.standins.{name}", arguments, None, str(ROOT), descriptors)
    line = _first_line(process, ours[1])
    if not line:
        process.kill()
        Standin(name, 0, process, ours).stop()
        raise StandinFailed(f"{name} did not start: {' '.join(arguments)}")
    return Standin(name, int(json.loads(line)["port"]), process, ours)


def _pipes() -> tuple[tuple[IO[str], IO[str]], tuple[IO[str], IO[str]]]:
    """Make stdin and stdout of a process: its ends, and ours."""
    (stdin, feeding), (reading, stdout) = os.pipe(), os.pipe()
    return (os.fdopen(stdin), os.fdopen(stdout, "w")), (os.fdopen(feeding, "w"), os.fdopen(reading))


def _first_line(process: Launched, stdout: IO[str]) -> str:
    """Return the line that says it listens, or nothing when it ended or the deadline passed."""
    deadline = time.monotonic() + START_DEADLINE_S
    while (left := deadline - time.monotonic()) > 0 and process.poll() is None:
        ready, _, _ = select.select([stdout], [], [], min(left, 1.0))
        if ready:
            return stdout.readline()
    return ""


@contextmanager
def started(name: str, *, port: int = 0, **flags: object) -> Iterator[Standin]:
    """Run a stand-in around a block of blocking code."""
    standin = start(name, port=port, **flags)
    try:
        yield standin
    finally:
        standin.stop()


@asynccontextmanager
async def running(name: str, *, port: int = 0, **flags: object) -> AsyncIterator[Standin]:
    """Run a stand-in around a block of asyncio code. Starting it does not block the event loop."""
    standin = await asyncio.to_thread(start, name, port=port, **flags)
    try:
        yield standin
    finally:
        await asyncio.to_thread(standin.stop)
