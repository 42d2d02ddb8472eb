"""The tools of one call, as Pipecat runs them: each between two entries of the journal, and none twice for one request."""

import asyncio
from collections.abc import Mapping
from typing import Any

from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
from pipecat.frames.frames import FunctionCallResultProperties
from pipecat.services.llm_service import FunctionCallParams

from shared.agents import STAGES, Agent, ToolStage
from shared.logs import get
from worker.call.memory import CANCELLED, UNKNOWN_OUTCOME, Asked
from worker.call.scribe import Scribe
from worker.tools import running
from worker.tools.registry import Outcome, Session, Tool, ToolCall, visible

log = get(__name__)


class Toolbox:
    """Runs tools. `schemas` before anything else."""

    def __init__(self, tools: Mapping[str, Tool], scribe: Scribe) -> None:
        self._tools = tools
        self._scribe = scribe
        self._session: Session | None = None
        self._stage: ToolStage = "full"
        self._given: dict[str, Mapping[str, Any]] = {}  # what tools gave to a predecessor since the caller last spoke

    @property
    def names(self) -> list[str]:
        """All tools there are."""
        return list(self._tools)

    def schemas(self, agent: Agent, session: Session) -> list[FunctionSchema]:
        """Give an agent's tools to the model; they act on this session."""
        self._session, self._stage = session, agent.stage
        return self.seen()

    def seen(self) -> list[FunctionSchema]:
        """Give what the model sees at the present stage."""
        return [self._schema(tool) for tool in self._visible()]

    def widen(self, stage: ToolStage) -> tuple[str, ...]:
        """Go to a further stage; gives the names of the tools that come with it."""
        before = {tool.name for tool in self._visible()}
        self._stage = max(self._stage, stage, key=STAGES.index)
        return tuple(tool.name for tool in self._visible() if tool.name not in before)

    def recall(self, results: Mapping[str, Mapping[str, Any]]) -> None:
        """Take what tools gave to a predecessor: the same request gets the same answer until the caller speaks again."""
        self._given = dict(results)

    def forget(self) -> None:
        """Let tools run anew: the caller has said something else."""
        self._given.clear()

    async def settle(self, asked: Asked) -> Outcome:
        """Find out what became of a call whose worker died while it ran; never run it again, unless that does no harm."""
        tool = self._tools.get(asked.name)
        if tool is not None and tool.repeatable:
            return await self._outcome(tool, asked)
        outcome = await self._looked_up(tool, asked) or Outcome(UNKNOWN_OUTCOME)
        self._given[asked.same] = outcome.result  # the model may ask for the same once more
        self._scribe.tool_ended(asked.id, outcome.result, answer=outcome.answer)
        log.warning("tool call settled", tool=asked.name, known=outcome.result is not UNKNOWN_OUTCOME)
        return outcome

    def _visible(self) -> list[Tool]:
        assert self._session is not None  # noqa: S101 - `schemas` came first
        return visible(self._tools.values(), self._session.agent, self._stage)

    def _schema(self, tool: Tool) -> FunctionSchema:
        async def handler(params: FunctionCallParams) -> None:
            await self._run(tool, params)

        return FunctionSchema(
            name=tool.name,
            description=tool.description,
            properties=tool.schema()["properties"],
            required=tool.schema().get("required", []),
            handler=handler,
        )

    async def _run(self, tool: Tool, params: FunctionCallParams) -> None:
        asked = Asked(params.tool_call_id, tool.name, params.arguments)
        known = None if tool.repeatable else self._given.get(asked.same)
        outcome = await self._outcome(tool, asked) if known is None else Outcome(known)
        await params.result_callback(
            dict(outcome.result), properties=FunctionCallResultProperties(run_llm=None if outcome.answer else False)
        )

    async def _outcome(self, tool: Tool, asked: Asked) -> Outcome:
        self._scribe.tool_started(asked.id, tool.name, asked.arguments)
        try:
            outcome = await running.run(tool, self._call(asked), asked.arguments)
        except asyncio.CancelledError:
            self._scribe.tool_ended(asked.id, CANCELLED, answer=False)  # or a successor would take it for unfinished
            raise
        self._scribe.tool_ended(asked.id, outcome.result, answer=outcome.answer)
        return outcome

    async def _looked_up(self, tool: Tool | None, asked: Asked) -> Outcome | None:
        if tool is None or tool.lookup is None:
            return None
        try:
            async with asyncio.timeout(tool.timeout_s):
                return await tool.lookup(self._call(asked))
        except Exception:
            log.exception("tool call not found", tool=tool.name)
            return None

    def _call(self, asked: Asked) -> ToolCall:
        assert self._session is not None  # noqa: S101 - the model knows tools from `schemas` only
        return ToolCall(asked.id, asked.arguments, self._session.agent, session=self._session)
