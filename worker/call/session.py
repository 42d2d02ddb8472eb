"""What tools may do to the call they run in, and what the caller hears meanwhile."""

from typing import Protocol

from shared.agents import Agent, ToolStage
from shared.calls import EndReason
from worker.call.direct import DirectSpeech
from worker.call.farewell import Farewell
from worker.call.pipeline import AgentPipeline
from worker.call.tasks import Tasks
from worker.call.waiting_words import CLIP, waiting_words


class Ending(Protocol):
    """A call that can be ended."""

    @property
    def agent(self) -> Agent:
        """The profile it is served with."""

    @property
    def over(self) -> bool:
        """Whether it ends, or says goodbye."""

    def end(self, reason: EndReason) -> None:
        """End it for this reason; the first one counts."""


class CallSession:
    """A `worker.tools.registry.Session`."""

    def __init__(self, pipeline: AgentPipeline, farewell: Farewell, direct: DirectSpeech, call: Ending) -> None:
        self._pipeline = pipeline
        self._farewell = farewell
        self._direct = direct
        self._call = call
        self._tasks = Tasks()
        pipeline.waiting_words.say = self._say_waiting_words

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
        await self._farewell.before_transfer()
        self._call.end(EndReason.TRANSFERRED)

    def widen(self, stage: ToolStage) -> tuple[str, ...]:
        """Let the model see the tools of a further stage; gives the names of the new ones."""
        return self._pipeline.widen(stage)

    def _say_waiting_words(self) -> None:
        """Say that a tool takes long: with the recording unless the agent has words of its own, unless it is still speaking."""
        if self._call.over or not self._pipeline.quiet.is_set():
            return
        agent = self._call.agent
        if not agent.looking and self._direct.play(CLIP, agent):
            return
        if words := waiting_words(agent):
            self._tasks.go(self._pipeline.speak(words))
