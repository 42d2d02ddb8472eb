"""What was odd on a stream, counted here and told in one message a kind: no storm of oddities is one of messages."""

from collections import Counter
from collections.abc import Callable

from shared.messages import Counted, Message
from shared.metrics import Oddity


class Oddities:
    """The oddities of one stream since they were last told."""

    def __init__(self, tell: Callable[[Message], object]) -> None:
        self._tell = tell
        self._counts: Counter[Oddity] = Counter()

    def note(self, oddity: Oddity) -> None:
        """Count one."""
        self._counts[oddity] += 1

    def flush(self) -> None:
        """Tell all of them."""
        for oddity, times in self._counts.items():
            self._tell(Counted(oddity=oddity, times=times))
        self._counts.clear()
