"""The metrics of the prefetchers, as verbs; see `shared.metrics`."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from shared.metrics import SLOW


class PrefetchMetrics:
    """What the prefetchers expose."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._prefetch = Histogram(
            "offhook_context_prefetch_seconds", "Job queued to customer record published", ["outcome"],
            registry=registry, buckets=SLOW,
        )  # fmt: skip
        for outcome in ("found", "unknown", "failed", "unavailable"):
            self._prefetch.labels(outcome)
        self._messages = Counter(
            "offhook_messages", "Attempts to send a message to a customer", ["outcome"], registry=registry
        )
        for outcome in ("sent", "refused", "unknown", "waiting"):
            self._messages.labels(outcome)
        self._dead_letters = Gauge("offhook_dead_letters", "Jobs after calls that were given up", registry=registry)

    def prefetched(self, outcome: str, seconds: float) -> None:
        """Add one lookup; `outcome` as in `shared.messages.Customer`."""
        self._prefetch.labels(outcome).observe(max(0.0, seconds))

    def message_tried(self, outcome: str) -> None:
        """Count an attempt to send a message to a customer; `outcome` as in `letters.Told`."""
        self._messages.labels(outcome).inc()

    def dead_letters(self, count: int) -> None:
        """Show how many jobs after calls were given up."""
        self._dead_letters.set(count)
