"""How a call ends in good order: what the agent says is heard to its end, and a goodbye behind it where it said none.

Nothing here decides that a call ends: the agent does (`end_call`), or the limits in `serving`.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Final

from shared.agents import Agent
from shared.logs import get
from worker.call.greeting import Recording, same_language
from worker.call.pipeline import AgentPipeline
from worker.call.player import play
from worker.call.silence import goodbye
from worker.call.stream import Stream

log = get(__name__)

FAREWELL_WAIT_S: Final = 15.0
"""How long a goodbye may take to be spoken before the call ends without it."""

LAST_ANSWER_WAIT_S: Final = 8.0
"""How long an answer may go on when the call must end: two sentences."""

ECHO_WAIT_S: Final = 3.0
"""How long past its play-out a mark may take to come back."""

CLIP: Final = "goodbye"


class Farewell:
    """Says goodbye on the stream of one call; `begin` when that has started."""

    def __init__(self, pipeline: AgentPipeline, recordings: Mapping[str, Recording]) -> None:
        self._pipeline = pipeline
        self._clip = recordings.get(CLIP)
        self._stream: Stream | None = None
        self._stream_sid = ""
        self._agent = Agent()
        self._mark = ""
        self._heard = asyncio.Event()

    def begin(self, stream: Stream, stream_sid: str, agent: Agent) -> None:
        """Take the stream to say goodbye on, and the agent that will."""
        self._stream, self._stream_sid, self._agent = stream, stream_sid, agent

    def echoed(self, name: str) -> None:
        """Note that a mark came back which was not cleared."""
        if name == self._mark:
            self._heard.set()

    def renamed(self, names: Mapping[str, str]) -> None:
        """Note what marks are called now."""
        self._mark = names.get(self._mark, self._mark)

    async def by_agent(self) -> None:
        """Let what the agent is saying be its goodbye; where it says nothing, say one. Returns when it was heard."""
        if self._pipeline.spoke:
            await self._written("the goodbye", FAREWELL_WAIT_S)
        else:
            await self._say()
        await self._wait_heard()

    async def before_transfer(self) -> None:
        """Let what the agent is saying be heard; nobody says goodbye, since somebody else goes on. Returns when it was heard."""
        if self._pipeline.spoke:
            await self._written("the last words", FAREWELL_WAIT_S)
        await self._wait_heard()

    async def by_limit(self) -> None:
        """Let the agent finish what it is saying, but begin nothing new, and say goodbye. Returns when it was heard."""
        self._pipeline.close_gate()
        await self._written("the last answer", LAST_ANSWER_WAIT_S)
        await asyncio.sleep(self._lead())  # an interruption takes back what the carrier has not played
        await self._pipeline.hush()
        await self._say()
        await self._wait_heard()

    async def to_silence(self) -> None:
        """Say goodbye to a caller who says nothing. Returns when it was heard; cancel it when they speak after all."""
        await self._say()
        await self._wait_heard()

    async def _say(self) -> None:
        words = goodbye(self._agent)
        if self._clip is not None and self._stream is not None and same_language(self._clip, self._agent):
            await play(self._stream, self._stream_sid, self._pipeline.output, self._clip.pieces)
        elif words:
            await self._pipeline.speak(words)
            await self._written("the goodbye", FAREWELL_WAIT_S)

    async def _written(self, what: str, limit_s: float) -> None:
        """Wait until what the agent says is written to its end."""
        try:
            async with asyncio.timeout(limit_s):
                await self._pipeline.quiet.wait()
        except TimeoutError:
            log.warning("not spoken in time", what=what)

    async def _wait_heard(self) -> None:
        self._heard.clear()
        self._mark = self._pipeline.output.mark("")
        try:
            async with asyncio.timeout(self._lead() + ECHO_WAIT_S):
                await self._heard.wait()
        except TimeoutError:
            log.warning("the goodbye's mark did not come back")

    def _lead(self) -> float:
        return self._pipeline.output.playout.lead(time.monotonic())
