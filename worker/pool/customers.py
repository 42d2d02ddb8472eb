"""What the prefetch says about callers, brought to the worker that talks to each. Nobody waits for it here.

Every call hears *something*: when no lookup can come (no database, no Redis, no job), `unavailable` is said at once, since
a worker's first answer waits for the first word.

Usually the router has asked for the lookup before. Where it, or this pool, is told not to (`PARALLEL_CONTEXT_PREFETCH=false`)
the pool asks when the stream has begun: once for a call, whoever serves it, and not if the record has come by then.
"""

from collections.abc import Callable, Coroutine
from typing import Any, Final, Literal, Protocol

from shared import logs
from shared.calls import CallSid, IncomingCall
from shared.errors import StreamProtocolError
from shared.messages import Customer
from shared.prefetch import AT_STREAM
from worker.call.tasks import Tasks
from worker.pool.book import Book, Call
from worker.pool.roster import Roster

UNAVAILABLE: Final = Customer(outcome="unavailable")

MANY: Final = 1_000
"""How many "no job for this call" are remembered before their reservation is seen."""

Ask = Callable[[IncomingCall], Coroutine[Any, Any, bool]]
"""Queue the lookup of a call's customer; False when it could not be. Never raises."""

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
    """The pool's end of the prefetch. `results` is None when no database is set: nothing will ever come.

    With `late` no call is looked up before its stream has begun.
    """

    def __init__(
        self, book: Book, roster: Roster, results: Results | None, ask: Ask | None = None, *, late: bool = False
    ) -> None:
        self._book = book
        self._roster = roster
        self._results = results
        self._ask = ask
        self._late = late
        self._tasks = Tasks()
        self._linked = True  # until Redis is known to be away
        self._unasked: dict[CallSid, str] = {}  # of calls whose reservation was not seen yet: why

    def expect(self, call: Call) -> None:
        """Begin to listen for a call's customer; when none can come, say so at once."""
        why = self._unasked.pop(call.sid, AT_STREAM if self._late else "")
        call.ask_late = why == AT_STREAM
        hopeless = bool(why) and not call.ask_late
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

    def no_job(self, call_sid: CallSid, why: str) -> None:
        """Note that no job was queued for a call; its reservation may come after this."""
        call = self._book.live(call_sid)
        if call is None:
            self._unasked[call_sid] = why
            while len(self._unasked) > MANY:
                del self._unasked[next(iter(self._unasked))]
        elif why != AT_STREAM:
            self._excuse(call)
        else:
            call.ask_late = True
            if call.stream_sid is not None:
                self.begun(call)

    def begun(self, call: Call) -> None:
        """Have a customer looked up whom nobody was asked for: the stream of their call has begun."""
        if call.asked or not call.ask_late:
            return
        call.asked = True
        known = call.customer is not None and call.customer.outcome != UNAVAILABLE.outcome
        if self._ask is not None and call.watched and self._linked and not known:
            self._tasks.go(self._look_up(call, self._ask))

    async def _look_up(self, call: Call, ask: Ask) -> None:
        if not await ask(call.incoming) and self._book.live(call.sid) is call:
            self._excuse(call)

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
