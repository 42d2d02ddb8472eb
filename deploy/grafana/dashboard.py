"""Writes `dashboards/offhook.json`: `python -m deploy.grafana.dashboard`.

The rows are in the modules beside this one. Every query is run by `tests/system/test_dashboards.py` against a Prometheus that
scrapes a running system, and must return data there.
"""

import json
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard

from deploy.grafana.panels import interval_of, numbered, source_of, variable_of
from deploy.grafana.rows_callers import calls, first_audio, now, replies
from deploy.grafana.rows_parts import prefetch, processes, redis, router
from deploy.grafana.rows_pool import failovers, pool, providers

FILE: Final = Path(__file__).with_name("dashboards") / "offhook.json"

SOURCE: Final = ("Prometheus", "offhook-prometheus")
"""Name and uid of the source that `provisioning/datasources` makes."""

WINDOWS: Final = ("1m", "5m", "15m", "1h", "6h")

ROWS: Final = (now, pool, first_audio, replies, calls, failovers, providers, router, prefetch, processes, redis)


def offhook() -> dashboard.Dashboard:
    """Build the dashboard."""
    made = build.Dashboard("Offhook").uid("offhook").tags(["offhook"]).timezone("browser").refresh("10s")
    made.description(
        "Workers that are ready before the phone rings: pool, first audio, replies, calls, failovers, providers."
    )
    made.time("now-1h", "now").tooltip(dashboard.DashboardCursorSync.CROSSHAIR).readonly()
    made.with_variable(source_of("datasource", "Prometheus", *SOURCE))
    made.with_variable(
        variable_of("pool", "Pool", "label_values(offhook_workers, instance)", "Pools, by the address of their metrics")
    )
    made.with_variable(
        variable_of(
            "worker", "Worker", 'label_values(offhook_worker_state{instance=~"$pool"}, worker)', "Slots of pools"
        )
    )
    made.with_variable(
        variable_of(
            "instance", "Process", "label_values(up, instance)", "Routers, prefetchers and all others by address"
        )
    )
    made.with_variable(interval_of("window", "Window", WINDOWS, "5m", "Over which rare events are counted"))
    for each in ROWS:
        row = each()
        made.with_row(build.Row(row.title))
        for panel in row.panels:
            made.with_panel(panel)
    return numbered(made.build())


def text() -> str:
    """Give the dashboard as it is committed."""
    return json.dumps(offhook(), cls=JSONEncoder, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def main() -> None:
    """Write it."""
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(text(), encoding="utf-8")
    print(f"{FILE.relative_to(Path.cwd())} written" if FILE.is_relative_to(Path.cwd()) else FILE)


if __name__ == "__main__":
    main()
