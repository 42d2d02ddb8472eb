"""The order of the callers one router holds: all there is while the shared line cannot be asked. Pure."""

from dataclasses import dataclass, field

from shared.calls import CallSid
from shared.holdline import MOST_WAITING, Visitor


@dataclass(frozen=True, slots=True)
class _Own:
    """A caller: when it arrived (and which came first of two at once), and until when it asks again."""

    arrived: tuple[float, int]
    due: float


@dataclass(slots=True, eq=False)
class Order:
    """Callers by arrival; moments are seconds of one clock that is never set back."""

    _own: dict[CallSid, _Own] = field(default_factory=dict)
    _serial: int = 0

    def __len__(self) -> int:
        return len(self._own)

    def join(self, visitor: Visitor, now: float) -> None:
        """Let a caller in, or note that it asked again; a new one stays out of a line that is full."""
        known = self._own.get(visitor.call_sid)
        if known is None and not visitor.waited_s and len(self._own) >= MOST_WAITING:
            return
        self._serial += 1
        arrived = known.arrived if known is not None else (now - visitor.waited_s, self._serial)
        self._own[visitor.call_sid] = _Own(arrived, now + visitor.patience_s)

    def before(self, call_sid: CallSid, passed: set[CallSid]) -> int | None:
        """Count who is before a caller, without those in `passed`; None when it is not in line."""
        own = self._own.get(call_sid)
        if own is None:
            return None
        return sum(other.arrived < own.arrived for sid, other in self._own.items() if sid not in passed)

    def leave(self, call_sid: CallSid, now: float) -> float | None:
        """Let a caller out; give how many seconds it was here, None when it was not."""
        own = self._own.pop(call_sid, None)
        return None if own is None else now - own.arrived[0]

    def overdue(self, now: float) -> list[CallSid]:
        """List those who have stopped asking."""
        return [sid for sid, own in self._own.items() if own.due <= now]
