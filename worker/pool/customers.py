"""What the prefetch says about callers, brought to the worker that talks to each. Nobody waits for it here.

Every call hears *something*: when no lookup can come (no database, no Redis, no job), `unavailable` is said at once, since
a worker's first answer waits for the first word.
"""

from typing import Any, Final, Literal, Protocol

from shared import logs
from shared.calls import CallSid
from shared.errors import StreamProtocolError
from shared.messages import Customer
from worker.pool.book import Book, Call
from worker.pool.roster import Roster

UNAVAILABLE: Final = Customer(outcome="unavailable")

MANY: Final = 1_000
"""How many "no job for this call" are remembered before their reservation is seen."""

_log = logs.get(__name__)


class Results(Protocol):
    """Where results come from: `shared.prefetch.ResultReader`."""

    def watch(self, call_sid: CallSid) -> None:
        """Begin to bring this call's results."""

    def forget(self, call_sid: CallSid) -> None:
        """Bring nothing more for this call."""


class Result(Protocol):
    """A result: `shared.prefetch.Result`."""

    @property
    def outcome(self) -> Literal["found", "unknown", "failed", "unavailable"]:
        """What the lookup gave."""

    @property
    def record(self) -> dict[str, Any] | None:
        """The customer, when found."""


class Customers:
    """The pool's end of the prefetch. `results` is None when no database is set: nothing will ever come."""

    def __init__(self, book: Book, roster: Roster, results: Results | None) -> None:
        self._book = book
        self._roster = roster
        self._results = results
        self._linked = True  # until Redis is known to be away
        self._hopeless: dict[CallSid, None] = {}

    def expect(self, call: Call) -> None:
        """Begin to listen for a call's customer; when none can come, say so at once."""
        hopeless = call.sid in self._hopeless
        self._hopeless.pop(call.sid, None)
        if self._results is not None and not hopeless:
            self._results.watch(call.sid)
            call.watched = True
        if self._results is None or hopeless or not self._linked:
            self._say(call, UNAVAILABLE)

    def forget(self, call: Call) -> None:
        """Stop listening: the call is over."""
        if call.watched and self._results is not None and self._book.live(call.sid) in {None, call}:
            self._results.forget(call.sid)
        call.watched = False

    def no_job(self, call_sid: CallSid) -> None:
        """Note that no job was queued for a call; its reservation may come after this."""
        call = self._book.live(call_sid)
        if call is not None:
            self._excuse(call)
            return
        self._hopeless[call_sid] = None
        while len(self._hopeless) > MANY:
            del self._hopeless[next(iter(self._hopeless))]

    def came(self, call_sid: CallSid, result: Result) -> None:
        """Bring a result to its worker."""
        call = self._book.live(call_sid)
        if call is not None:
            self._say(call, Customer(outcome=result.outcome, record=result.record))

    def linked(self, up: bool) -> None:  # noqa: FBT001 - the signature is the reader's
        """Note whether Redis answers; while it does not, nobody waits for it. Late results still come afterwards."""
        self._linked = up
        if not up:
            for call in self._book.all_live():
                self._excuse(call)

    def repeat(self, call: Call) -> None:
        """Tell the call's present worker what was told to a former one."""
        if call.customer is not None:
            self._say(call, call.customer)

    def _excuse(self, call: Call) -> None:
        if call.customer is None:
            self._say(call, UNAVAILABLE)

    def _say(self, call: Call, customer: Customer) -> None:
        worker = self._roster.get(call.worker)
        try:
            if worker is not None:
                worker.tell(customer)
        except StreamProtocolError:
            _log.warning("customer record is too large to be passed on", call_sid=call.sid)
            customer = Customer(outcome="failed")
            if worker is not None:
                worker.tell(customer)
        call.customer = customer
