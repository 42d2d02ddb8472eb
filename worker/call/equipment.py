"""The tools of workers: loaded in the zygote, for all of them at once, before any call.

Or, with `EAGER_TOOL_LOADING=false`, in each worker when the stream of its call has begun: a parked worker has none then, and
what the tool host offers is not looked at before. What is wrong with tools is found when the pool starts, either way.
"""

import asyncio
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from shared.agents import Agent
from shared.logs import get
from shared.messages import Problem
from shared.settings import Settings
from worker.call.pipeline import AgentPipeline
from worker.call.toolline import HostLine
from worker.tools import custom_folder
from worker.tools.builtin_names import NAMES
from worker.tools.custom_check import Checked
from worker.tools.custom_folder import Custom
from worker.tools.registry import Tool, by_name
from worker.tools.wanted import missing

log = get(__name__)


@dataclass(frozen=True, slots=True)
class Tools:
    """The tools there are: loaded, or with `late` the files of good ones. `problems`: what was left out."""

    loaded: Mapping[str, Tool] = field(default_factory=dict)
    late: Checked | None = None
    problems: tuple[Problem, ...] = ()


def find_tools(settings: Settings, agents: Iterable[Agent]) -> Tools:
    """Load the tools, or look whether they could be. For the zygote.

    Raises:
        SettingsError: the folder of tools cannot be read; or, with `TOOLS_STRICT`, a file in it is broken.
    """
    if settings.eager_tool_loading:
        custom = custom_folder.load_custom(settings)
        tools = _all(custom.tools)
        return Tools(tools, problems=(*custom.problems, *missing(agents, tools)))
    checked = custom_folder.check_custom(settings)
    names = NAMES | {named.name for named in checked.good}
    return Tools(late=checked, problems=(*Custom(troubles=checked.troubles).problems, *missing(agents, names)))


class Equipment:
    """What one worker has of tools: its pipeline's, and the line to the tool host."""

    def __init__(self, settings: Settings, tools: Tools, pipeline: AgentPipeline) -> None:
        self._folder = settings.tools_dir
        self._late = tools.late
        self._pipeline = pipeline
        self._line = HostLine()
        self._waiting: socket.socket | None = None
        if self._late is None:
            pipeline.reach(self._line)

    def connect(self, sock: socket.socket) -> None:
        """Use this line to the tool host, from now on or from when there are tools."""
        if self._late is None:
            self._line.connect(sock)
            return
        if self._waiting is not None:
            self._waiting.close()
        self._waiting = sock

    async def load(self) -> None:
        """Load what was left for the call, in a thread: the worker's pulse goes on, whatever a file does."""
        if self._late is None:
            return
        tools = await asyncio.to_thread(self._load, self._late)
        self._late = None
        self._pipeline.equip(tools)
        self._pipeline.reach(self._line)
        if self._waiting is not None:
            self._line.connect(self._waiting)
        log.info("tools loaded in the call", count=len(tools))

    def _load(self, checked: Checked) -> Mapping[str, Tool]:
        return _all(custom_folder.load_good(self._folder, checked.good) if self._folder is not None else ())


def _all(custom: Iterable[Tool]) -> Mapping[str, Tool]:
    from worker.tools.builtin import BUILT_IN  # a part of what is not done before a call where it is left for that

    tools = by_name([*BUILT_IN.values(), *custom])
    for tool in tools.values():
        tool.schema()  # written once, here
    return tools
