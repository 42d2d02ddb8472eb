"""The tasks of one worker: kept while they run, and never failing in silence."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from shared.logs import get

log = get(__name__)


class Tasks(set[asyncio.Task[None]]):
    """Tasks under way; each leaves when it is done, and a failure is logged with its traceback."""

    def go(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task."""
        task = asyncio.create_task(coroutine)
        self.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a task of the call failed", exc_info=error)
