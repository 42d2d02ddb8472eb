"""The tools of one call, as Pipecat runs them: each between two entries of the journal, and none twice for one request.

Pipecat cancels what it waits for when the caller speaks. A tool that only reads is then given up; one that writes goes on,
because half of it may be done: its result is put in the place of Pipecat's "cancelled" before the model is asked again.

Most tools run in this process, those that need the database or an MCP server in the pool's tool host.
"""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
from pipecat.frames.frames import FunctionCallResultProperties
from pipecat.services.llm_service import FunctionCallParams

from shared.agents import STAGES, Agent, ToolStage
from shared.calls import IncomingCall
from shared.logs import get
from worker.call.memory import CANCELLED, UNKNOWN_OUTCOME, Asked
from worker.call.scribe import Scribe
from worker.call.waiting_words import WaitingWords
from worker.tools import running
from worker.tools.more_tools import NAME as MORE_TOOLS
from worker.tools.registry import MOST_TOOLS, Outcome, Session, Tool, ToolCall, visible

GOES_ON: Final[Mapping[str, Any]] = {
    "status": "in progress",
    "note": "The caller spoke before this was over. It goes on, and its result will stand here. Do not do it again.",
}

FINISH_S: Final = 15.0
"""How long a write may go on when its call is over: the usual timeout of a tool, and some more."""

log = get(__name__)


class Line(Protocol):
    """The way to the tool host."""

    offered: Mapping[str, Tool]
    on_offered: Callable[[], None]

    def available(self, tool: Tool) -> bool:
        """Say whether the host has what a tool needs."""

    async def run(self, tool: Tool, call: ToolCall, arguments: Mapping[str, Any], *, again: bool = False) -> Outcome:
        """Have a tool run there; whatever goes wrong is said in the outcome. `again`: somebody may have asked for it before."""


class NoLine:
    """The way to a tool host where there is none."""

    def __init__(self) -> None:
        self.offered: Mapping[str, Tool] = {}
        self.on_offered: Callable[[], None] = lambda: None

    def available(self, tool: Tool) -> bool:  # noqa: ARG002 - the signature is the line's
        """Say that nothing is there."""
        return False

    async def run(
        self,
        tool: Tool,  # noqa: ARG002 - the signature is the line's
        call: ToolCall,  # noqa: ARG002
        arguments: Mapping[str, Any],  # noqa: ARG002
        *,
        again: bool = False,  # noqa: ARG002
    ) -> Outcome:
        """Say that it does not work."""
        return Outcome(running.OUT_OF_ORDER)


