"""Running a tool, whatever it does: the model is told a sentence, and nothing reaches the call."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from worker.tools import running
from worker.tools.registry import Outcome, Tool, ToolCall, ToolError
from worker.tools.services import ServiceTrouble


class Arguments(BaseModel):
    """What the tool takes."""

    name: str = ""


class Unspeakable:
    """Cannot even be written down."""

    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


def tool(run: Callable[[ToolCall], Awaitable[Any]], **changes: Any) -> Tool:
    """Make a tool of anybody's function."""
    return replace(Tool("weather", "Tell the weather.", cast("Any", run), Arguments), **changes)


async def outcome(run: Callable[[ToolCall], Awaitable[Any]], arguments: Any = None, **changes: Any) -> Outcome:
    """Run it."""
    return await running.run(tool(run, **changes), ToolCall("call_1", {}), {} if arguments is None else arguments)


def giving(result: Any) -> Callable[[ToolCall], Awaitable[Any]]:
    """Make a function that gives something."""

    async def run(_: ToolCall) -> Any:
        return result

    return run


def raising(error: BaseException) -> Callable[[ToolCall], Awaitable[Any]]:
    """Make a function that raises."""

    async def run(_: ToolCall) -> Any:
        raise error

    return run


async def hanging(_: ToolCall) -> Outcome:
    """Never come back."""
    await asyncio.Event().wait()
    raise AssertionError


async def test_ten_kilobytes_are_cut_and_that_is_said() -> None:
    result = (await outcome(giving(Outcome({"page": "word " * 2_000})))).result
    assert result["note"] == running.CUT
    assert len(result["result"]) == running.MAX_RESULT_CHARS
    assert len(json.dumps(result)) < running.MAX_RESULT_CHARS + 200


async def test_what_fits_is_given_as_it_is() -> None:
    page = {"page": "word " * 700, "at": [1, {"two": None}]}
    assert (await outcome(giving(Outcome(page)))).result == page


@pytest.mark.parametrize(
    "error",
    [
        ValueError("psycopg: password wrong"), RuntimeError(), KeyError("x"), RecursionError(), MemoryError(), SystemExit(1),
        StopAsyncIteration(), ExceptionGroup("several", [OSError()]), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
async def test_a_tool_that_raises_is_out_of_order_and_tells_nothing_of_its_inside(error: Exception) -> None:
    assert (await outcome(raising(error))).result == running.OUT_OF_ORDER
    written = (await outcome(raising(error), writes=True)).result
    assert written == running.UNSURE
    assert "may have been done or not" in written["error"]


async def test_a_tool_that_calls_exit_ends_nothing() -> None:
    async def run(_: ToolCall) -> Outcome:
        sys.exit(3)

    assert (await outcome(run)).result == running.OUT_OF_ORDER


async def test_a_tool_that_hangs_is_given_up() -> None:
    assert (await outcome(hanging, timeout_s=0.01)).result == running.TOO_LONG
    assert (await outcome(hanging, timeout_s=0.01, writes=True)).result == running.TOO_LONG_WRITE


async def test_an_interruption_reaches_the_tool() -> None:
    started = asyncio.Event()

    async def run(_: ToolCall) -> Outcome:
        started.set()
        return await hanging(_)

    task = asyncio.create_task(outcome(run))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (None, {"result": None}),
        ("sunny", {"result": "sunny"}),
        ([1, 2], {"result": [1, 2]}),
        ({"sky": "blue"}, {"result": {"sky": "blue"}}),
        (Outcome({"at": datetime(2026, 12, 3, 15, tzinfo=UTC)}), {"at": "2026-12-03 15:00:00+00:00"}),
        (Outcome({"degrees": float("nan")}), {"result": "{'degrees': nan}"}),
        (Outcome({(1, 2): "x"}), {"result": "{(1, 2): 'x'}"}),  # type: ignore[dict-item]
        (Outcome({"name": Arguments(name="Ana")}), {"name": "name='Ana'"}),
        (Outcome(Arguments(name="Ana")), {"name": "Ana"}),  # type: ignore[arg-type]
        (Outcome("text"), {"result": "text"}),  # type: ignore[arg-type]
        (b"\xff\xfe", {"result": "b'\\xff\\xfe'"}),
        ("half \ud800", {"result": "half ?"}),
    ],
    ids=repr,
)
async def test_what_is_not_json_is_written_in_words(given: Any, told: dict[str, Any]) -> None:
    assert (await outcome(giving(given))).result == told


async def test_a_result_without_end_is_written_in_words() -> None:
    endless: dict[str, Any] = {}
    endless["again"] = endless
    assert (await outcome(giving(Outcome(endless)))).result == {"result": "{'again': {...}}"}


async def test_a_result_that_cannot_be_written_down_is_out_of_order() -> None:
    assert (await outcome(giving(Outcome({"x": Unspeakable()})))).result == running.OUT_OF_ORDER


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.datetimes(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.text() | st.integers() | st.none(), inner) | st.tuples(inner)
        ),
        max_leaves=8,
    )
)
def test_whatever_a_tool_gives_is_short_json_in_the_end(given: Any) -> None:
    told = running.fit(given)
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert len(json.dumps(told, ensure_ascii=False)) < 2 * running.MAX_RESULT_CHARS


@pytest.mark.parametrize("arguments", ["name", 5, [["name"]], [1, 2]])
async def test_arguments_that_are_no_object_are_refused(arguments: Any) -> None:
    assert (await outcome(hanging, arguments)).result["error"].startswith("weather was not run. ")


async def test_a_sentence_of_the_tool_is_told_and_cut() -> None:
    assert (await outcome(raising(ToolError("It rains.")))).result == {"error": "It rains."}
    long = (await outcome(raising(ToolError("It rains. " * 1_000)))).result
    assert len(long["error"]) == running.MAX_ERROR_CHARS


async def test_trouble_with_a_service_is_told_by_whether_it_may_have_been_done() -> None:
    for trouble, writes, told in (
        (ServiceTrouble("away"), True, running.OUT_OF_ORDER),
        (ServiceTrouble("slow", maybe_done=True), True, running.TOO_LONG_WRITE),
        (ServiceTrouble("slow", maybe_done=True), False, running.OUT_OF_ORDER),
    ):
        assert (await outcome(raising(trouble), writes=writes)).result == told
