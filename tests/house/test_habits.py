"""Habits that no linter knows: one reader of the environment, one door to Redis, and metrics with closed labels."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Metric

from shared.calls import EndReason
from shared.metrics import Oddity, PoolMetrics, Stage, Timing, UpgradeRefusal
from shared.metrics_prefetch import Depths, JobState, PrefetchMetrics, QueueMetrics
from shared.metrics_router import RouterMetrics
from shared.tool_metrics import ToolMetrics
from shared.workers import Resource, WorkerState

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("router", "worker", "shared")
MODULES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))

ENVIRONMENT_ROOMS = {
    "shared/settings.py",  # through pydantic-settings; and hands it on to children, without what they must not know
}
REDIS_ROOMS = {"shared/redis_door.py"}
LABELS = {
    "state", "worker", "resource", "stage", "end_reason", "oddity", "reason", "result", "route", "outcome", "le", "limit",
    "provider", "cause", "server", "when", "cached", "queue",
}  # fmt: skip
"""Closed sets all: `worker` is a slot number, `server` one of the agents file. A call or a phone number is never one."""

PROSE = re.compile(r"^(Args|Returns|Yields|Parameters):$", re.MULTILINE)


def room(path: Path) -> str:
    """Name a module as the house does."""
    return str(path.relative_to(ROOT))


def nodes(path: Path) -> Iterator[ast.AST]:
    """Walk through a module."""
    return ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def names_in(path: Path) -> set[str]:
    """Give every name and attribute a module uses."""
    found: set[str] = set()
    for node in nodes(path):
        match node:
            case ast.Attribute(attr=name) | ast.Name(id=name) | ast.alias(name=name):
                found.add(name)
            case _:
                pass
    return found


def calls_in(path: Path) -> set[str]:
    """Give what a module calls, in its own words."""
    return {ast.unparse(node.func) for node in nodes(path) if isinstance(node, ast.Call)}


def test_only_the_settings_read_the_environment() -> None:
    readers = {
        room(path) for path in MODULES if names_in(path) & {"environ", "environb", "getenv", "getenvb", "putenv"}
    }
    assert readers - ENVIRONMENT_ROOMS == set()


def test_a_redis_client_is_made_at_the_door_and_nowhere_else() -> None:
    makers = {
        room(path)
        for path in MODULES
        if any(
            call.endswith((".from_url", "Redis", "StrictRedis", "ConnectionPool", "Sentinel"))
            for call in calls_in(path)
        )
    }
    assert makers == REDIS_ROOMS


def test_every_redis_key_is_named_in_one_place() -> None:
    writers = {
        room(path)
        for path in MODULES
        for node in nodes(path)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.match(r"offhook:\w", node.value)
    }
    assert writers - {"shared/keys.py"} == set()


def test_every_module_says_what_it_is_for() -> None:
    silent = [room(path) for path in MODULES if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))]
    assert silent == []


@pytest.mark.parametrize("path", MODULES, ids=room)
def test_docstrings_are_prose_and_not_forms(path: Path) -> None:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)
    forms = [
        getattr(node, "name", "module")
        for node in nodes(path)
        if isinstance(node, kinds) and PROSE.search(ast.get_docstring(node) or "")
    ]
    assert forms == []


def test_nothing_prints_and_no_process_logs_around_the_logs() -> None:
    """`refuse` is the one place that prints: the logs are not configured yet."""
    printing = {room(path) for path in MODULES if "print" in calls_in(path)}
    assert printing <= {"shared/settings.py"}


def test_no_module_sleeps_in_a_thread_or_forks_by_library() -> None:
    slow = {room(path) for path in MODULES if calls_in(path) & {"time.sleep", "os.system", "multiprocessing.Process"}}
    assert slow == set()


def test_there_is_no_room_for_everything() -> None:
    assert [room(path) for path in MODULES if path.stem in {"utils", "helpers", "common", "misc", "util"}] == []


def test_modules_stay_small_enough_to_read() -> None:
    """400 lines is far beyond what the house aims at: a module that long has two concepts."""
    long = {room(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {name: lines for name, lines in long.items() if lines > 400} == {}


# --- metrics ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def families() -> list[Metric]:
    """Every metric of every process, with each of its labels used once."""
    made = CollectorRegistry()
    pool, router, prefetch = PoolMetrics(made, 2), RouterMetrics(made), PrefetchMetrics(made)
    for timing in Timing:
        pool.observe(timing, 1.0, Stage.STT if timing is Timing.TURN else "")
    pool.show_worker(0, WorkerState.READY, {Resource.TTS: True})
    pool.show_states({WorkerState.READY: 1})
    pool.call_ended(EndReason.DRAINED)
    pool.oddity(Oddity.BAD_PAYLOAD)
    pool.handoff_refused(UpgradeRefusal.SPENT)
    pool.warmup_failed("tts")
    router.webhook("reserved", 1.0)
    router.refused("media", "signature")
    router.upgrade(handed_off=True)
    router.prefetch_queued(queued=True)
    prefetch.prefetched("found", 1.0)
    QueueMetrics(made, lambda: Depths({"prefetch": {JobState.QUEUED: 1}}, {"prefetch": 1.0}))
    tools = ToolMetrics(made)
    tools.host_up(up=True)
    tools.server_up("crm", up=True)
    return list(made.collect())


def test_a_metric_begins_with_our_name_and_ends_in_its_unit(families: list[Metric]) -> None:
    for family in families:
        assert re.fullmatch(r"offhook(_[a-z]+)+", family.name), family.name
        if family.type == "histogram":
            assert family.name.endswith("_seconds"), family.name
        assert "_ms" not in family.name
        assert "milli" not in family.name


def test_a_counter_ends_in_total_and_nothing_else_does(families: list[Metric]) -> None:
    for family in families:
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter"), sample.name


def test_a_label_is_one_of_a_closed_set(families: list[Metric]) -> None:
    used = {label for family in families for sample in family.samples for label in sample.labels}
    assert used <= LABELS
    slots = {sample.labels["worker"] for each in families for sample in each.samples if "worker" in sample.labels}
    assert slots == {"0", "1"}


def test_every_metric_is_explained_in_one_line_of_its_own(families: list[Metric]) -> None:
    words = [family.documentation for family in families]
    assert all(text and "\n" not in text and not text.endswith(".") for text in words)
    assert len(words) == len(set(words))


def test_the_metrics_that_outsiders_rely_on_are_there(families: list[Metric]) -> None:
    promised = {
        "offhook_greeting_start_latency_seconds", "offhook_start_to_first_media_seconds", "offhook_pipeline_creation_seconds",
        "offhook_context_prefetch_seconds", "offhook_context_injection_seconds", "offhook_first_llm_response_seconds",
        "offhook_workers", "offhook_worker_warm", "offhook_worker_state", "offhook_cold_starts",
        "offhook_pool_empty_seconds", "offhook_calls_active", "offhook_calls", "offhook_turn_latency_seconds",
        "offhook_event_loop_lag_seconds",
    }  # fmt: skip
    assert promised <= {family.name for family in families}
