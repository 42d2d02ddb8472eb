"""Every metric of the project, exposed as verbs. Units are seconds; labels come from closed sets only.

Those of routers and prefetchers are in `metrics_router` and `metrics_prefetch`. A worker never exposes metrics: it sends
observations to its pool. CallSid and phone numbers are never labels.
"""

import importlib.metadata
import itertools
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from shared.calls import EndReason
from shared.messages import PROTOCOL_VERSION
from shared.workers import Resource, WorkerState

disable_created_metrics()  # type: ignore[no-untyped-call] # one extra series per child otherwise

FAST: Final = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.06, 0.1, 0.25, 0.5, 1, 2.5, 5)
"""Edges for what should take milliseconds; 2, 10, 60 and 100 ms are targets."""

SLOW: Final = (0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.8, 1, 1.25, 1.5, 2, 2.5, 3, 5, 10)
"""Edges for what a caller waits for; 200, 250, 350, 400 and 500 ms are targets."""

WAITING: Final = (1, 2, 3, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300)
"""Edges for what a caller in the hold line waits for; `HOLD_MAX` is 60 s by default."""


class Timing(StrEnum):
    """What a worker measures; each is a histogram of the pool."""

    GREETING_START = "greeting_start"
    START_TO_FIRST_MEDIA = "start_to_first_media"
    PIPELINE_CREATION = "pipeline_creation"
    AGENT_READY = "agent_ready"
    CONTEXT_INJECTION = "context_injection"
    FIRST_LLM_RESPONSE = "first_llm_response"
    TURN = "turn"
    LOOP_LAG = "loop_lag"


class Stage(StrEnum):
    """The parts of one turn: end of speech → final text → first token → first audio; `total` is end of speech → audio."""

    STT = "stt"
    LLM = "llm"
    TTS = "tts"
    TOTAL = "total"


class Oddity(StrEnum):
    """What a stream may bring that it should not; counted, and the call goes on."""

    BINARY_FRAME = "binary_frame"
    INVALID_JSON = "invalid_json"
    UNKNOWN_EVENT = "unknown_event"
    OVERSIZE_FRAME = "oversize_frame"
    WRONG_STREAM = "wrong_stream"
    SEQUENCE_GAP = "sequence_gap"
    BAD_PAYLOAD = "bad_payload"
    UNKNOWN_MARK = "unknown_mark"


class Setback(StrEnum):
    """Why a provider was tried again in a call."""

    LOST = "lost"  # is when its connection broke, or could not be made
    SILENT = "silent"  # is when it accepted and said nothing
    LIMITED = "limited"  # is when it answered 429
    FAILED = "failed"  # is when it answered 5xx, or with an error event


class Opened(StrEnum):
    """When a connection to the model's provider was opened."""

    AHEAD = "ahead"  # is when nothing waited for it
    AWAITED = "awaited"  # is when an answer waited for it


NO_RESOURCES: Final = ("zygote", "other")
"""What else a worker may not become ready for."""

PROVIDERS: Final = (Resource.TTS, Resource.STT, Resource.LLM)
"""The resources that somebody else provides."""


class Failover(StrEnum):
    """What became of a call whose worker was lost."""

    RESUMED = "resumed"
    ENDED = "ended"
    HUNG_UP = "hung_up"


class Loss(StrEnum):
    """How a call lost its worker."""

    DIED = "worker_lost"
    STALLED = "stalled"  # it was stuck, and the pool ended it
    MEMORY = "memory"  # it took too much memory, and the pool ended it
    DRAINED = "drained"


class UpgradeRefusal(StrEnum):
    """Why a media upgrade was answered with 403 (or 503)."""

    SIGNATURE = "signature"
    GARBLED = "garbled"
    FORGED = "forged"
    EXPIRED = "expired"
    SPENT = "spent"
    MALFORMED = "malformed"
    NO_POOL = "no_pool"


class ReloadOutcome(StrEnum):
    """What became of a change of agents, tools or clips."""

    DONE = "done"
    REFUSED = "refused"


class HoldOutcome(StrEnum):
    """What became of a caller who was to wait for a worker."""

    SERVED = "served"
    OVERFLOW = "overflow"
    APOLOGY = "apology"
    LEFT = "left"


def registry() -> CollectorRegistry:
    """Make a registry with what every process exposes about itself."""
    made = CollectorRegistry()
    ProcessCollector(registry=made)
    PlatformCollector(registry=made)
    GCCollector(registry=made)
    built = Gauge("offhook_build_info", "1, with what is running", ["version", "protocol"], registry=made)
    built.labels(version(), str(PROTOCOL_VERSION)).set(1)
    return made


def version() -> str:
    """Give the version of this installation; `unknown` for a folder that was not installed."""
    try:
        return importlib.metadata.version("offhook")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


