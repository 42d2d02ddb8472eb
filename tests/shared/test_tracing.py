"""Traces: nothing of them when they are off, one name for one thing, and no word of what was said."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from shared import tracing, tracing_spans
from shared.calls import CallSid, EndReason, IncomingCall, TraceId
from shared.errors import SettingsError
from shared.settings import Settings
from shared.ticket import Ticket
from shared.tracing import Span, span_id
from shared.workers import PoolId, WorkerId
from tests.standins import process as standins

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.standins.process import Standin

ROOT = Path(__file__).resolve().parents[2]
TRACE = TraceId("0af7651916cd43dd8448eb211c80319c")
CALL = IncomingCall(call_sid=CallSid("CA1"), caller="+5511987654321", called="+12025550100", trace_id=TRACE)
TICKET = Ticket(CallSid("CA1"), 0, PoolId("p"), "boot", WorkerId("0-1"), TRACE, 0)
MOST_WAITING, MOST_AT_ONCE = 2048, 512
NOT_INSTALLED = "OTEL_EXPORTER_OTLP_ENDPOINT: OpenTelemetry is not installed (extra `tracing`)"

PROCESSES = [
    "router.__main__",
    "worker.__main__",
    "worker.prefetcher",
    "worker.prefetcher_child",
]


def settings(**changes: Any) -> Settings:
    return Settings(_env_file=None, **changes)


@pytest.fixture
def otlp() -> Iterator[Standin]:
    """Somebody who takes traces."""
    with standins.started("otlp") as standin:
        try:
            yield standin
        finally:
            tracing.leave()


def spans(otlp: Standin) -> dict[str, dict[str, Any]]:
    """Give the spans that were taken by now, by name."""
    return {entry["name"]: entry for entry in otlp.state_now()["log"] if entry["kind"] == "span"}


def in_a_fresh_interpreter(program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a program of a few lines with nothing but these settings."""
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG"}}
    env = kept | {"LOGURU_AUTOINIT": "0"} | variables
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )


def loaded(program: str, **variables: str) -> set[str]:
    """Run a program in a fresh interpreter; give the top-level names that are loaded in the end."""
    tail = "\nimport sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    run = in_a_fresh_interpreter(program + tail, **variables)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.splitlines()[-1].split())


ZYGOTE = """
import importlib
from shared import tracing
from shared.settings import Settings
configured = Settings(_env_file=None, openai_api_key="k", cartesia_api_key="k", cartesia_voice_id="v")
import worker.pool.zygote
with tracing.loading(configured):
    child = importlib.import_module("worker.call.child")
loaded = child.load(configured)
threads = worker.pool.zygote.thread_count()
"""


# --- off ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", PROCESSES)
def test_nothing_is_loaded_for_traces_that_nobody_wants(module: str) -> None:
    """Redis' client loads OpenTelemetry wherever it is installed, and it is installed here."""
    program = f"import {module}\nfrom shared import tracing\ntracing.start({settings_source()}, 'x')"
    assert loaded(program).isdisjoint({"opentelemetry"})
    assert "opentelemetry" in loaded("import redis"), "else this test would prove nothing"


def settings_source() -> str:
    return "__import__('shared.settings').settings.Settings(_env_file=None)"


def test_a_zygote_and_its_workers_load_nothing_for_them_either() -> None:
    names = loaded(ZYGOTE)
    assert "pipecat" in names
    assert "opentelemetry" not in names


def test_whoever_wants_the_library_later_finds_it() -> None:
    """A tool of the installation's own may use it for itself."""
    assert "opentelemetry" in loaded("import router.__main__, opentelemetry.trace")


def test_a_tool_host_finds_what_the_protocol_of_its_servers_needs() -> None:
    """The SDK of MCP cannot do without OpenTelemetry's interface, which is the one thing that remains of it."""
    names = loaded("import worker.tools.host, mcp.client.session")
    assert "opentelemetry" in names


def test_a_span_that_nobody_wants_is_nothing() -> None:
    assert not tracing.on()
    tracing_spans.announced(CALL, time.time(), "reserved")
    tracing.leave()


# --- on ----------------------------------------------------------------------------------------------------------------


def test_a_zygote_that_has_loaded_everything_for_traces_has_one_thread() -> None:
    """It forks: what it starts here would be missing in its children, and hold their locks."""
    program = ZYGOTE.replace("openai_api_key", "otel_exporter_otlp_endpoint='http://127.0.0.1:9', openai_api_key")
    run = in_a_fresh_interpreter(
        f"{program}\nimport sys; print(threads, 'opentelemetry.sdk.trace.export' in sys.modules)",
        ORT_DISABLE_TELEMETRY="1",
        OPENBLAS_NUM_THREADS="1",
        OMP_NUM_THREADS="1",
    )
    assert run.stdout.split()[-2:] == ["1", "True"], run.stderr


