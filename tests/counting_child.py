"""The real worker with two tools that count their runs and never end, for tests of a death in the middle of one.

Each run appends a line with its tool and its call's id to the file that `COUNTED_RUNS` names. `book_by_id` can look up what
became of a call; `book` cannot.
"""

import asyncio
import dataclasses
import os
import socket
from pathlib import Path
from typing import NoReturn

from shared.settings import Settings
from shared.workers import WorkerId
from worker.call import child
from worker.tools.registry import Outcome, Tool, ToolCall, by_name

TABLE = 7


def load(settings: Settings) -> child.Loaded:
    """Load the real worker, with these tools."""
    loaded = child.load(settings)
    book = Tool("book", "Book a table.", _Booking("book"), timeout_s=600.0)
    book_by_id = Tool("book_by_id", "Book a table.", _Booking("book_by_id"), timeout_s=600.0, lookup=_lookup)
    return dataclasses.replace(loaded, tools={**loaded.tools, **by_name([book, book_by_id])})


def serve(loaded: child.Loaded, worker: WorkerId, channel: socket.socket) -> NoReturn:
    """Be a worker."""
    child.serve(loaded, worker, channel)


@dataclasses.dataclass(frozen=True)
class _Booking:
    name: str

    async def __call__(self, call: ToolCall) -> Outcome:
        with _runs().open("a", encoding="utf-8") as file:
            file.write(f"{self.name} {call.id}\n")
        await asyncio.Event().wait()
        return Outcome({})


async def _lookup(call: ToolCall) -> Outcome | None:
    known = f"book_by_id {call.id}" in _runs().read_text(encoding="utf-8").splitlines()
    return Outcome({"table": TABLE}) if known else None


def _runs() -> Path:
    return Path(os.environ["COUNTED_RUNS"])
