"""How a tool of somebody else's is run: nothing it does or leaves undone may hold up the call.

An async function runs on the loop in a task of its own; when it is not finished in time, it is cancelled and not waited for. Any
other function runs in a thread of its own, which nobody can end: when it hangs it is abandoned, and is gone with its process.
"""

import asyncio
import contextlib
import contextvars
import inspect
import itertools
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Final

from pydantic_core import from_json, to_json

from worker.tools.custom import CallInfo
from worker.tools.custom_signature import Described
from worker.tools.registry import Outcome, ToolCall, ToolError

MOST_THREADS: Final = 16
"""Of one tool, in one process: those beyond are refused, or a hanging one would take all memory in a process that lives long."""

MOST_ITEMS: Final = 1_000
"""Of an iterator that a tool returns: it may have no end."""


class Runner:
    """Runs one function: a tool's `run`."""

    def __init__(self, function: Callable[..., Any], described: Described) -> None:
        self._function = function
        self._described = described
        self._threads: list[threading.Thread] = []
        self._abandoned: set[asyncio.Task[Any]] = set()

    async def __call__(self, call: ToolCall) -> Outcome:
        """Run it with the call's arguments.

        Raises:
            ToolError: the function's own, or too many runs of it hang.
            RuntimeError: it tried to leave the process, or cancelled itself.
            Exception: whatever else it raised.
        """
        arguments = {name: getattr(call.arguments, field) for name, field in self._described.names.items()}
        arguments |= dict.fromkeys(self._described.infos, info_of(call))
        if inspect.iscoroutinefunction(self._function):
            return await self._in_task(self._function(**arguments))
        return await self._in_thread(arguments)

    async def _in_task(self, running: Awaitable[Any]) -> Outcome:
        task = asyncio.ensure_future(_contained(running))
        self._abandoned.add(task)
        task.add_done_callback(self._forget)
        try:
            return outcome_of(await asyncio.shield(task))
        except asyncio.CancelledError:
            if task.cancelled():
                raise RuntimeError("it cancelled itself") from None
            task.cancel()
            raise

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._abandoned.discard(task)
        if not task.cancelled():
            task.exception()  # taken note of: whoever waited has been told, and nobody else is interested

    async def _in_thread(self, arguments: Mapping[str, Any]) -> Outcome:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        if len(self._threads) >= MOST_THREADS:
            raise ToolError("This is not answering at the moment. Do not try it again in this call.")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        context = contextvars.copy_context()

        def work() -> None:
            try:
                result = context.run(self._function, **arguments)
                given: tuple[Any, BaseException | None] = (
                    result if inspect.isawaitable(result) else outcome_of(result),
                    None,
                )
            except Exception as error:  # noqa: BLE001 - it is for the one who waits
                given = (None, error)
            except BaseException as error:  # noqa: BLE001 - SystemExit would end the thread without a word
                given = (None, RuntimeError(f"it raised {type(error).__name__}"))
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
                loop.call_soon_threadsafe(_settle, future, *given)

        thread = threading.Thread(target=work, name=f"tool {self._function.__name__}", daemon=True)
        thread.start()
        self._threads.append(thread)
        result = await future
        return await self._in_task(result) if inspect.isawaitable(result) else result


async def _contained(running: Awaitable[Any]) -> Any:
    """Turn what would end the loop, or slip through it, into an error like any other."""
    try:
        return await running
    except (Exception, asyncio.CancelledError):
        raise
    except BaseException as error:
        raise RuntimeError(f"it raised {type(error).__name__}") from error


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return  # nobody waits any more
    if error is None:
        future.set_result(result)
    elif isinstance(error, StopIteration):
        future.set_exception(RuntimeError("it raised StopIteration"))  # which no future takes
    else:
        future.set_exception(error)


def info_of(call: ToolCall) -> CallInfo:
    """Say what a tool may know of its call."""
    incoming, agent = call.call, call.agent
    return CallInfo(
        call_sid="" if incoming is None else incoming.call_sid,
        caller="" if incoming is None else incoming.caller,
        called="" if incoming is None else incoming.called,
        agent=agent.name,
        language=agent.language,
        timezone=agent.timezone,
    )


def outcome_of(result: Any) -> Outcome:
    """Make JSON of what a function returned: models, dataclasses, dates, decimals, sets and iterators as one expects."""
    if result is None:
        return Outcome({"status": "done"})
    if isinstance(result, Iterator):
        result = list(itertools.islice(result, MOST_ITEMS))
    with contextlib.suppress(ValueError):  # it contains itself, or bytes that are no text: `fit` says what can be said
        result = from_json(to_json(result, fallback=str, inf_nan_mode="strings"))
    return Outcome(result if isinstance(result, Mapping) else {"result": result})
