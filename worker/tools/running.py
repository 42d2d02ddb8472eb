"""Runs one tool: checks its arguments, bounds its time and its result, and turns whatever goes wrong into a sentence.

Used wherever tools run: in a worker, in the tool host, and behind the MCP server. Nothing a tool does ends a call.
"""

import asyncio
import json
from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from shared import logs
from worker.tools.registry import Outcome, Tool, ToolCall, ToolError
from worker.tools.services import ServiceTrouble

MAX_RESULT_CHARS: Final = 4_000
"""About 1,000 tokens: what is longer costs time and money in every later turn, and nobody can say it on the telephone."""

MAX_ERROR_CHARS: Final = 1_000
"""An error is a sentence; a tool may have put a whole page into it."""

CUT: Final = "This was too long and was cut."

TOO_LONG: Final[Mapping[str, Any]] = {"error": "This took too long and was given up."}
TOO_LONG_WRITE: Final[Mapping[str, Any]] = {
    "error": "This took too long. It may have been done or not. Do not do it again; tell the caller that it has to be checked."
}
OUT_OF_ORDER: Final[Mapping[str, Any]] = {
    "error": "This does not work at the moment. Tell the caller so, and offer to take a note or to try later."
}

UNSURE: Final[Mapping[str, Any]] = {
    "error": "Something went wrong. It may have been done or not. Do not do it again; tell the caller that it has to be checked."
}

_log = logs.get(__name__)


async def run(tool: Tool, call: ToolCall, arguments: Mapping[str, Any]) -> Outcome:
    """Run a tool with what the model wrote as its arguments; `call.arguments` are filled in here. Raises nothing."""
    try:
        checked = arguments if tool.arguments is None else tool.arguments.model_validate(dict(arguments))
    except ValidationError as error:
        return Outcome({"error": words_for(error, tool)})
    except (TypeError, ValueError):  # models have written lists, strings and null
        return Outcome({"error": f"{tool.name} was not run. Its arguments must be one JSON object."})
    try:
        async with asyncio.timeout(tool.timeout_s):
            outcome = _read(await tool.run(_with(call, checked)))
    except TimeoutError:
        _log.warning("tool took too long", tool=tool.name, limit_s=tool.timeout_s)
        return Outcome(TOO_LONG_WRITE if tool.writes else TOO_LONG)
    except ToolError as error:
        return Outcome(fit({"error": str(error)[:MAX_ERROR_CHARS]}))
    except ServiceTrouble as error:
        _log.warning("tool did not work", tool=tool.name, why=str(error))
        return Outcome(TOO_LONG_WRITE if tool.writes and error.maybe_done else OUT_OF_ORDER)
    except (Exception, SystemExit):  # noqa: BLE001 - it may be anybody's code, and the call goes on
        _log.exception("tool failed", tool=tool.name)
        return Outcome(UNSURE if tool.writes else OUT_OF_ORDER)
    return outcome


def words_for(error: ValidationError, tool: Tool) -> str:
    """Say what is wrong with the arguments, so that the model can ask the caller or try again."""
    problems = []
    for problem in error.errors(include_url=False, include_context=False):
        name = ".".join(str(part) for part in problem["loc"])
        words = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "missing":
            words = "is missing: ask the caller for it"
        problems.append(f"{name}: {words}" if name else words)
    return f"{tool.name} was not run. " + "; ".join(problems).rstrip(".") + "."


def fit(result: Any) -> dict[str, Any]:
    """Make of whatever a tool gave an object that is JSON, and short enough for a conversation.

    What JSON cannot say is written as Python writes it.
    """
    if isinstance(result, BaseModel):
        result = result.model_dump(mode="json")
    whole = dict(result) if isinstance(result, Mapping) else {"result": result}
    try:
        text = json.dumps(whole, ensure_ascii=False, default=str, allow_nan=False)
        if len(text) <= MAX_RESULT_CHARS:
            read: dict[str, Any] = json.loads(text.encode(errors="replace"))
            return read
    except (ValueError, TypeError, RecursionError):
        text = str(result)
    kept = {"result": text[:MAX_RESULT_CHARS].encode(errors="replace").decode()}
    return kept | {"note": CUT} if len(text) > MAX_RESULT_CHARS else kept


def _read(given: Any) -> Outcome:
    """Take what a tool gave, even if it is no Outcome."""
    outcome = given if isinstance(given, Outcome) else Outcome({"result": given})
    return Outcome(fit(outcome.result), answer=outcome.answer)


def _with(call: ToolCall, arguments: Any) -> ToolCall:
    return ToolCall(call.id, arguments, call.agent, call.call, call.session, call.services)
