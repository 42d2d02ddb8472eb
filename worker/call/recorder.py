"""Records both sides of a call, as they are heard: the caller as it arrives, the agent as the carrier plays it.

Nothing here waits for a disk: sound is kept in memory and appended by a thread four times a second. That is also what a
killed worker's recording loses. A recorder that cannot write says so once and records no more; the call goes on.
"""

import asyncio
import contextlib
import os
import time
from pathlib import Path
from typing import Final

from shared import logs
from shared.calls import CallSid
from shared.rawrecording import Kind, Piece, pack, part
from worker.call.playout import RATE

FLUSH_S: Final = 0.25

CLOSE_WAIT_S: Final = 1.0
"""How long the end of a call waits for the last piece to be written."""

MOST_WAITING_BYTES: Final = 8_000_000
"""About six minutes of both sides: a disk that hangs for longer costs the recording, not the worker's memory."""

_log = logs.get(__name__)


class Recorder:
    """Records one call from `begin` on; of what the agent was given before, only what is played from then on.

    It is a `playout.Tap`; times it is given are monotonic.
    """

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._early: list[tuple[float, bytes]] = []  # the agent's sound, while nothing is recorded
        self._fd = -1
        self._clock = time.time() - time.monotonic()
        self._writing: asyncio.Task[None] | None = None
        self._over = asyncio.Event()

    @property
    def recording(self) -> bool:
        """Whether what is heard is written."""
        return self._fd >= 0 and not self._over.is_set()

    def begin(self, folder: Path, call_sid: CallSid, number: int) -> None:
        """Record from now on, as this worker of the call."""
        if self.recording or self._over.is_set():
            return
        try:
            path = part(folder, call_sid, number)
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except (OSError, ValueError) as error:
            self._give_up(error)
            return
        now = time.monotonic()
        self._clock = time.time() - now
        early, self._early = self._early, []
        for at, ulaw in early:
            missed = max(0, round((now - at) * RATE))
            if missed < len(ulaw):
                self._keep(Kind.AGENT, max(at, now), ulaw[missed:])
        self._writing = asyncio.create_task(self._write_on())

    def caller(self, ulaw: bytes) -> None:
        """Take what the caller says, when it arrives."""
        if self.recording:
            self._keep(Kind.CALLER, time.monotonic() - len(ulaw) / RATE, ulaw)

    def agent(self, at: float, ulaw: bytes) -> None:
        """Take sound that the carrier plays from `at` on."""
        if self.recording:
            self._keep(Kind.AGENT, at, ulaw)
        elif not self._over.is_set():
            self._early.append((at, ulaw))

    def cleared(self, at: float) -> None:
        """Note that the carrier drops at `at` what it has not played."""
        if self.recording:
            self._keep(Kind.CLEARED, at)
        else:
            self._early.clear()

    async def close(self) -> None:
        """Write what is left, and record no more; harmless when nothing is recorded."""
        self._over.set()
        self._early.clear()
        if self._writing is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_WAIT_S):
                    await asyncio.shield(self._writing)

    def _keep(self, kind: Kind, at: float, ulaw: bytes = b"") -> None:
        if len(self._waiting) > MOST_WAITING_BYTES:
            self._give_up(TimeoutError("the disk does not take it"))
            return
        self._waiting += pack(Piece(kind, at + self._clock, ulaw))

    async def _write_on(self) -> None:
        try:
            over = False
            while not over:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(FLUSH_S):
                        await self._over.wait()
                over = self._over.is_set()
                data, self._waiting = bytes(self._waiting), bytearray()
                await asyncio.to_thread(_write_all, self._fd, data)
        except OSError as error:
            self._give_up(error)
        finally:
            os.close(self._fd)
            self._fd = -1

    def _give_up(self, error: Exception) -> None:
        self._over.set()
        self._waiting.clear()
        self._early.clear()
        _log.error("the call is not recorded any more", error=str(error))


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
