"""Every query of the dashboard, run by a real Prometheus that scrapes a real system in which everything has happened.

What happens: a known caller is answered, and the worker is killed in the middle of the call; a caller has to wait and is then
served; a webhook comes that nobody signed. What did not happen is shown as 0, since every series is there from the start. Only
a panel of times has nothing to show before its event.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

import pytest

from tests.dashboards import ALL, Asked, filled, queries, variables
from tests.debian import unpacked
from tests.prometheus_server import PrometheusServer, Series
from tests.stack import ROOT, Plan, Stack, free_ports
from tests.system.talk import ask, greeted, worker_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.standins.carrier import Carrier
    from tests.standins.carrier_call import Call

pytestmark = pytest.mark.system

WORKERS: Final = 2
CALLER: Final = "+5511987650001"
RULES: Final = sorted((ROOT / "deploy" / "prometheus" / "rules").glob("*.yml"))
VALUES: Final = ALL | {"window": "1m", "__rate_interval": "5s", "__range": "2m"}
SCRAPED_S: Final = 15.0
"""Until what has happened is scraped, twice."""
STEP_S: Final = 0.5
DEADLINE_S: Final = 120.0
"""Until a held caller is served: a replacement warms, and the clip is played to its end."""

AGENTS: Final = f"""
[agents.default]
mcp = ["shop"]

