"""Whom to dial when the hold line gives up on a caller: the number of the called agent, else the installation's.

The router has no other use for the agents file, and nobody who calls in may depend on it here: what cannot be read is logged
once, and what was read before stays. The pools are those who refuse a wrong file.
"""

from pathlib import Path
from typing import Final

from shared import logs
from shared.agents_file import load_agents
from shared.errors import SettingsError

_NOWHERE: Final = (0, 0, 0)

log = logs.get(__name__)


class Overflow:
    """The numbers. `path` is the agents file, if there is one; `usual` is `OVERFLOW_NUMBER`, empty for nobody."""

    def __init__(self, path: Path | None, usual: str) -> None:
        self._path = path
        self._usual = usual
        self._agents = load_agents(None)
        self._seen: tuple[int, int, int] | None = None
        self._look()

    def of(self, called: str) -> str:
        """Give whom to dial for a called number; empty for nobody. Looks whether the file has changed."""
        self._look()
        return self._agents.serving(called).overflow_number or self._usual

    def _look(self) -> None:
        """Read the file when it is another than the last time: a look takes microseconds, reading it some milliseconds."""
        if self._path is None:
            return
        try:
            status = self._path.stat()
            seen = status.st_mtime_ns, status.st_size, status.st_ino
        except OSError:
            seen = _NOWHERE
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._agents = load_agents(self._path, prompts=False)
        except SettingsError as error:
            log.error("overflow numbers not read", problems=str(error).splitlines())  # noqa: TRY400 - no traceback is due
