"""The end of a call: its close code, and waiting for word that its end reason is stored. The stream stays open until then."""

import asyncio
from collections.abc import Mapping
from typing import Final

from websockets.frames import CloseCode

from shared.calls import EndReason

USUAL_WAIT_S: Final = 0.6
"""The pool waits 0.3 s for Redis; twice that, and the stream is closed without its word."""

CLOSE_CODES: Final[Mapping[EndReason, CloseCode]] = {
    EndReason.TICKET_MISMATCH: CloseCode.POLICY_VIOLATION,
    EndReason.PROTOCOL_ERROR: CloseCode.PROTOCOL_ERROR,
    EndReason.WORKER_LOST: CloseCode.INTERNAL_ERROR,
}
"""Any other end closes the stream normally."""


class StoredEnd:
    """That word. `set` when it came."""

    def __init__(self) -> None:
        self._wait_s = USUAL_WAIT_S
        self._stored = asyncio.Event()
        self._waiting: asyncio.Timeout | None = None

    def set(self) -> None:
        """Note that the end reason is stored."""
        self._stored.set()

    def allow(self, seconds: float) -> None:
        """Let it take this long, also when the wait has begun."""
        self._wait_s = seconds
        if self._waiting is not None and not self._waiting.expired():
            self._waiting.reschedule(asyncio.get_running_loop().time() + seconds)

    async def wait(self) -> bool:
        """Wait for it; False when it did not come in time."""
        try:
            async with asyncio.timeout(self._wait_s) as self._waiting:
                await self._stored.wait()
        except TimeoutError:
            return False
        finally:
            self._waiting = None
        return True
