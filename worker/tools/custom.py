"""Tools of your own: a folder (`TOOLS_DIR`) of Python files with one decorated function each.

    from worker.tools.custom import CallInfo, tool

    @tool(timeout_s=5.0)
    def parking(day: date, info: CallInfo) -> str:
        '''Say whether there is room in the car park.

        :param day: The day of the visit.
        '''

The name, the docstring and the annotations are what the model sees; a `CallInfo` is filled in and not shown. An async function
runs on the worker's loop and must not block it; any other has a thread of its own (`custom_run`). What a function returns is what
the model is told; to tell it in words that something did not work, raise `ToolError` with a sentence.

A file is loaded once by a check (`custom_check`) and once by the zygote, from which workers are forked: it must not open
connections or start threads outside its function. Files whose name begins with `_` hold what the others share.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar, get_args, overload

from shared.agents import ToolStage
from worker.tools.registry import ToolError

__all__ = ["CallInfo", "ToolError", "tool"]

MOST_TIMEOUT_S: Final = 300.0
"""No caller waits longer for one answer."""

LISTED: Final = "__offhook_tools__"
"""Where a module's decorated functions are listed, within that module."""

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class CallInfo:
    """What a tool may know of the call it works for. Outside a call (an MCP client) the first three are empty.

    Attributes:
        caller: the number that calls, E.164 unless it was withheld.
        called: the number that was called.
        agent: the name of the agent's profile.
        language: ISO 639-1, with or without a region.
        timezone: IANA name, where the business is.
    """

    call_sid: str
    caller: str
    called: str
    agent: str
    language: str
    timezone: str


@dataclass(frozen=True, slots=True)
class Marked:
    """A decorated function, with what the decorator said of it."""

    function: Callable[..., Any]
    stage: ToolStage
    timeout_s: float
    writes: bool
    repeatable: bool


@overload
def tool(function: Function, /) -> Function: ...


@overload
def tool(
    *, stage: ToolStage = ..., timeout_s: float = ..., writes: bool = ..., repeatable: bool = ...
) -> Callable[[Function], Function]: ...


def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    stage: ToolStage = "full",
    timeout_s: float = 10.0,
    writes: bool = False,
    repeatable: bool = False,
) -> Any:
    """Make a function a tool; the function itself stays what it is.

    `stage`: from which stage on the model sees it. `timeout_s` bounds one run. `writes`: it changes something; it is then not
    given up when the caller speaks meanwhile. `repeatable`: running it again does no harm, so that it may be run again when the
    worker dies while it runs.

    Raises:
        TypeError: what is decorated is no function.
        ValueError: an option cannot be that.
    """
    _check(stage, timeout_s, (writes, repeatable))

    def mark(decorated: Function) -> Function:
        innermost = inspect.unwrap(decorated)
        if not inspect.isfunction(innermost):
            raise TypeError(f"@tool decorates a function, not {type(decorated).__name__}")
        marked = Marked(decorated, stage, float(timeout_s), writes, repeatable)
        innermost.__globals__.setdefault(LISTED, []).append(marked)
        return decorated

    return mark if function is None else mark(function)


def _check(stage: Any, timeout_s: Any, flags: tuple[Any, ...]) -> None:
    """Check what a decorator was told: nobody types these files."""
    if stage not in get_args(ToolStage):
        raise ValueError(f"@tool: stage must be one of {', '.join(get_args(ToolStage))}")
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or not 0 < timeout_s <= MOST_TIMEOUT_S:
        raise ValueError(f"@tool: timeout_s must be a number of seconds up to {MOST_TIMEOUT_S:.0f}")
    if not all(isinstance(each, bool) for each in flags):
        raise ValueError("@tool: writes and repeatable must be True or False")