class Toolbox:
    """Runs tools. `schemas` before anything else."""

    def __init__(self, tools: Mapping[str, Tool], scribe: Scribe, words: WaitingWords) -> None:
        self._own = tools
        self._scribe = scribe
        self.line: Line = NoLine()
        self._words = words
        self._session: Session | None = None
        self._call: IncomingCall | None = None
        self._stage: ToolStage = "full"
        self._given: dict[str, Mapping[str, Any]] = {}  # what tools gave to a predecessor since the caller last spoke
        self._writing: set[asyncio.Task[Outcome]] = set()
        self._late: dict[str, asyncio.Task[Outcome]] = {}  # writes that go on although the caller spoke, by call id

    @property
    def names(self) -> list[str]:
        """All tools there are."""
        return list(self._tools)

    def own(self, tools: Mapping[str, Tool]) -> None:
        """Have these tools of this process."""
        self._own = tools

    def schemas(self, agent: Agent, session: Session, call: IncomingCall | None = None) -> list[FunctionSchema]:
        """Give an agent's tools to the model; they act on this session of this call."""
        self._session, self._call, self._stage = session, call, agent.stage
        return self.seen()

    def seen(self) -> list[FunctionSchema]:
        """Give what the model sees at the present stage; nothing before there is a call."""
        written = (self._written(tool) for tool in self._visible()) if self._session is not None else ()
        return [schema for schema in written if schema is not None]

    def widen(self, stage: ToolStage) -> tuple[str, ...]:
        """Go to a further stage; gives the names of the tools that come with it."""
        before = {tool.name for tool in self._visible()}
        self._stage = max(self._stage, stage, key=STAGES.index)
        return tuple(tool.name for tool in self._visible() if tool.name not in before)

    def recall(self, results: Mapping[str, Mapping[str, Any]], messages: Sequence[Mapping[str, Any]]) -> None:
        """Take what tools gave to a predecessor, and the stage the conversation had come to.

        The same request gets the same answer until the caller speaks again.
        """
        self._given = dict(results)
        self.widen(_stage_in(messages))

    def forget(self) -> None:
        """Let tools run anew: the caller has said something else."""
        self._given.clear()

    async def settle(self, asked: Asked, *, hung: bool = False) -> Outcome:
        """Find out what became of a call whose worker died while it ran; never run it again, unless that does no harm.

        A tool that ran in a worker which `hung` is not run again either: this one would hang as well.
        """
        tool = self._tools.get(asked.name)
        suspect = hung and tool is not None and tool.place == "worker"
        if tool is not None and (tool.repeatable or tool.idempotent) and not suspect:
            # under the same id: the host and the database know it
            outcome = await self._outcome(tool, asked, again=True)
        else:
            outcome = await self._looked_up(tool, asked) or _unknown(tool)
            self._scribe.tool_ended(asked.id, outcome.result, answer=outcome.answer)
            log.warning("tool call settled", tool=asked.name, known=outcome.result is not UNKNOWN_OUTCOME)
        if tool is None or not tool.repeatable:
            self._given[asked.same] = outcome.result  # the model may ask for the same once more
        return outcome

    @property
    def busy_s(self) -> float:
        """How long the writes under way may take; 0 without any."""
        return FINISH_S if self._writing else 0.0

    async def finish(self) -> None:
        """Wait for the writes under way, which end by their own timeouts."""
        if self._writing:
            log.info("writes go on behind the call", count=len(self._writing))
            await asyncio.wait(self._writing, timeout=self.busy_s)

    def mend(self, messages: Sequence[Any]) -> None:
        """Put what is known of writes that went on into a conversation, in the place of Pipecat's "cancelled"."""
        for message in messages:
            if not isinstance(message, dict) or message.get("role") != "tool":
                continue
            task = self._late.get(str(message.get("tool_call_id")))
            if task is None:
                continue
            done = task.done() and not task.cancelled() and task.exception() is None
            message["content"] = json.dumps(dict(task.result().result if done else GOES_ON), default=str)
            if task.done():
                del self._late[str(message["tool_call_id"])]

    @property
    def _tools(self) -> Mapping[str, Tool]:
        return {**self._own, **{name: tool for name, tool in self.line.offered.items() if name not in self._own}}

    def _visible(self) -> list[Tool]:
        assert self._session is not None  # noqa: S101 - `schemas` came first
        there = [tool for tool in self._tools.values() if tool.place == "worker" or self.line.available(tool)]
        seen = visible(there, self._session.agent, self._stage)
        if len(seen) > MOST_TOOLS:  # a request with more is refused as a whole
            log.warning(
                "too many tools for a model", count=len(seen), most=MOST_TOOLS, first_left_out=seen[MOST_TOOLS].name
            )
        return seen[:MOST_TOOLS]

    def _written(self, tool: Tool) -> FunctionSchema | None:
        try:
            return self._schema(tool)
        except Exception:
            log.exception("a tool has no usable schema", tool=tool.name)  # it must not cost the call
            return None

    def _schema(self, tool: Tool) -> FunctionSchema:
        async def handler(params: FunctionCallParams) -> None:
            await self._run(tool, params)

        schema = tool.schema()
        return FunctionSchema(
            name=tool.name,
            description=tool.description,
            properties=schema["properties"],
            required=schema.get("required", []),
            handler=handler,
        )

    async def _run(self, tool: Tool, params: FunctionCallParams) -> None:
        asked = Asked(params.tool_call_id, tool.name, params.arguments)
        known = None if tool.repeatable else self._given.get(asked.same)
        outcome = await self._unless_interrupted(tool, asked) if known is None else Outcome(known)
        await params.result_callback(
            dict(outcome.result), properties=FunctionCallResultProperties(run_llm=None if outcome.answer else False)
        )

    async def _unless_interrupted(self, tool: Tool, asked: Asked) -> Outcome:
        """Run a tool; when Pipecat gives up on it, a write goes on by itself."""
        running_on = asyncio.create_task(self._outcome(tool, asked))
        if tool.writes:
            self._writing.add(running_on)
            running_on.add_done_callback(self._writing.discard)
        try:
            with self._words.while_running(tool):
                return await asyncio.shield(running_on)
        except asyncio.CancelledError:
            if tool.writes:
                self._late[asked.id] = running_on
                log.info("tool goes on behind the caller's words", tool=tool.name)
            else:
                running_on.cancel()
            raise

    async def _outcome(self, tool: Tool, asked: Asked, *, again: bool = False) -> Outcome:
        self._scribe.tool_started(asked.id, tool.name, asked.arguments)
        try:
            if tool.place == "host":
                outcome = await self.line.run(tool, self._request(asked), asked.arguments, again=again)
            else:
                outcome = await running.run(tool, self._request(asked), asked.arguments)
        except asyncio.CancelledError:
            self._scribe.tool_ended(asked.id, CANCELLED, answer=False)  # or a successor would take it for unfinished
            raise
        late = asked.id in self._late  # the caller has something else to say: no answer of its own is owed
        self._scribe.tool_ended(asked.id, outcome.result, answer=outcome.answer and not late)
        return outcome

    async def _looked_up(self, tool: Tool | None, asked: Asked) -> Outcome | None:
        if tool is None or tool.lookup is None:
            return None
        try:
            async with asyncio.timeout(tool.timeout_s):
                return await tool.lookup(self._request(asked))
        except Exception:
            log.exception("tool call not found", tool=tool.name)
            return None

    def _request(self, asked: Asked) -> ToolCall:
        assert self._session is not None  # noqa: S101 - the model knows tools from `schemas` only
        return ToolCall(asked.id, asked.arguments, self._session.agent, self._call, self._session)


def _unknown(tool: Tool | None) -> Outcome:
    """Give what is told of a run that nobody knows the end of; of one that can be repeated, just that it did not work."""
    return Outcome(running.TOO_LONG if tool is not None and tool.repeatable else UNKNOWN_OUTCOME)


def _stage_in(conversation: Sequence[Mapping[str, Any]]) -> ToolStage:
    """Give the furthest stage that `more_tools` opened in a conversation; the first one when it was not asked."""
    calls = (call for each in conversation for call in each.get("tool_calls") or ())
    ids = {call.get("id") for call in calls if call.get("function", {}).get("name") == MORE_TOOLS}
    results = (each for each in conversation if each.get("role") == "tool" and each.get("tool_call_id") in ids)
    return max((_stage_of(each.get("content")) for each in results), key=STAGES.index, default=STAGES[0])


def _stage_of(result: Any) -> ToolStage:
    try:
        stage = json.loads(str(result)).get("stage")
    except (ValueError, AttributeError):
        return STAGES[0]
    return stage if stage in STAGES else STAGES[0]
