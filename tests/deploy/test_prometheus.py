"""The rules of Prometheus: valid, each alert with its cases and its words, and about nothing that is not exposed."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psutil
import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from shared import letters
from shared.metrics import PoolMetrics, registry
from shared.metrics_prefetch import Depths, JobState, PrefetchMetrics, QueueMetrics
from shared.metrics_router import RouterMetrics
from shared.prefetch import AFTERCALL_QUEUE, QUEUE
from shared.settings import Settings
from shared.tool_metrics import ToolMetrics
from tests.debian import unpacked
from tests.prometheus_server import PrometheusServer
from tests.redis_server import RedisServer
from tests.standins.process import ROOT

FOLDER: Final = ROOT / "deploy" / "prometheus"
RULES: Final = sorted((FOLDER / "rules").glob("*.yml"))
CASES: Final = sorted((FOLDER / "tests").glob("*.yml"))
QUEUES: Final = (QUEUE, AFTERCALL_QUEUE, letters.QUEUE, letters.STATUS_QUEUE)

DEADLINE_S: Final = 60.0

Exposed = dict[str, dict[str, set[str]]]
"""Sample names, with the values of each of their labels."""

WORDS: Final = frozenset(
    {"sum", "min", "max", "avg", "count", "by", "on", "and", "or", "absent", "rate", "increase", "vector"}
    | {"histogram_quantile", "max_over_time"}
)
"""Everything of the query language that the rules use."""


def loaded(path: Path) -> Any:
    """Read a file of YAML."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def rules(kind: str) -> dict[str, dict[str, Any]]:
    """Give the rules of a kind (`alert` or `record`) by name."""
    every = [rule for path in RULES for group in loaded(path)["groups"] for rule in group["rules"]]
    return {rule[kind]: rule for rule in every if kind in rule}


ALERTS: Final = rules("alert")
RECORDS: Final = rules("record")


