"""The product's worker with a tool that must never run twice: asking for the time writes a line, and takes its time.

`COUNTED_FILE` names the file that gets the id of each run's tool call, as its very first act.
"""

import asyncio
import dataclasses
import os
import socket
from pathlib import Path
from typing import Final, NoReturn

from shared.settings import Settings
from shared.workers import WorkerId
from worker.call import child
from worker.tools.registry import Outcome, ToolCall

TAKES_S: Final = 2.0
"""Long enough for a kill to land in it, short enough to be waited for."""

RESULT: Final = "noon"


def load(settings: Settings) -> child.Loaded:
    """Load what the product loads, and put the counting tool in the place of a harmless one."""
    loaded = child.load(settings)
    clock = dataclasses.replace(loaded.tools["get_current_time"], run=count, repeatable=False)
    return dataclasses.replace(loaded, tools={**loaded.tools, clock.name: clock})


def serve(loaded: child.Loaded, worker: WorkerId, channel: socket.socket) -> NoReturn:
    """Be the product's worker."""
    child.serve(loaded, worker, channel)


async def count(call: ToolCall) -> Outcome:
    """Do what cannot be undone."""
    with Path(os.environ["COUNTED_FILE"]).open("a", encoding="utf-8") as file:  # noqa: ASYNC230 - a line
        file.write(f"{call.id}\n")
    await asyncio.sleep(TAKES_S)
    return Outcome({"time": RESULT})
