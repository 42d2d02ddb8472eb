"""The product's worker with one bad tool: asking for the time blocks the event loop for good."""

import dataclasses
import socket
import time
from typing import NoReturn

from shared.settings import Settings
from shared.workers import WorkerId
from worker.call import child
from worker.tools.registry import Outcome, ToolCall


def load(settings: Settings) -> child.Loaded:
    """Load what the product loads, and put the bad tool in the place of a good one."""
    loaded = child.load(settings)
    clock = dataclasses.replace(loaded.tools["get_current_time"], run=ask_a_slow_clock)
    return dataclasses.replace(loaded, tools={**loaded.tools, clock.name: clock})


def serve(loaded: child.Loaded, worker: WorkerId, channel: socket.socket) -> NoReturn:
    """Be the product's worker."""
    child.serve(loaded, worker, channel)


async def ask_a_slow_clock(_call: ToolCall) -> Outcome:
    """Do what a tool must not do."""
    time.sleep(3600)  # noqa: ASYNC251 - the fault itself
    return Outcome({})