def run(program: Path, *arguments: str | Path, folder: Path = FOLDER) -> str:
    """Run a program to its good end and give what it says."""
    command = [str(program), *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def promtool() -> Path:
    return unpacked("prometheus") / "usr/bin/promtool"


# --- what is exposed --------------------------------------------------------------------------------------------------


def healthy() -> dict[str, CollectorRegistry]:
    """Give what each job exposes while all is well and nobody calls."""
    made = {job: registry() for job in ("offhook-router", "offhook-pool", "offhook-prefetcher")}
    RouterMetrics(made["offhook-router"]).ready_workers(4)
    pool = PoolMetrics(made["offhook-pool"], 4)
    pool.redis_up(up=True)
    tools = ToolMetrics(made["offhook-pool"])
    tools.host_up(up=True)
    tools.server_up("crm", up=True)
    PrefetchMetrics(made["offhook-prefetcher"])
    states = {queue: dict.fromkeys(JobState, 0) for queue in QUEUES}
    QueueMetrics(made["offhook-prefetcher"], lambda: Depths(states, dict.fromkeys(QUEUES, 0.0)))
    return made


def exposed() -> Exposed:
    """Give every sample of ours, with the labels that Prometheus adds."""
    found: Exposed = {"up": {}}
    for made in healthy().values():
        for sample in (sample for family in made.collect() for sample in family.samples):
            labels = found.setdefault(sample.name, {})
            for name, value in sample.labels.items():
                labels.setdefault(name, set()).add(value)
    jobs = {job["job_name"] for job in loaded(FOLDER / "prometheus.yml")["scrape_configs"]}
    for labels in found.values():
        labels |= {"job": jobs, "instance": set()}
    return found


class Exporter:
    """Debian's exporter of Redis, running beside a real one."""

    def __init__(self, address: str) -> None:
        self.address = address

    def samples(self) -> dict[str, float]:
        """Fetch its page."""
        with urllib.request.urlopen(f"http://{self.address}/metrics", timeout=DEADLINE_S) as answer:
            families = text_string_to_metric_families(answer.read().decode())
            return {sample.name: sample.value for family in families for sample in family.samples}


@contextlib.contextmanager
def exporter(redis: RedisServer, log: Path) -> Iterator[Exporter]:
    """Run the exporter until the end of the block."""
    program = unpacked("prometheus-redis-exporter") / "usr/bin/prometheus-redis-exporter"
    with log.open("wb") as said:
        process = psutil.Popen(
            [str(program), "-redis.addr", redis.url, "-web.listen-address", "127.0.0.1:0"], stdout=said, stderr=said
        )
    try:
        ends = time.monotonic() + DEADLINE_S
        while not (listening := [one for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN]):
            assert time.monotonic() < ends, log.read_text()
            time.sleep(0.02)  # there is no event to wait for: it listens when it listens
        yield Exporter(f"127.0.0.1:{listening[0].laddr.port}")
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


def names_in(expression: str) -> dict[str, list[tuple[str, str, str]]]:
    """Give the metrics of an expression, each with its conditions: label, operator, value."""
    bare = re.sub(r"\b(by|on|without) \([a-z_, ]*\)", "", expression)
    found: dict[str, list[tuple[str, str, str]]] = {}
    for name, conditions in re.findall(r"([a-zA-Z_:][\w:]*)(\{[^}]*\})?", re.sub(r"\[\w+\]", "", bare)):
        if name not in WORDS:
            found.setdefault(name, []).extend(re.findall(r'(\w+)(=~|!~|!=|=)"([^"]*)"', conditions))
    return found


def strangers(expression: str, known: Exposed) -> Iterator[str]:
    """Name what an expression asks for and nobody has."""
    for name, conditions in names_in(expression).items():
        if ":" in name:
            if name not in RECORDS:
                yield name
            continue
        labels = known.get(name)
        if labels is None:
            yield name
            continue
        for label, _, value in conditions:
            yield from (
                f"{name}{{{label}={each}}}" for each in value.split("|") if each not in labels.get(label, set())
            )


def grouped_by(expression: str) -> set[str]:
    """Give the labels an expression groups or matches by."""
    return {
        label.strip() for found in re.findall(r"\b(?:by|on) \(([a-z_, ]*)\)", expression) for label in found.split(",")
    }


@pytest.fixture(scope="module")
def known() -> Exposed:
    return exposed()


@pytest.mark.parametrize("name", [*ALERTS, *RECORDS])
def test_a_rule_asks_for_what_our_processes_expose(name: str, known: Exposed) -> None:
    expression = (ALERTS | RECORDS)[name]["expr"]
    assert [each for each in strangers(expression, known) if not each.startswith("redis_")] == []
    labels = {label for metric in names_in(expression) for label in known.get(metric, {"job": set()})}
    assert grouped_by(expression) - labels - {""} == set()


def test_a_name_a_label_or_a_value_that_is_not_there_is_found(known: Exposed) -> None:
    wrong = 'sum by (job) (increase(offhook_calls_total{end_reason=~"drained|bored",mood="good"}[5m])) > offhook_call'
    assert list(strangers(wrong, known)) == [
        "offhook_calls_total{end_reason=bored}", "offhook_calls_total{mood=good}", "offhook_call",
    ]  # fmt: skip


@pytest.mark.redis
def test_the_exporter_of_redis_answers_what_the_rules_ask(redis_server: RedisServer, tmp_path: Path) -> None:
    asked = {
        name for rule in (ALERTS | RECORDS).values() for name in names_in(rule["expr"]) if name.startswith("redis_")
    }
    assert asked
    with exporter(redis_server, tmp_path / "log") as running:
        answered = running.samples()
        assert asked - answered.keys() == set()
        assert answered["redis_up"] == 1
        redis_server.stop()
        assert running.samples()["redis_up"] == 0


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_how_bad_it_is_and_what_to_do(name: str) -> None:
    rule = ALERTS[name]
    assert re.fullmatch(r"Offhook([A-Z][a-z]+)+", name)
    assert rule["labels"] in [{"severity": "critical"}, {"severity": "warning"}]
    notes = rule["annotations"]
    assert notes.keys() == {"summary", "description", "runbook"}
    assert all(text and "\n" not in text for text in notes.values())
    assert not notes["summary"].endswith(".")
    assert notes["description"].endswith(".")
    assert len(notes["runbook"].split()) >= 12, "what to look at, and what to do"


def test_the_runbook_has_a_section_with_advice_for_each_alert_and_for_nothing_else() -> None:
    text = (FOLDER / "RUNBOOK.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL))
    assert sections.keys() == ALERTS.keys()
    assert [name for name, words in sections.items() if len(words.split()) < 20] == []
    mentioned = set(re.findall(r"\bOffhook[A-Z]\w+", text)) | {
        name for rule in ALERTS.values() for name in re.findall(r"\bOffhook[A-Z]\w+", str(rule["annotations"]))
    }
    assert mentioned <= ALERTS.keys()


def test_the_runbook_names_metrics_and_settings_that_are_there(known: Exposed) -> None:
    text = (FOLDER / "RUNBOOK.md").read_text(encoding="utf-8") + json.dumps(
        [rule["annotations"] for rule in ALERTS.values()]
    )
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in known}
    assert set(re.findall(r"(?<!:)\boffhook_[a-z_]+\b(?!:)", text)) <= known.keys() | families
    assert set(re.findall(r"\b[a-z_]+:[a-z_]+:[a-z0-9_]+\b", text)) <= RECORDS.keys()
    capitals = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", text))
    assert capitals - {name.upper() for name in Settings.model_fields} == set()


# --- cases ------------------------------------------------------------------------------------------------------------


def outcomes() -> dict[str, set[bool]]:
    """Give, for each alert that has cases, whether it fires in them."""
    found: dict[str, set[bool]] = {}
    for test in (test for path in CASES for test in loaded(path)["tests"]):
        for case in test["promql_expr_test"]:
            asked = re.fullmatch(r'ALERTS\{alertname="(\w+)",alertstate="firing"\}', case["expr"])
            if asked:
                found.setdefault(asked[1], set()).add(bool(case["exp_samples"]))
    return found


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    assert outcomes() == {name: {True, False} for name in ALERTS}


def test_every_file_of_cases_is_about_our_rules(known: Exposed) -> None:
    for path in CASES:
        assert {(path.parent / one).resolve() for one in loaded(path)["rule_files"]} & {
            FOLDER / "rules" / "*.yml", FOLDER / "rules" / "recording.yml",
        }  # fmt: skip
        series = [each["series"] for test in loaded(path)["tests"] for each in test["input_series"]]
        names = {name for each in series for name in names_in(each) if not name.startswith("redis_")}
        assert names <= known.keys(), path.name


def test_all_cases_hold(promtool: Path) -> None:
    run(promtool, "test", "rules", *CASES, folder=FOLDER / "tests")


def test_configuration_and_rules_are_valid(promtool: Path) -> None:
    assert f"{len(RULES)} rule files found" in run(promtool, "check", "config", "prometheus.yml").replace(
        "file f", "files f"
    )
    run(promtool, "check", "rules", *RULES)


def test_what_is_scraped_are_the_services_of_the_compose_file_at_their_ports() -> None:
    compose = loaded(ROOT / "deploy" / "compose.yaml")
    ports = {name.removesuffix("_METRICS_PORT").lower(): port for name, port in compose["x-environment"].items()}
    wanted = {f"router:{ports['router']}", f"worker:{ports['pool']}", f"prefetcher:{ports['prefetch']}"}
    wanted |= {"redis-exporter:9121", "localhost:9090", "alertmanager:9093"}
    config = loaded(FOLDER / "prometheus.yml")
    fixed = [one for job in config["scrape_configs"] for one in job.get("static_configs", ())]
    found = [one for job in config["scrape_configs"] for one in job.get("dns_sd_configs", ())]
    scraped = {target for one in fixed for target in one["targets"]}
    scraped |= {f"{name}:{one['port']}" for one in found for name in one["names"]}
    assert scraped == wanted
    aliases = {alias for service in compose["services"].values() for alias in _aliases(service)}
    assert {target.partition(":")[0] for target in scraped} - {"localhost"} <= compose["services"].keys() | aliases
    assert all(one["type"] == "A" for one in found), "a name without a type is asked for SRV records"
    assert all(one["labels"]["instance"] for one in fixed)


def _aliases(service: dict[str, Any]) -> list[str]:
    networks = service.get("networks")
    return [alias for one in networks.values() for alias in one["aliases"]] if isinstance(networks, dict) else []


def test_alertmanagers_example_is_valid_and_without_secrets() -> None:
    amtool = unpacked("prometheus-alertmanager") / "usr/bin/amtool"
    run(amtool, "check-config", "alertmanager.yml")
    text = (FOLDER / "alertmanager.yml").read_text(encoding="utf-8")
    assert "credentials_file" in text
    assert not re.search(r"(credentials|password|api_key|token):", text)
    assert set(re.findall(r'alertname="(\w+)"', text)) <= ALERTS.keys()


# --- silence ----------------------------------------------------------------------------------------------------------


def silent(tmp_path: Path, promtool: Path, values: dict[str, str]) -> None:
    """Have Prometheus go through hours of this; `values` by metric type, where `{}` is what is exposed."""
    series = [
        {
            "series": f'{name}{{{labels}job="{job}",instance="a"}}',
            "values": values[kind].replace("{}", f"{float(value):g}"),
        }
        for job, made in healthy().items()
        for name, labels, kind, value in _series(made)
    ]
    series += [{"series": f'up{{job="{job}",instance="a"}}', "values": "1x400"} for job in (*healthy(), "redis")]
    series += [
        {"series": f'{name}{{job="redis",instance="redis"}}', "values": f"{value}x400"}
        for name, value in {
            "redis_up": 1, "redis_memory_used_bytes": 1e6, "redis_memory_max_bytes": 0,
            "redis_aof_last_write_status": 1, "redis_rdb_last_bgsave_status": 1,
        }.items()
    ]  # fmt: skip
    times = ("0m", "1m", "10m", "61m", "75m", "200m", "400m")
    asked: list[dict[str, Any]] = [{"expr": 'ALERTS{alertstate="firing"}', "exp_samples": []}]
    asked += [{"expr": f"{name} != {name}", "exp_samples": []} for name in RECORDS]  # only NaN differs from itself
    tests = [each | {"eval_time": time} for each in asked for time in times]
    case = {
        "rule_files": [str(path) for path in RULES],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": series, "promql_expr_test": tests}],
    }
    path = tmp_path / "case.yml"
    path.write_text(yaml.safe_dump(case))
    run(promtool, "test", "rules", path, folder=tmp_path)


def _series(made: CollectorRegistry) -> Iterator[tuple[str, str, str, float]]:
    """Give the samples of a registry as name, labels, kind and value, with four workers ready."""
    for family in made.collect():
        for sample in family.samples:
            kind = "gauge" if family.type == "gauge" and not sample.name.endswith("_total") else "counter"
            labels = "".join(f'{name}="{value}",' for name, value in sample.labels.items())
            ready = sample.name == "offhook_workers" and sample.labels["state"] == "ready"
            yield sample.name, labels, kind, 4 if ready else sample.value


def test_a_system_without_calls_has_no_alert_and_no_nan(tmp_path: Path, promtool: Path) -> None:
    silent(tmp_path, promtool, {"gauge": "{}x400", "counter": "{}x400"})


def test_a_restart_of_everything_after_many_events_is_no_alert(tmp_path: Path, promtool: Path) -> None:
    """Counters that stood at seven when Prometheus first saw them begin at nothing again."""
    silent(tmp_path, promtool, {"gauge": "{}x400", "counter": "7x60 0x340"})


def test_a_real_prometheus_evaluates_every_rule_and_has_something_to_say_of_nothing_at_all() -> None:
    """Its words are rendered: a mistake in a template would stand in them."""
    with PrometheusServer({}, rules=RULES) as prometheus:
        named = ALERTS | RECORDS
        evaluated = prometheus.until(
            lambda: (
                found if (found := prometheus.rules()) and all(each["health"] != "unknown" for each in found) else None
            ),
            "every rule was evaluated",
        )
        assert {(each["name"], each["health"]) for each in evaluated} == {(name, "ok") for name in named}
        alerts = prometheus.until(prometheus.alerts, "something is said")
    assert {each["labels"]["alertname"] for each in alerts} == {"OffhookNoReadyWorker", "OffhookPartMissing"}
    missing = {each["annotations"]["summary"] for each in alerts if "job" in each["labels"]}
    assert missing == {
        f"Nothing of {job} answers" for job in ("offhook-router", "offhook-pool", "offhook-prefetcher", "redis")
    }
