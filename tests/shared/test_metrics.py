"""Metrics: the names outsiders rely on, complete from the start, and nothing else."""

import importlib.metadata

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from shared.calls import EndReason
from shared.messages import PROTOCOL_VERSION
from shared.metrics import (
    FAST,
    PROVIDERS,
    SLOW,
    Oddity,
    Opened,
    PoolMetrics,
    Setback,
    Stage,
    Timing,
    UpgradeRefusal,
    registry,
    version,
)
from shared.metrics_prefetch import Depths, JobState, PrefetchMetrics, QueueMetrics
from shared.metrics_router import RouterMetrics
from shared.workers import PARKED_RESOURCES, Resource, WorkerState

SLOTS = 3


@pytest.fixture
def made() -> CollectorRegistry:
    """Give a registry without what the process says about itself."""
    return CollectorRegistry()


@pytest.fixture
def pool(made: CollectorRegistry) -> PoolMetrics:
    return PoolMetrics(made, SLOTS)


def value(made: CollectorRegistry, name: str, **labels: str) -> float | None:
    """Give one sample; None when it is not exposed."""
    return made.get_sample_value(name, labels)


def test_every_worker_slot_is_shown_from_the_start_and_is_cold(made: CollectorRegistry, pool: PoolMetrics) -> None:
    del pool
    for slot in range(SLOTS):
        for resource in Resource:
            assert value(made, "offhook_worker_warm", worker=str(slot), resource=resource) == 0
        for state in WorkerState:
            assert value(made, "offhook_worker_state", worker=str(slot), state=state) == 0
    assert value(made, "offhook_worker_warm", worker=str(SLOTS), resource="tts") is None


def test_a_ready_worker_shows_what_is_warm_in_it(made: CollectorRegistry, pool: PoolMetrics) -> None:
    pool.show_worker(1, WorkerState.READY, dict.fromkeys(PARKED_RESOURCES, True))
    shown = {each: value(made, "offhook_worker_warm", worker="1", resource=each) for each in Resource}
    assert shown == {each: float(each in PARKED_RESOURCES) for each in Resource}
    states = {each: value(made, "offhook_worker_state", worker="1", state=each) for each in WorkerState}
    assert states == {each: float(each is WorkerState.READY) for each in WorkerState}
    pool.show_worker(1, None, {})
    assert value(made, "offhook_worker_warm", worker="1", resource="tts") == 0
    assert value(made, "offhook_worker_state", worker="1", state="ready") == 0


def test_worker_counts_forget_a_state_nobody_is_in(made: CollectorRegistry, pool: PoolMetrics) -> None:
    pool.show_states({WorkerState.READY: 4, WorkerState.IN_CALL: 2})
    pool.show_states({WorkerState.READY: 3})
    assert value(made, "offhook_workers", state="ready") == 3
    assert value(made, "offhook_workers", state="in_call") == 0


def test_every_timing_is_a_histogram_of_the_pool(made: CollectorRegistry, pool: PoolMetrics) -> None:
    for timing in Timing:
        pool.observe(timing, 0.0015, Stage.TTS if timing is Timing.TURN else "")
    counts = {name for name in _samples(made) if name.endswith("_seconds_count")}
    assert counts == {
        "offhook_greeting_start_latency_seconds_count", "offhook_start_to_first_media_seconds_count",
        "offhook_pipeline_creation_seconds_count", "offhook_agent_ready_seconds_count",
        "offhook_context_injection_seconds_count", "offhook_first_llm_response_seconds_count",
        "offhook_turn_latency_seconds_count", "offhook_event_loop_lag_seconds_count",
            "offhook_failover_seconds_count",
    }  # fmt: skip
    assert value(made, "offhook_greeting_start_latency_seconds_bucket", le="0.001") == 0
    assert value(made, "offhook_greeting_start_latency_seconds_bucket", le="0.002") == 1
    assert value(made, "offhook_turn_latency_seconds_count", stage="tts") == 1
    assert value(made, "offhook_turn_latency_seconds_count", stage="stt") == 0