[mcp.shop]
command = "{sys.executable}"
args = ["-m", "tests.standins.mcp_server"]
env = {{ PYTHONPATH = "{ROOT}" }}
"""

HAPPENED: Final[Mapping[str, Mapping[str, str]]] = {
    "Alerts that fire": {"alertname": "OffhookFailovers"},
    "Cold starts": {},
    "Workers lost in calls": {},
    "Workers lost in calls (last $window)": {"reason": "worker_lost", "outcome": "resumed"},
    "Calls in progress and waiting": {},
    "Calls ended, by reason (last $window)": {"end_reason": "caller_hangup"},
    "How waiting ended (last $window)": {"outcome": "served"},
    "Time without a ready worker (last $window)": {},
    "First audio within its targets (last $window)": {},
    "Webhooks answered (last $window)": {"result": "held"},
    "Requests refused (last $window)": {"route": "incoming-call", "reason": "signature_wrong"},
    "Media upgrades (last $window)": {"result": "handed_off"},
    "Lookups, by outcome (last $window)": {"outcome": "found"},
    "Lookups queued (last $window)": {"result": "queued"},
    "Warm resources": {"resource": "llm"},
    "Voices of workers": {},
    "Tool host and MCP servers": {"server": "shop"},
    "Redis answers": {},
    "Clients of Redis": {},
}
"""Panels that must show what happened: some sample of a series with these labels is more than 0."""


CHOICES: Final = {"pool": 2, "worker": WORKERS, "instance": 5}
"""How many values each variable of the dashboard has to choose from."""


@contextlib.contextmanager
def exporter(redis_url: str) -> Iterator[str]:
    """Run Debian's Redis exporter; gives where it is scraped."""
    program = unpacked("prometheus-redis-exporter") / "usr/bin/prometheus-redis-exporter"
    address = f"127.0.0.1:{free_ports(1)[0]}"
    process = subprocess.Popen(
        [str(program), f"-redis.addr={redis_url}", f"-web.listen-address={address}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield address
    finally:
        process.terminate()
        process.wait(10)


def jobs(stack: Stack, second: int, redis_exporter: str) -> dict[str, list[str]]:
    """Say what is to be scraped; `second` is the port of another pool."""
    return {
        "router": [f"127.0.0.1:{stack.router_port}"],
        "pool": [f"127.0.0.1:{stack.pool_metrics_port}", f"127.0.0.1:{second}"],
        "prefetcher": [f"127.0.0.1:{stack.prefetch_metrics_port}"],
        "redis": [redis_exporter],
    }


async def a_worker_is_killed(stack: Stack, carrier: Carrier) -> None:
    """Let a known caller be answered, by one worker and then by another."""
    await stack.supabase.control(customers=[{"phone": CALLER, "name": "Ana Souza"}])
    call = await carrier.dial(from_=CALLER)
    await greeted(call)
    await ask(call, "my-name", "Ana")
    await stack.ready(1)
    killed = await stack.until(lambda: worker_of(stack, call.call_sid), "the log names the worker")
    os.kill(killed, signal.SIGKILL)
    await stack.until(lambda: worker_of(stack, call.call_sid) not in {0, killed}, "another worker serves the call")
    await ask(call, "yes", "said:")
    await over(call)


async def a_caller_waits(stack: Stack, carrier: Carrier) -> None:
    """Let more callers come than there are workers, and go one by one."""
    await stack.ready(WORKERS)
    calls = list(await asyncio.gather(*(carrier.dial() for _ in range(WORKERS + 1))))
    held = next(call for call in calls if b"<Redirect" in call.exchanges[0].body)
    for call in calls:
        if call is not held:
            await greeted(call)
            await over(call)
    await held.streaming(timeout_s=DEADLINE_S)
    await greeted(held)
    await over(held)


async def over(call: Call) -> None:
    """Hang up, and find that all went well."""
    await call.hangup()
    assert (await call.ended()).outcome == "completed"


def without_data(prometheus: PrometheusServer, since: float) -> dict[str, str]:
    """Run every query as Grafana does; gives those that have no data, or do not show what happened."""
    missing, unshown = {}, dict(HAPPENED)
    for asked in queries():
        expr, found = asked.filled(VALUES), run(prometheus, asked, since)
        if not any(math.isfinite(value) for series in found for _at, value in series.samples):
            missing[str(asked)] = expr
        if any(shows(series, HAPPENED[asked.panel]) for series in found if asked.panel in HAPPENED):
            unshown.pop(asked.panel, None)
    return missing | {panel: f"does not show {labels or 'anything'}" for panel, labels in unshown.items()}


def run(prometheus: PrometheusServer, asked: Asked, since: float) -> list[Series]:
    """Run one query, over the time since then or for now, as its panel has it."""
    expr = asked.filled(VALUES)
    return prometheus.query(expr) if asked.instant else prometheus.query_range(expr, since, time.time(), STEP_S)


def shows(series: Series, labels: Mapping[str, str]) -> bool:
    """Whether a series has these labels and was ever more than 0."""
    same = all(series.labels.get(name) == value for name, value in labels.items())
    return same and any(value > 0 for _at, value in series.samples)


async def test_every_query_has_data_of_a_system_in_which_everything_has_happened(tmp_path: Path) -> None:
    agents = tmp_path / "agents.toml"
    agents.write_text(AGENTS)
    plan = Plan(pool_ready=WORKERS, env={"AGENTS_FILE": str(agents), "POOL_MAX": str(WORKERS)})
    async with Stack(plan) as stack, stack.carrier() as carrier:
        since, second = time.time(), free_ports(1)[0]
        stack.another("pool", {"POOL_METRICS_PORT": str(second), "POOL_READY": "1"}).start()
        with (
            exporter(stack.redis.url) as address,
            PrometheusServer(jobs(stack, second, address), rules=RULES, interval_s=1) as prometheus,
        ):
            every = asyncio.to_thread
            await every(prometheus.until, prometheus.all_up, "every target is up")
            await carrier.dial(sign="wrong")
            await a_worker_is_killed(stack, carrier)
            async with stack.carrier(fast_verbs=False) as patient:
                await a_caller_waits(stack, patient)
            with contextlib.suppress(AssertionError):  # which ones say more than that they were not
                await every(prometheus.until, lambda: not without_data(prometheus, since), "scraped", SCRAPED_S)
            assert await every(without_data, prometheus, since) == {}
            await every(prometheus.until, prometheus.all_up, "every target is up")
            assert {rule["health"] for rule in prometheus.rules()} == {"ok"}
            for name, series, label in variables():
                values = prometheus.query(f"group by ({label}) ({filled(series, ALL)})")
                assert len(values) == CHOICES[name]