def test_spans_of_different_processes_find_their_parents(otlp: Standin) -> None:
    """Each is made without a word from the others."""
    tracing.start(settings(otel_exporter_otlp_endpoint=otlp.url), "offhook-test", pool="p")
    now = time.time()
    tracing_spans.announced(CALL, now, "reserved")
    tracing_spans.reserved(CALL, 0, now, TICKET)
    tracing_spans.handed_off(TICKET, time.monotonic())
    tracing_spans.bound(TICKET, time.monotonic(), "0-1", prepared=True)
    tracing_spans.resumed(CALL, time.monotonic(), time.monotonic(), "worker_lost")
    tracing_spans.prefetched(TRACE, "CA1", "found", now - 1.0, (now - 0.5, now))
    tracing_spans.ended(CALL, time.monotonic(), EndReason.AGENT_HANGUP, "default", 1)
    tracing.leave()
    taken = spans(otlp)
    assert {name: parent_of(span, taken) for name, span in taken.items()} == {
        "webhook": "",
        "reserve": "webhook",
        "prefetch": "webhook",
        "lookup": "prefetch",
        "call": "webhook",
        "hand-off": "call",
        "bind": "hand-off",
        "resume": "call",
    }
    assert {span["trace"] for span in taken.values()} == {TRACE}
    assert taken["prefetch"]["start"] == pytest.approx(now - 1.0, abs=1e-5)
    resource = taken["call"]["resource"]
    assert resource["service.name"] == "offhook-test"
    assert resource["offhook.pool"] == "p"
    assert resource["service.version"]


def parent_of(span: dict[str, Any], taken: dict[str, dict[str, Any]]) -> str:
    """Name a span's parent; empty for none, its number for one that is not there."""
    names = {each["id"]: name for name, each in taken.items()}
    parent = str(span["parent"])
    return names.get(parent, parent)


def test_a_further_webhook_of_a_call_is_not_its_first(otlp: Standin) -> None:
    tracing.start(settings(otel_exporter_otlp_endpoint=otlp.url), "x")
    tracing_spans.announced(CALL, time.time(), "held", turn=1)
    tracing.leave()
    span = spans(otlp)["webhook"]
    assert span["parent"] == tracing_spans.root_of(TRACE)
    assert span["id"] != tracing_spans.root_of(TRACE)


def test_ends_that_nobody_wanted_are_failures(otlp: Standin) -> None:
    tracing.start(settings(otel_exporter_otlp_endpoint=otlp.url), "x")
    tracing_spans.ended(CALL, time.monotonic(), EndReason.POISONED, "default", 3)
    tracing_spans.announced(CALL, time.time(), "reserved")
    tracing.leave()
    assert spans(otlp)["call"]["failed"] == "poisoned"
    assert not spans(otlp)["webhook"]["failed"]


def test_no_span_has_a_phone_number(otlp: Standin) -> None:
    """A name of an agent, or whatever else comes from outside, may have one in it."""
    tracing.start(settings(otel_exporter_otlp_endpoint=otlp.url), "x")
    tracing_spans.ended(CALL, time.monotonic(), EndReason.POISONED, f"agent of {CALL.caller}", 0)
    tracing.leave()
    assert CALL.caller not in str(spans(otlp))
    assert spans(otlp)["call"]["attributes"]["agent"] == "agent of +5511****"


def test_what_was_said_is_taken_out_of_pipecats_spans(otlp: Standin) -> None:
    tracing.start(settings(otel_exporter_otlp_endpoint=otlp.url), "x")
    export = tracing.export()
    assert export is not None
    with export.tracer("pipecat").start_as_current_span("llm") as span:
        span.set_attribute("input", "[what the caller said]")
        span.set_attribute("gen_ai.system_instructions", "a prompt, and the customer's record")
        span.set_attribute("gen_ai.usage.input_tokens", 12)
        span.set_attribute("gen_ai.provider.name", "warmopenaillm")
        span.record_exception(ValueError("the request was: +5511987654321"))
    tracing.leave()
    assert spans(otlp)["llm"]["attributes"] == {"gen_ai.usage.input_tokens": 12, "gen_ai.provider.name": "openai"}
    assert spans(otlp)["llm"]["events"] == []


