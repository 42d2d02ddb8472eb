"""Doubles of what needs a server. Each is held to the same contract suite as the real thing (`tests/contract/`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared import keys
from shared.errors import ReadinessUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.calls import CallSid, EndReason
    from shared.messages import Entry
    from shared.readiness import PoolRecord
    from shared.workers import PoolId


class HandClock:
    """A clock that a test advances by hand, in seconds; call it for the time."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Give the time."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


class _Outage:
    """What both fakes share: `away = True` makes every method raise, as when Redis does not answer."""

    def __init__(self, clock: HandClock | None = None) -> None:
        self.clock = clock or HandClock()
        self.away = False

    def _ask(self) -> None:
        if self.away:
            raise ReadinessUnavailable("away")


class FakeReadiness(_Outage):
    """A `shared.readiness.PoolDirectory` in memory."""

    def __init__(self, clock: HandClock | None = None) -> None:
        super().__init__(clock)
        self._leases: dict[PoolId, tuple[PoolRecord, float]] = {}

    async def publish(self, record: PoolRecord) -> bool:
        """Write or renew a lease; say whether it was still there."""
        self._ask()
        there = record.pool in self._leases and self.clock() < self._leases[record.pool][1]
        self._leases[record.pool] = (record, self.clock() + keys.LEASE_MS / 1000)
        return there

    async def withdraw(self, pool: PoolId) -> None:
        """Give a lease back."""
        self._ask()
        self._leases.pop(pool, None)

    async def pools(self) -> list[PoolRecord]:
        """List the living leases."""
        self._ask()
        return [record for _, (record, until) in sorted(self._leases.items()) if self.clock() < until]


class FakeRecords(_Outage):
    """A `shared.records.CallRecords` in memory."""

    def __init__(self, clock: HandClock | None = None) -> None:
        super().__init__(clock)
        self._ends: dict[tuple[CallSid, int], tuple[EndReason, float]] = {}
        self.dials: dict[tuple[CallSid, int], str] = {}
        self._journals: dict[CallSid, tuple[list[Entry], float]] = {}

    async def store_end(self, call_sid: CallSid, attempt: int, reason: EndReason, dial: str = "") -> None:
        """Store an end reason; the first stays."""
        self._ask()
        if await self.end_of(call_sid, attempt) is None:
            self.dials[call_sid, attempt] = dial
            self._ends[call_sid, attempt] = (reason, self.clock() + keys.END_TTL_S)

    async def end_of(self, call_sid: CallSid, attempt: int) -> EndReason | None:
        """Give an end reason."""
        self._ask()
        reason, until = self._ends.get((call_sid, attempt), (None, 0.0))
        return reason if self.clock() < until else None

    async def write_journal(self, call_sid: CallSid, at: int, entries: Sequence[Entry]) -> bool:
        """Write a journal from a position on."""
        self._ask()
        written = [*(await self.journal_of(call_sid))[:at], *entries]
        self._journals[call_sid] = (written, self.clock() + keys.JOURNAL_TTL_S)
        return len(written) == at + len(entries)

    async def journal_of(self, call_sid: CallSid) -> list[Entry]:
        """Give a journal."""
        self._ask()
        entries, until = self._journals.get(call_sid, ([], 0.0))
        return list(entries) if self.clock() < until else []

    async def delete_journal(self, call_sid: CallSid) -> None:
        """Forget a journal."""
        self._ask()
        self._journals.pop(call_sid, None)
