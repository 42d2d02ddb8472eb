"""The metrics of a router, as verbs; see `shared.metrics`."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from shared.metrics import FAST, WAITING, HoldOutcome, UpgradeRefusal


class RouterMetrics:
    """What a router exposes about webhooks and upgrades."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._webhook = Histogram(
            "offhook_webhook_seconds", "Webhook read to answer written", ["result"], registry=registry, buckets=FAST
        )
        self._refused = Counter("offhook_requests_refused", "Requests refused", ["route", "reason"], registry=registry)
        for refusal in UpgradeRefusal:
            self._refused.labels("media", refusal)
        self._upgrades = Counter("offhook_upgrades", "Media upgrades", ["result"], registry=registry)
        self._enqueue = Counter("offhook_prefetch_enqueued", "Prefetch jobs queued", ["result"], registry=registry)
        self._ready = Gauge("offhook_router_ready_workers", "Ready workers of connected pools", registry=registry)
        self._waiting = Gauge(
            "offhook_hold_waiting",
            "Callers in the hold line all routers share, as this one knows it",
            registry=registry,
        )
        self._held = Histogram(
            "offhook_hold_seconds", "Arrival to the end of waiting for a worker", ["outcome"],
            registry=registry, buckets=WAITING,
        )  # fmt: skip
        for each in HoldOutcome:
            self._held.labels(each)
        self._stream_ends = Counter(
            "offhook_stream_ends", "Streams that were over, by what the caller got then", ["result"], registry=registry
        )
        self._reconnections = Counter(
            "offhook_reconnections", "Calls that were cut off and were to go on", ["result"], registry=registry
        )
        for result in ("reserved", "repeated", "held", "no_worker", "bad_request", "forbidden"):
            self._webhook.labels(result)
        for answer in ("apology", "hang_up", "transfer", "reconnect", "nothing"):
            self._stream_ends.labels(answer)
        for result in ("reserved", "repeated", "held", "no_worker"):
            self._reconnections.labels(result)
        for outcome in ("handed_off", "refused"):
            self._upgrades.labels(outcome)
        self._reports = Counter(
            "offhook_message_reports", "Reports of what became of messages, queued to be stored", ["result"],
            registry=registry,
        )  # fmt: skip
        for outcome in ("queued", "failed"):
            self._enqueue.labels(outcome)
            self._reports.labels(outcome)

    def webhook(self, result: str, seconds: float) -> None:
        """Add an answered webhook; `result` is one of reserved, repeated, held, no_worker, bad_request, forbidden."""
        self._webhook.labels(result).observe(seconds)

    def may_refuse(self, route: str, reasons: Iterable[str]) -> None:
        """Show from the beginning what a route may refuse: a series that appears with its first event has no increase."""
        for reason in reasons:
            self._refused.labels(route, reason)

    def refused(self, route: str, reason: str) -> None:
        """Count a refused request by route name and reason (both from closed sets)."""
        self._refused.labels(route, reason).inc()

    def upgrade(self, *, handed_off: bool) -> None:
        """Count a media upgrade."""
        self._upgrades.labels("handed_off" if handed_off else "refused").inc()

    def stream_ended(self, answer: str) -> None:
        """Count what a caller got when the stream was over: apology, hang_up, transfer, reconnect, or nothing, being gone."""
        self._stream_ends.labels(answer).inc()

    def reconnected(self, result: str) -> None:
        """Count a call that was cut off and was to go on; `result` as in `webhook`."""
        self._reconnections.labels(result).inc()

    def prefetch_queued(self, *, queued: bool) -> None:
        """Count a prefetch job that was queued, or could not be."""
        self._enqueue.labels("queued" if queued else "failed").inc()

    def message_reported(self, *, queued: bool) -> None:
        """Count a report about a message that was queued, or could not be."""
        self._reports.labels("queued" if queued else "failed").inc()

    def ready_workers(self, count: int) -> None:
        """Show how many workers the connected pools have ready."""
        self._ready.set(count)

    def hold_waiting(self, count: int) -> None:
        """Show how many callers are in the hold line."""
        self._waiting.set(count)

    def hold_ended(self, outcome: HoldOutcome, seconds: float) -> None:
        """Add a caller who had to wait and does not any more."""
        self._held.labels(outcome).observe(max(0.0, seconds))
