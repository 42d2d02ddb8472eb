"""What a call waits for when its stream has begun, where a phase is switched off: tools, then the record of the caller.

Each phase replaced a wait, which its switch brings back so that its gain can be measured, or a problem be avoided:
`EAGER_TOOL_LOADING` and `PARALLEL_CONTEXT_PREFETCH` the two that are here (the pool asks for the record when it hears of the
stream), `DIRECT_GREETING_INJECTION` the voice's, in `greeting.opening`. With every phase on nothing here waits.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from shared.logs import get
from shared.settings import Settings

TOOLS_WAIT_S: Final = 10.0
"""How long a caller may wait for tools: files are found good in less (`custom_check.FILE_LIMIT_S` is for one that hangs)."""

log = get(__name__)


def _nobody() -> None:
    pass


async def _nothing() -> None:
    pass


class OldWays:
    """The waits of one call. `give_up` is called when the record does not come; `load_tools` is to be set before the call.

    `over` is set when nothing is waited for any more; `over_at` is since when (monotonic), 0 where nothing ever was.
    """

    def __init__(self, settings: Settings, give_up: Callable[[], object]) -> None:
        self._tools_late = not settings.eager_tool_loading
        self._record_late = not settings.parallel_context_prefetch
        self._limit_s = settings.prefetch_timeout
        self._give_up = give_up
        self._loading: asyncio.Task[None] | None = None
        self._recorded = asyncio.Event()
        self.load_tools: Callable[[], Awaitable[None]] = _nothing
        self.over = asyncio.Event()
        self.over_at = 0.0
        if not self.any:
            self.over.set()

    @property
    def any(self) -> bool:
        """Whether a phase is off that a call waits for."""
        return self._tools_late or self._record_late

    def customer_known(self) -> None:
        """Note that there is a word about the caller."""
        self._recorded.set()

    async def wait(self, ask: Callable[[], object] = _nobody, *, greeted: bool) -> None:
        """Wait as the former flow did, for one after the other; for a caller who was `greeted` before, for the tools alone.

        `ask` is called in between, and at once where no tools are waited for: it has the pool ask for the record.
        """
        if self._tools_late:
            await self._tools()
        ask()
        if self._record_late and not greeted:
            await self._record()
        if self.any:
            self.over_at = time.monotonic()
            self.over.set()

    async def _tools(self) -> None:
        """Wait for the tools, which still come when they take too long."""
        self._loading = asyncio.create_task(self._load())
        await asyncio.wait([self._loading], timeout=TOOLS_WAIT_S)
        if not self._loading.done():
            log.error("the agent begins without tools: they are not loaded in time")

    async def _load(self) -> None:
        try:
            await self.load_tools()
        except Exception:  # whatever a file of theirs does, it costs the tools and not the call
            log.exception("the agent has no tools")

    async def _record(self) -> None:
        try:
            async with asyncio.timeout(self._limit_s):
                await self._recorded.wait()
        except TimeoutError:
            log.warning("the caller is greeted without a record: it has not come in time")
            self._give_up()  # or the first answer would wait for it as long again
