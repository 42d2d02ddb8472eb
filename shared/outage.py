"""Says once that something is away and once that it is back, however many parts of a process notice."""

import threading
from typing import Final

from shared import logs

_log: Final = logs.get(__name__)


class Outage:
    """What is known of one thing others depend on; for any thread.

    It is away from the first failure on until everybody who had one has had a success: where reading works and writing does
    not, the two would contradict each other line after line.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._without: set[str] = set()
        self._lock = threading.Lock()

    def away(self, why: str, who: str = "") -> None:
        """Note a failure of somebody who will try again."""
        with self._lock:
            first = not self._without
            self._without.add(who)
            if first:
                _log.warning(f"{self._what} does not answer", why=why, **({"who": who} if who else {}))

    def back(self, who: str = "") -> None:
        """Note a success."""
        with self._lock:
            if who in self._without:
                self._without.discard(who)
                if not self._without:
                    _log.info(f"{self._what} answers again")