def test_a_time_before_its_beginning_counts_as_none_at_all(made: CollectorRegistry, pool: PoolMetrics) -> None:
    pool.observe(Timing.AGENT_READY, -0.3)  # ready before `start`, as it should be
    assert value(made, "offhook_agent_ready_seconds_sum") == 0
    assert value(made, "offhook_agent_ready_seconds_bucket", le="0.01") == 1


def test_what_is_no_timing_or_stage_is_refused(pool: PoolMetrics) -> None:
    with pytest.raises(ValueError, match="lunch"):
        Timing("lunch")
    with pytest.raises(ValueError, match="lunch"):
        pool.observe(Timing.TURN, 1.0, "lunch")


def test_counters_exist_before_they_count(made: CollectorRegistry, pool: PoolMetrics) -> None:
    for reason in EndReason:
        assert value(made, "offhook_calls_total", end_reason=reason) == 0
    for oddity in Oddity:
        assert value(made, "offhook_stream_oddities_total", oddity=oddity) == 0
    pool.call_ended(EndReason.HANGUP_BEFORE_REPLY)
    pool.oddity(Oddity.SEQUENCE_GAP, 3)
    pool.cold_start()
    pool.empty_for(1.5)
    pool.reservation_expired()
    pool.handoff_refused(UpgradeRefusal.SPENT)
    pool.calls_active(2)
    pool.redis_up(up=True)
    assert value(made, "offhook_calls_total", end_reason="hangup_before_reply") == 1
    assert value(made, "offhook_stream_oddities_total", oddity="sequence_gap") == 3
    assert value(made, "offhook_cold_starts_total") == 1
    assert value(made, "offhook_pool_empty_seconds_total") == 1.5
    assert value(made, "offhook_reservations_expired_total") == 1
    assert value(made, "offhook_handoffs_refused_total", reason="spent") == 1
    assert value(made, "offhook_calls_active") == 2
    assert value(made, "offhook_redis_up") == 1


def test_every_retry_of_a_provider_is_counted_by_its_cause(made: CollectorRegistry, pool: PoolMetrics) -> None:
    name = "offhook_provider_retries_total"
    for provider in PROVIDERS:
        for cause in Setback:
            assert made.get_sample_value(name, {"provider": provider, "cause": cause}) == 0
    pool.provider_retried(Resource.TTS, Setback.LIMITED)
    assert made.get_sample_value(name, {"provider": "tts", "cause": "limited"}) == 1


def test_what_calls_use_of_the_model_is_counted(made: CollectorRegistry, pool: PoolMetrics) -> None:
    def counts() -> list[float | None]:
        connections = [value(made, "offhook_llm_connections_opened_total", when=when) for when in Opened]
        return connections + [value(made, "offhook_llm_prompt_tokens_total", cached=cached) for cached in ("yes", "no")]

    assert counts() == [0, 0, 0, 0]
    pool.used({"tts_characters": 40})
    pool.used({"llm_connections": 3, "llm_connections_awaited": 1, "prompt_tokens": 1500, "cached_tokens": 1024})
    pool.used({"llm_connections": -3, "prompt_tokens": -1.5})
    assert counts() == [2, 1, 1024, 476]


def test_a_failed_warm_up_never_invents_a_label(made: CollectorRegistry, pool: PoolMetrics) -> None:
    before = _samples(made)["offhook_warmups_failed_total"]
    assert before == [{"resource": each} for each in (*Resource, "zygote", "other")]
    for resource in ("tts", "zygote", "+5511999990000", "Traceback (most recent call last)"):
        pool.warmup_failed(resource)
    assert _samples(made)["offhook_warmups_failed_total"] == before
    assert value(made, "offhook_warmups_failed_total", resource="other") == 2


