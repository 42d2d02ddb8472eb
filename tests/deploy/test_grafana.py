"""The dashboard is what its code writes, names metrics and settings that exist, and is put together as Grafana wants it."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from deploy.grafana import dashboard
from deploy.grafana.rows_pool import STATES
from shared.metrics import PoolMetrics, registry
from shared.metrics_prefetch import Depths, JobState, PrefetchMetrics, QueueMetrics
from shared.metrics_router import RouterMetrics
from shared.tool_metrics import ToolMetrics
from shared.workers import WorkerState
from tests.dashboards import FILE, FOLDER, ROOT, Asked, board, panels, queries, variables

if TYPE_CHECKING:
    from collections.abc import Mapping

BY_OTHERS: Final = {
    "redis_up", "redis_memory_used_bytes", "redis_memory_max_bytes", "redis_connected_clients", "redis_blocked_clients",
    "redis_commands_processed_total",
}  # fmt: skip
"""Of Redis' exporter; that they exist is shown by `tests/system/test_dashboards.py`."""

SCHEMA: Final = 36
"""The schema the builders write; later versions of Grafana migrate it when they read it."""

PROVIDED_BY_GRAFANA: Final = {"__rate_interval", "__range"}
SETTING: Final = re.compile(r"`([A-Z][A-Z0-9]+(?:_[A-Z0-9]+)+)`")


@pytest.fixture(scope="module")
def exposed() -> Mapping[str, set[str]]:
    """Give the labels of every sample that our processes expose; `up`, `ALERTS` and the `instance` are Prometheus' own."""
    made = registry()
    PoolMetrics(made, 1)
    RouterMetrics(made).refused("media", "signature")
    PrefetchMetrics(made)
    QueueMetrics(made, lambda: Depths({"prefetch": {JobState.QUEUED: 1}}, {"prefetch": 0.0}))
    ToolMetrics(made).server_up("shop", up=True)
    found: dict[str, set[str]] = {"up": set(), "ALERTS": {"alertname", "alertstate", "severity"}}
    for family in made.collect():
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_the_committed_dashboard_is_what_its_code_writes() -> None:
    assert FILE.read_text(encoding="utf-8") == dashboard.text(), "run: python -m deploy.grafana.dashboard"


@pytest.mark.parametrize("asked", queries(), ids=str)
def test_a_query_names_metrics_and_labels_that_exist(asked: Asked, exposed: Mapping[str, set[str]]) -> None:
    assert asked.metrics, asked.expr
    ours = asked.metrics - BY_OTHERS
    assert ours <= exposed.keys()
    known = set().union(*(exposed[name] for name in ours)) | {"instance", "job"}
    assert asked.labels <= known
    if asked.grouped:
        assert asked.named <= asked.grouped, "a label that was summed away has no value for the legend"


def test_every_metric_that_is_one_of_a_closed_list_of_ours_is_shown(exposed: Mapping[str, set[str]]) -> None:
    """What is counted and looked at by nobody is a metric too many, or a panel too few."""
    shown = set().union(*(asked.metrics for asked in queries()))
    parts = re.compile(r"_(bucket|count|sum)$")
    ours = {parts.sub("", name) for name in exposed if name.startswith("offhook_")}
    assert ours - {parts.sub("", name) for name in shown} == set()


def test_ids_titles_and_places_are_each_panels_own() -> None:
    every = board()["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    assert len({panel["title"] for panel in every}) == len(every)
    taken: set[tuple[int, int]] = set()
    for panel in every:
        place = panel["gridPos"]
        cells = set(
            itertools.product(range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"]))
        )
        assert max(x for x, _y in cells) < 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells
    assert {x for x, _y in taken} == set(range(24))


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_panel_has_a_unit_says_what_to_do_and_asks_the_source_that_was_chosen(panel: dict[str, Any]) -> None:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    assert unit
    for part in ("**Good:** ", "**Otherwise:** "):
        assert len(panel["description"].partition(part)[2].split("\n")[0]) > 1, part
    sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
    assert {(source["type"], source["uid"]) for source in sources} == {("prometheus", "${datasource}")}
    assert [target["refId"] for target in panel["targets"]] == [chr(65 + n) for n in range(len(panel["targets"]))]
    if panel["type"] == "heatmap":
        assert [target["format"] for target in panel["targets"]] == ["heatmap"]
    for asked in (each for each in queries() if each.panel == panel["title"]):
        if "_seconds_bucket" in asked.expr and "/" not in asked.expr:
            assert unit == "s"


def test_settings_that_descriptions_speak_of_exist() -> None:
    named = {name for panel in panels() for name in SETTING.findall(panel["description"])}
    documented = set(re.findall(r"^#?([A-Z][A-Z0-9_]+)=", (ROOT / "deploy" / "env.example").read_text(), re.MULTILINE))
    assert named
    assert named - documented == set()


def test_every_variable_of_a_query_is_one_of_the_dashboard_or_of_grafana() -> None:
    listed = board()["templating"]["list"]
    given = {variable["name"] for variable in listed} | PROVIDED_BY_GRAFANA
    texts = [asked.expr for asked in queries()] + [panel["title"] for panel in panels()]
    used = {name for text in texts for name in re.findall(r"\$(\w+)", text)}
    assert used <= given
    assert {variable["name"] for variable in listed} - {"datasource"} <= used
    assert {name for name, _series, _label in variables()} == {"pool", "worker", "instance"}


def test_each_state_of_a_worker_has_its_name_and_color() -> None:
    assert list(STATES) == list(WorkerState)
    colors = [color for _name, color in STATES.values()]
    assert len(set(colors)) == len(colors)


def test_the_schema_is_the_one_the_builders_write() -> None:
    read = board()
    assert read["schemaVersion"] == SCHEMA
    assert read["uid"] == "offhook"
    assert read.get("id") is None, "an id is of one Grafana"


def test_the_source_that_is_provisioned_is_the_one_the_dashboard_chooses() -> None:
    provisioned = yaml.safe_load((FOLDER / "provisioning" / "datasources" / "prometheus.yaml").read_text())
    [source] = provisioned["datasources"]
    [variable] = [each for each in board()["templating"]["list"] if each["name"] == "datasource"]
    assert variable["current"]["value"] == source["uid"]
    assert source["type"] == variable["query"] == "prometheus"
    assert source["url"] == "http://prometheus:9090"
    scraped = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == scraped["global"]["scrape_interval"]
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    mounted = {volume.split(":")[1] for volume in compose["services"]["grafana"]["volumes"]}
    provider = yaml.safe_load((FOLDER / "provisioning" / "dashboards" / "offhook.yaml").read_text())
    assert {each["options"]["path"] for each in provider["providers"]} <= mounted
    assert "/etc/grafana/provisioning" in mounted
