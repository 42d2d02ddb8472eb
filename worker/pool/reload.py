"""Hot change: agents, prompts, tools and clips are read anew on SIGHUP, and when one of their files has changed.

A change is first checked as at the start, then loaded by a zygote beside the present one, which takes over when it has
loaded everything. Whatever goes wrong before that refuses the change: it is logged, counted and shown in `/readyz`, and
everything stays as it was. Of changes that come quickly the last one counts.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final, Protocol

from watchfiles import awatch

from shared import logs
from shared.agents import Agents
from shared.errors import SettingsError
from shared.messages import Problem
from shared.metrics import PoolMetrics, ReloadOutcome
from shared.settings import Settings
from worker.pool.checking import Checked, check, warn
from worker.pool.sources import look
from worker.pool.troubles import Trouble, Troubles

SETTLE_S: Final = 0.3
"""How long after a change others may follow that belong to it: an editor or a copy writes several files."""

RESCAN_MS: Final = 5_000
"""Watching costs nothing but is not heard on every volume (9p, some overlays), nor when a folder itself is replaced."""

REFUSED: Final = "reload"
"""The resource under which `/readyz` shows what was wrong with a change."""

MOST_SHOWN: Final = 50
"""Problems of one change in `/readyz`; the log has all of them."""

_log = logs.get(__name__)


class Zygotes(Protocol):
    """Where workers come from: the nursery."""

    async def renew(self, agents: Agents) -> Trouble | None:
        """Load everything anew and fork workers from that; gives why it could not be loaded."""


class Reload:
    """Watches, checks, and has loaded. `done` is called with each change that was taken."""

    def __init__(
        self,
        settings: Settings,
        zygotes: Zygotes,
        troubles: Troubles,
        metrics: PoolMetrics,
        done: Callable[[Checked], None],
    ) -> None:
        self._settings = settings
        self._zygotes = zygotes
        self._troubles = troubles
        self._metrics = metrics
        self._done = done
        self._asked = asyncio.Event()
        self._closed = False
        self._seen = look(settings)

    def ask(self, why: str) -> None:
        """Read everything anew, in a moment; asking again meanwhile begins again."""
        if not self._closed:
            _log.info("reading agents, tools and clips anew", why=why)
            self._asked.set()

    def close(self) -> None:
        """Take no change any more: the pool drains."""
        self._closed = True

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            tasks.create_task(self._serve())

    async def _serve(self) -> None:
        while True:
            await self._asked.wait()
            await asyncio.sleep(SETTLE_S)
            self._asked.clear()
            attempt, newer = asyncio.ensure_future(self._attempt()), asyncio.ensure_future(self._asked.wait())
            try:
                await asyncio.wait((attempt, newer), return_when=asyncio.FIRST_COMPLETED)
            finally:
                newer.cancel()
                attempt.cancel()  # it has ended, or there is something newer to read
            await asyncio.wait((attempt, newer))
            if not attempt.cancelled():
                attempt.result()

    async def _attempt(self) -> None:
        try:
            checked = await asyncio.to_thread(check, self._settings)
        except SettingsError as error:
            self._refuse(str(error).splitlines())
            return
        except (OSError, RuntimeError) as error:  # no descriptor or no thread is left to read anything with
            self._refuse([f"cannot be read: {error}"])
            return
        trouble = await self._zygotes.renew(checked.agents)
        if trouble is not None:
            _log.error("a change could not be loaded", traceback=trouble.traceback)
            self._refuse([f"{trouble.resource}: {line}" for line in trouble.detail.splitlines()])
            return
        self._troubles.stand(REFUSED, ())
        self._metrics.reloaded(ReloadOutcome.DONE)
        _log.info("change taken", agents=[agent.name for agent in checked.agents.all])
        warn(checked)
        self._done(checked)

    def _refuse(self, problems: list[str]) -> None:
        for problem in problems:
            _log.error("change refused", problem=problem)
        self._troubles.stand(REFUSED, [Problem(resource=REFUSED, detail=problem) for problem in problems[:MOST_SHOWN]])
        self._metrics.reloaded(ReloadOutcome.REFUSED)

    async def _watch(self) -> None:
        """Ask whenever a file has changed. What is heard is only a reason to look: nobody says what a link points to."""
        unheard = ""
        while True:
            try:
                await self._compare()
                await self._listen()
            except (OSError, RuntimeError) as error:  # a folder is gone, or the system's watches are used up
                if str(error) != unheard:
                    _log.warning("cannot watch agents, tools and clips; looking now and then", why=str(error))
                unheard = str(error)
                await asyncio.sleep(RESCAN_MS / 1000)

    async def _listen(self) -> None:
        """Compare at every sign of a change, until there are other folders to watch."""
        folders = self._seen.folders
        changes = awatch(
            *folders, watch_filter=None, debounce=200, step=50, rust_timeout=RESCAN_MS, yield_on_timeout=True,
            recursive=False,
        )  # fmt: skip
        async with contextlib.aclosing(changes):
            async for _ in changes:
                await self._compare()
                if self._seen.folders != folders:
                    return

    async def _compare(self) -> None:
        seen = await asyncio.to_thread(look, self._settings)
        if seen.files != self._seen.files:
            self.ask("a file has changed")
        self._seen = seen