class PoolMetrics:
    """What a pool exposes about its workers and calls.

    Workers take the lowest free slot, so the series of a slot appear when it is first used; the first `slots` are there from
    the beginning.
    """

    def __init__(self, registry: CollectorRegistry, slots: int) -> None:
        def histogram(name: str, words: str, edges: tuple[float, ...], labels: Iterable[str] = ()) -> Histogram:
            return Histogram(name, words, list(labels), registry=registry, buckets=edges)

        self._timings: dict[Timing, Histogram] = {
            Timing.GREETING_START: histogram(
                "offhook_greeting_start_latency_seconds", "Media socket accepted to first media message written", FAST
            ),
            Timing.START_TO_FIRST_MEDIA: histogram(
                "offhook_start_to_first_media_seconds", "Carrier's start read to first media message written", FAST
            ),
            Timing.PIPELINE_CREATION: histogram(
                "offhook_pipeline_creation_seconds", "Fork of a worker to READY: pipeline running, TTS open", SLOW
            ),
            Timing.AGENT_READY: histogram(
                "offhook_agent_ready_seconds",
                "Carrier's start read to STT and TTS both connected (0 when before)",
                SLOW,
            ),
            Timing.CONTEXT_INJECTION: histogram(
                "offhook_context_injection_seconds", "Reservation to customer record in the system instruction", SLOW
            ),
            Timing.FIRST_LLM_RESPONSE: histogram(
                "offhook_first_llm_response_seconds", "First completion of a call asked for to its first token", SLOW
            ),
            Timing.TURN: histogram(
                "offhook_turn_latency_seconds", "Parts of a turn, from the end of the caller's speech", SLOW, ["stage"]
            ),
            Timing.LOOP_LAG: histogram(
                "offhook_event_loop_lag_seconds", "How late the loops of pool and workers ran a timer", FAST
            ),
        }
        for stage in Stage:
            self._timings[Timing.TURN].labels(stage)
        self._workers = Gauge("offhook_workers", "Live workers by state", ["state"], registry=registry)
        self._warm = Gauge(
            "offhook_worker_warm", "1 when a resource of this worker is warm", ["worker", "resource"], registry=registry
        )
        self._state = Gauge(
            "offhook_worker_state", "1 for the state this worker is in", ["worker", "state"], registry=registry
        )
        self._cold = Counter("offhook_cold_starts", "Calls that found no ready worker", registry=registry)
        self._empty = Counter("offhook_pool_empty_seconds", "Time without any ready worker", registry=registry)
        self._active = Gauge("offhook_calls_active", "Calls with a live stream", registry=registry)
        self._calls = Counter("offhook_calls", "Calls ended, by end reason", ["end_reason"], registry=registry)
        self._oddities = Counter("offhook_stream_oddities", "Odd things on streams", ["oddity"], registry=registry)
        self._refused = Counter("offhook_handoffs_refused", "Upgrades the pool refused", ["reason"], registry=registry)
        self._failed_warmups = Counter(
            "offhook_warmups_failed", "Workers that did not become ready", ["resource"], registry=registry
        )
        self._expired = Counter("offhook_reservations_expired", "Reservations nobody came for", registry=registry)
        self._over_memory = Counter(
            "offhook_workers_over_memory", "Workers found above a memory limit", ["limit"], registry=registry
        )
        self._failovers = Counter(
            "offhook_failovers",
            "Workers lost in a call, and what became of it",
            ["reason", "outcome"],
            registry=registry,
        )
        self._failover_seconds = histogram(
            "offhook_failover_seconds", "Death of a worker in a call to the next worker's first word", SLOW
        )
        self._redis_up = Gauge("offhook_redis_up", "1 while Redis answers this pool", registry=registry)
        self._records_waiting = Gauge("offhook_records_waiting", "Records that wait for Redis", registry=registry)
        self._records_lost = Counter("offhook_records_lost", "Records given up while Redis was away", registry=registry)
        self._retries = Counter(
            "offhook_provider_retries", "Tries after the first, in calls", ["provider", "cause"], registry=registry
        )
        self._llm_connections = Counter(
            "offhook_llm_connections_opened", "Connections opened to the model, in calls", ["when"], registry=registry
        )
        self._llm_tokens = Counter(
            "offhook_llm_prompt_tokens",
            "What the model was asked, as its provider counts",
            ["cached"],
            registry=registry,
        )
        self._reloads = Counter("offhook_reloads", "Changes of agents, tools or clips", ["outcome"], registry=registry)
        self._begin(slots)

    def _begin(self, slots: int) -> None:
        """Show every series from the beginning: one that appears with its first event has no increase to alert on."""
        closed: tuple[tuple[Counter, Iterable[str]], ...] = (
            (self._over_memory, ("soft", "hard")),
            (self._failed_warmups, (*Resource, *NO_RESOURCES)),
            (self._refused, UpgradeRefusal),
            (self._llm_connections, Opened),
            (self._llm_tokens, ("yes", "no")),
            (self._reloads, ReloadOutcome),
            (self._calls, EndReason),
            (self._oddities, Oddity),
        )
        for counter, labels in closed:
            for label in labels:
                counter.labels(label)
        for loss, outcome in itertools.product(Loss, Failover):
            self._failovers.labels(loss, outcome)
        for provider, cause in itertools.product(PROVIDERS, Setback):
            self._retries.labels(provider, cause)
        for slot in range(slots):
            self.show_worker(slot, None, {})
        for state in WorkerState:
            self._workers.labels(state)

    def observe(self, timing: Timing, seconds: float, stage: str = "") -> None:
        """Add one observation; `stage` only with `Timing.TURN`."""
        histogram = self._timings[timing]
        (histogram.labels(Stage(stage)) if timing is Timing.TURN else histogram).observe(max(0.0, seconds))

    def show_worker(self, slot: int, state: WorkerState | None, warm: dict[Resource, bool]) -> None:
        """Show the worker in a slot: its state (None for an empty slot) and what is warm in it."""
        for each in WorkerState:
            self._state.labels(str(slot), each).set(each is state)
        for resource in Resource:
            self._warm.labels(str(slot), resource).set(warm.get(resource, False))

    def show_states(self, counts: dict[WorkerState, int]) -> None:
        """Show how many workers are in each state."""
        for state in WorkerState:
            self._workers.labels(state).set(counts.get(state, 0))

    def cold_start(self) -> None:
        """Count a call that found no ready worker."""
        self._cold.inc()

    def empty_for(self, seconds: float) -> None:
        """Add time during which no worker was ready."""
        self._empty.inc(seconds)

    def calls_active(self, count: int) -> None:
        """Show how many calls have a live stream."""
        self._active.set(count)

    def call_ended(self, reason: EndReason) -> None:
        """Count the end of a call."""
        self._calls.labels(reason).inc()

    def oddity(self, oddity: Oddity, times: int = 1) -> None:
        """Count something odd on a stream."""
        self._oddities.labels(oddity).inc(times)

    def provider_retried(self, provider: Resource, cause: Setback) -> None:
        """Count another try of a provider that failed in a call."""
        self._retries.labels(provider, cause).inc()

    def used(self, amounts: Mapping[str, float]) -> None:
        """Count what a call used of its model, by the names in `callrecord.Counts`."""
        awaited, cached = amounts.get("llm_connections_awaited", 0.0), amounts.get("cached_tokens", 0.0)
        self._llm_connections.labels(Opened.AWAITED).inc(max(0.0, awaited))
        self._llm_connections.labels(Opened.AHEAD).inc(max(0.0, amounts.get("llm_connections", 0.0) - awaited))
        self._llm_tokens.labels("yes").inc(max(0.0, cached))
        self._llm_tokens.labels("no").inc(max(0.0, amounts.get("prompt_tokens", 0.0) - cached))

    def handoff_refused(self, refusal: UpgradeRefusal) -> None:
        """Count an upgrade the pool refused after the router had handed it over."""
        self._refused.labels(refusal).inc()

    def warmup_failed(self, resource: str) -> None:
        """Count a worker that did not become ready; an unknown resource counts as `other`."""
        known = resource if resource in {*Resource, *NO_RESOURCES} else "other"
        self._failed_warmups.labels(known).inc()

    def over_memory(self, *, hard: bool) -> None:
        """Count a worker that is above the soft or the hard limit of its memory."""
        self._over_memory.labels("hard" if hard else "soft").inc()

    def reservation_expired(self) -> None:
        """Count a reservation nobody came for."""
        self._expired.inc()

    def failover(self, loss: Loss, outcome: Failover) -> None:
        """Count a worker lost in a call, when it is known what became of it."""
        self._failovers.labels(loss, outcome).inc()

    def resumed_after(self, seconds: float) -> None:
        """Add the time from a worker's death to its successor's first word (or its silence, where none was owed)."""
        self._failover_seconds.observe(max(0.0, seconds))

    def records_waiting(self, count: int) -> None:
        """Show how many records of calls wait for Redis."""
        self._records_waiting.set(count)

    def records_lost(self, count: int) -> None:
        """Count records of calls that nobody will have."""
        self._records_lost.inc(count)

    def reloaded(self, outcome: ReloadOutcome) -> None:
        """Count a change of agents, tools or clips."""
        self._reloads.labels(outcome).inc()

    def redis_up(self, *, up: bool) -> None:
        """Show whether Redis answers."""
        self._redis_up.set(up)