def test_the_router_shows_webhooks_upgrades_and_refusals(made: CollectorRegistry) -> None:
    router = RouterMetrics(made)
    assert value(made, "offhook_webhook_seconds_count", result="reserved") == 0
    router.webhook("reserved", 0.004)
    router.refused("incoming_call", "signature")
    router.upgrade(handed_off=True)
    router.upgrade(handed_off=False)
    router.prefetch_queued(queued=False)
    router.ready_workers(4)
    assert value(made, "offhook_webhook_seconds_count", result="reserved") == 1
    assert value(made, "offhook_requests_refused_total", route="incoming_call", reason="signature") == 1
    assert value(made, "offhook_upgrades_total", result="handed_off") == 1
    assert value(made, "offhook_upgrades_total", result="refused") == 1
    assert value(made, "offhook_prefetch_enqueued_total", result="failed") == 1
    assert value(made, "offhook_router_ready_workers") == 4


def test_the_prefetchers_show_lookups_by_outcome(made: CollectorRegistry) -> None:
    prefetch = PrefetchMetrics(made)
    assert value(made, "offhook_context_prefetch_seconds_count", outcome="found") == 0
    prefetch.prefetched("found", 0.5)
    prefetch.prefetched("failed", -1)
    assert value(made, "offhook_context_prefetch_seconds_bucket", outcome="found", le="0.5") == 1
    assert value(made, "offhook_context_prefetch_seconds_sum", outcome="failed") == 0


def test_what_is_in_the_queues_is_shown_as_it_is_at_the_scrape(made: CollectorRegistry) -> None:
    """Registering asks nobody, and a Redis that is away leaves nothing but that it is."""
    looks = [None, Depths({"prefetch": {JobState.QUEUED: 3, JobState.FAILED: 0}}, {"prefetch": 1.5})]
    QueueMetrics(made, looks.pop)
    assert len(looks) == 2
    shown = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in made.collect()
        for sample in family.samples
    }
    assert shown == {
        ("offhook_rq_up",): 1,
        ("offhook_rq_jobs", "prefetch", "queued"): 3,
        ("offhook_rq_jobs", "failed", "prefetch"): 0,
        ("offhook_rq_oldest_job_seconds", "prefetch"): 1.5,
    }
    assert [(sample.name, sample.value) for family in made.collect() for sample in family.samples] == [
        ("offhook_rq_up", 0)
    ]


def test_every_process_says_which_version_it_is_and_what_it_speaks() -> None:
    info = {"version": importlib.metadata.version("offhook"), "protocol": str(PROTOCOL_VERSION)}
    assert registry().get_sample_value("offhook_build_info", info) == 1


def test_a_folder_that_was_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert version() == "unknown"


def test_refused_upgrades_exist_before_they_are_counted(made: CollectorRegistry, pool: PoolMetrics) -> None:
    del pool
    RouterMetrics(made)
    for refusal in UpgradeRefusal:
        assert value(made, "offhook_handoffs_refused_total", reason=refusal) == 0
        assert value(made, "offhook_requests_refused_total", route="media", reason=refusal) == 0


def test_the_targets_are_edges() -> None:
    assert {0.002, 0.01, 0.06, 0.1} <= set(FAST)
    assert {0.2, 0.25, 0.35, 0.4, 0.5} <= set(SLOW)
    assert list(FAST) == sorted(FAST)
    assert list(SLOW) == sorted(SLOW)


def test_a_process_also_says_what_it_costs_and_nothing_twice() -> None:
    made = registry()
    PoolMetrics(made, 1)
    text = generate_latest(made).decode()
    assert "process_resident_memory_bytes" in text
    assert "python_info" in text
    assert "_created" not in text
    families = [family.name for family in text_string_to_metric_families(text)]
    assert len(families) == len(set(families))


def _samples(made: CollectorRegistry) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for family in made.collect():
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found
