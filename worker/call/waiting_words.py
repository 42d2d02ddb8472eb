"""Words for a caller whose tool takes long, so that silence is not taken for a lost line."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Final

from shared.agents import Agent
from worker.providers.languages import base_language
from worker.tools.registry import Tool

CLIP: Final = "looking"

FIRST_S: Final = 1.2
"""After this a caller wonders; most tools are done by then."""

AFTER_WORDS_S: Final = 4.0
"""When the agent has announced itself what it does, its words last for about two seconds."""

AGAIN_S: Final = 8.0

WORDS: Final = {
    "de": "Einen Moment, ich sehe nach.",
    "en": "One moment, let me look.",
    "es": "Un momento, déjeme ver.",
    "fr": "Un instant, je regarde.",
    "it": "Un momento, controllo.",
    "nl": "Een moment, ik kijk even.",
    "pt": "Um momento, vou verificar.",
}


def waiting_words(agent: Agent) -> str:
    """Give the agent's own words, else some in its language; empty in a language we have none in."""
    return agent.looking or WORDS.get(base_language(agent.language), "")


class WaitingWords:
    """Has words said while a tool runs. `say` says them; `spoke` tells whether the answer that called the tool said anything."""

    def __init__(self, spoke: Callable[[], bool]) -> None:
        self._spoke = spoke
        self._running = 0
        self._talking: asyncio.Task[None] | None = None
        self.say: Callable[[], object] = lambda: None

    @contextlib.contextmanager
    def while_running(self, tool: Tool) -> Iterator[None]:
        """Say them when what happens within takes long, and again when it takes very long; once for tools that run together."""
        if tool.quick:
            yield
            return
        self._running += 1
        if self._talking is None:
            self._talking = asyncio.create_task(self._talk(AFTER_WORDS_S if self._spoke() else FIRST_S))
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                self._talking.cancel()
                self._talking = None

    async def _talk(self, first_s: float) -> None:
        await asyncio.sleep(first_s)
        while True:
            self.say()
            await asyncio.sleep(AGAIN_S)
