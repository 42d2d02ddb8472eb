"""The rules of Prometheus beside real processes: a system that takes calls has its figures and no alert."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.deploy.test_prometheus import RECORDS, RULES, exporter
from tests.prometheus_server import PrometheusServer
from tests.stack import Plan, Stack
from tests.system.talk import ask, greeted

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.redis, pytest.mark.system]

CALLER = "+5511987650001"
FAULTS = {"job:offhook_failover_seconds:p95_rate15m"}
"""What has no figure where nothing goes wrong."""


async def test_a_call_has_every_figure_and_no_alert_and_a_redis_that_is_away_is_told_by_all_who_miss_it(
    tmp_path: Path,
) -> None:
    async with Stack(Plan(pool_ready=2)) as stack:
        await stack.supabase.control(customers=[{"phone": CALLER, "name": "Ana Souza", "appointments": []}])
        with exporter(stack.redis, tmp_path / "exporter") as redis:
            jobs = {
                "offhook-router": [f"127.0.0.1:{stack.router_port}"],
                "offhook-pool": [f"127.0.0.1:{stack.pool_metrics_port}"],
                "offhook-prefetcher": [f"127.0.0.1:{stack.prefetch_metrics_port}"],
                "redis": [redis.address],
            }
            with PrometheusServer(jobs, rules=RULES, interval_s=1.0) as prometheus:
                await asyncio.to_thread(prometheus.until, prometheus.all_up, "everything is scraped")
                async with stack.carrier() as carrier:
                    call = await carrier.dial(from_=CALLER)
                    await greeted(call)
                    await ask(call, "what-time", "It", "UTC.")
                    await call.hangup()
                    await call.ended()

                def figures() -> bool:
                    return all(prometheus.query(name) for name in RECORDS.keys() - FAULTS)

                await asyncio.to_thread(prometheus.until, figures, "every figure is there")
                [first] = await asyncio.to_thread(
                    prometheus.query, "job:offhook_greeting_start_latency_seconds:p50_rate5m"
                )
                assert first.value > 0
                alerts = await asyncio.to_thread(prometheus.alerts)
                assert [each for each in alerts if each["state"] == "firing"] == []
                stack.redis.stop()

                def missed() -> bool:
                    return {each["labels"]["job"] for each in prometheus.alerts() if told(each)} == {
                        "redis", "offhook-pool", "offhook-prefetcher",
                    }  # fmt: skip

                def told(alert: dict[str, dict[str, str]]) -> bool:
                    return alert["labels"]["alertname"] == "OffhookRedisDown"

                await asyncio.to_thread(prometheus.until, missed, "all who miss Redis say so")
