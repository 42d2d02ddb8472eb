"""The metrics of the prefetchers, as verbs; see `shared.metrics`."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from shared.metrics import SLOW


class JobState(StrEnum):
    """Where a job of RQ is."""

    QUEUED = "queued"  # is when it waits for a prefetcher
    STARTED = "started"  # is when a prefetcher has it
    SCHEDULED = "scheduled"  # is when it is to be run later, mostly again
    FAILED = "failed"  # is when it was given up
    DEFERRED = "deferred"  # is when it waits for another job


@dataclass(frozen=True, slots=True)
class Depths:
    """What is in the queues: jobs by queue and state, and by queue for how many seconds the oldest queued job has waited."""

    jobs: Mapping[str, Mapping[JobState, int]]
    oldest_s: Mapping[str, float]


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


class QueueMetrics(Collector):
    """The queues at the moment of a scrape.

    They are the same for all prefetchers of a Redis: take the maximum of them, not the sum. `look` gives None while Redis
    does not answer, and then nothing is shown but that; it must not take longer than a scrape may.
    """

    def __init__(self, registry: CollectorRegistry, look: Callable[[], Depths | None]) -> None:
        self._look = look
        registry.register(self)

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Name the metrics without asking Redis: the registry wants to know them before the first scrape."""
        yield from _queue_families()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Look into the queues."""
        depths = self._look()
        up, jobs, oldest = _queue_families()
        up.add_metric([], float(depths is not None))
        yield up
        if depths is None:
            return
        for queue, states in depths.jobs.items():
            for state, count in states.items():
                jobs.add_metric([queue, state], count)
        for queue, seconds in depths.oldest_s.items():
            oldest.add_metric([queue], seconds)
        yield from (jobs, oldest)


def _queue_families() -> tuple[GaugeMetricFamily, GaugeMetricFamily, GaugeMetricFamily]:
    return (
        GaugeMetricFamily("offhook_rq_up", "1 when Redis said what is in the queues", labels=[]),
        GaugeMetricFamily("offhook_rq_jobs", "Jobs of RQ by queue and state", labels=["queue", "state"]),
        GaugeMetricFamily("offhook_rq_oldest_job_seconds", "Age of the oldest queued job", labels=["queue"]),
    )
