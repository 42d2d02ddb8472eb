"""What tools may do to the call they run in."""

from typing import Protocol

from shared.agents import Agent, ToolStage
from shared.calls import EndReason
from worker.call.farewell import Farewell
from worker.call.pipeline import AgentPipeline


class Ending(Protocol):
    """A call that can be ended."""

    @property
    def agent(self) -> Agent:
        """The profile it is served with."""

    def end(self, reason: EndReason) -> None:
        """End it for this reason; the first one counts."""


class CallSession:
    """A `worker.tools.registry.Session`."""

    def __init__(self, pipeline: AgentPipeline, farewell: Farewell, call: Ending) -> None:
        self._pipeline = pipeline
        self._farewell = farewell
        self._call = call

    @property
    def agent(self) -> Agent:
        """The profile this call is served with."""
        return self._call.agent

    async def hang_up(self) -> None:
        """Let what the agent is saying be heard, or the goodbye clip, then end the call."""
        await self._farewell.by_agent()
        self._call.end(EndReason.AGENT_HANGUP)

    async def transfer(self) -> None:
        """Let what the agent is saying be heard, then end the stream: the carrier is told to connect the caller to a person."""
        await self._farewell.by_agent()
        self._call.end(EndReason.TRANSFERRED)

    def widen(self, stage: ToolStage) -> tuple[str, ...]:
        """Let the model see the tools of a further stage; gives the names of the new ones."""
        return self._pipeline.widen(stage)