def test_headers_go_with_every_request(otlp: Standin) -> None:
    headers = "authorization=Bearer%20abc, x-team = voice"
    tracing.start(settings(otel_exporter_otlp_endpoint=otlp.url, otel_exporter_otlp_headers=headers), "x")
    tracing_spans.announced(CALL, time.time(), "reserved")
    tracing.leave()
    request = next(entry for entry in otlp.state_now()["log"] if entry["kind"] == "request")
    assert request["headers"]["authorization"] == "Bearer abc"
    assert request["headers"]["x-team"] == "voice"


def test_a_trace_id_that_is_none_makes_no_span(otlp: Standin) -> None:
    tracing.start(settings(otel_exporter_otlp_endpoint=otlp.url), "x")
    for name in ("", "trace", "0" * 32, TRACE.upper()):
        tracing.record(Span("call", name, 1.0, 2.0))
    tracing.record(Span("good", TRACE, 1.0, 2.0))
    tracing.leave()
    assert set(spans(otlp)) == {"good"}


def test_names_of_spans_are_the_same_everywhere() -> None:
    """Written down, because processes of two versions may serve one call."""
    assert span_id(TRACE) == "15f774f039ec6d5f"
    assert span_id(TRACE, "call", 0) != span_id(TRACE, "call", 1)


# --- trouble -----------------------------------------------------------------------------------------------------------


def test_an_endpoint_that_is_away_is_one_line_in_the_log(
    otlp: Standin, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """However many batches are lost; and one when it is back."""
    otlp.control_now(status=500)
    tracing.start(settings(otel_exporter_otlp_endpoint=otlp.url), "x")
    export = tracing.export()
    assert export is not None
    for count in range(3):
        tracing.record(Span(f"lost {count}", TRACE, 1.0, 2.0))
        export.flush()
    otlp.control_now(status=200)
    tracing.record(Span("taken", TRACE, 1.0, 2.0))
    export.flush()
    assert set(spans(otlp)) == {"taken"}
    said = capsys.readouterr().out + caplog.text
    assert said.count("traces are not taken") == 1
    assert said.count("traces are taken again") == 1
    assert "Failed to export" not in said


def test_a_process_leaves_in_time_though_nobody_answers(otlp: Standin) -> None:
    """The stand-in takes each request and says nothing, for as long as the process has patience with one."""
    otlp.control_now(stall=True)
    program = f"""
from shared import tracing
from shared.settings import Settings
from shared.tracing import Span
tracing.start(Settings(_env_file=None, otel_exporter_otlp_endpoint={otlp.url!r}), "x")
for _ in range(5000):
    tracing.record(Span("call", {TRACE!r}, 1.0, 2.0))
tracing.leave()
print("left")
"""
    run = in_a_fresh_interpreter(program)
    assert run.stdout.splitlines()[-1] == "left", run.stderr
    assert "Queue full" not in run.stderr
    requests = sum(entry["kind"] == "request" for entry in otlp.state_now()["log"])
    assert 1 <= requests < MOST_WAITING // MOST_AT_ONCE, "it did not try to get rid of all that waited"


@pytest.mark.parametrize("headers", ["nothing", "a b=c", "=x", "x=a%0Ab", "x=é"])
def test_headers_that_are_none_are_refused_without_being_repeated(headers: str) -> None:
    wrong = settings(otel_exporter_otlp_endpoint="http://127.0.0.1:9", otel_exporter_otlp_headers=headers)
    with pytest.raises(SettingsError) as raised:
        tracing.check(wrong)
    assert str(raised.value) == "OTEL_EXPORTER_OTLP_HEADERS: must be name=value pairs with commas between them"


@pytest.mark.parametrize("module", ["router", "worker", "worker.prefetcher"])
def test_a_process_without_the_library_says_so_in_one_line_and_does_not_start(module: str, tmp_path: Path) -> None:
    program = f"""
import sys, runpy
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("opentelemetry.exporter"):
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Missing())
sys.argv = [{module!r}]
runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
"""
    run = in_a_fresh_interpreter(
        program,
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9",
        PUBLIC_BASE_URL="https://voice.example.test",
        TWILIO_AUTH_TOKEN="token-of-a-test",
        OPENAI_API_KEY="key-of-a-test",
        CARTESIA_API_KEY="key-of-a-test",
        CARTESIA_VOICE_ID="voice",
        HANDOFF_DIR=str(tmp_path),
        ROUTER_PORT="0",
        POOL_METRICS_PORT="0",
        PREFETCH_METRICS_PORT="0",
    )
    assert run.returncode == 2, run.stdout + run.stderr
    assert run.stderr.splitlines() == [f"offhook: {NOT_INSTALLED}: no module opentelemetry.exporter"]
