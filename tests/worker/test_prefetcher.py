"""The prefetchers as the processes they are, with a real Redis and the Supabase stand-in."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from rq import Queue
from rq.serializers import JSONSerializer

from router.prefetch import PrefetchQueue
from shared import keys, redis_door
from shared.calls import CallSid, IncomingCall, TraceId
from shared.prefetch import AFTERCALL_QUEUE, JOB, QUEUE, Result
from shared.settings import Settings
from tests.standins.process import ROOT, Standin, started

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from redis import Redis

    from tests.redis_server import RedisServer

pytestmark = [pytest.mark.redis, pytest.mark.system]

PHONE = "+5511999990000"
CUSTOMERS = [{"phone": PHONE, "name": "Ana", "facts": {"code": "X7QK"}, "appointments": []}]
DEADLINE_S = 60.0


def until(what: str, ready: Callable[[], object]) -> None:
    """Wait until something that other processes do has happened."""
    deadline = time.monotonic() + DEADLINE_S
    while not ready():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.02)


class Prefetchers:
    """A running `python -m worker.prefetcher` and everything it logged."""

    def __init__(self, redis_url: str, folder: Path, **env: str) -> None:
        self.redis = redis_door.sync_commands(redis_url)
        self.log: list[dict[str, Any]] = []
        self.noise: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "worker.prefetcher"],
            cwd=folder,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(ROOT),
                "REDIS_URL": redis_url,
                "PREFETCH_METRICS_PORT": "0",
                "POOL_METRICS_HOST": "127.0.0.1",
                **env,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                self.log.append(json.loads(line))
            except ValueError:
                self.noise.append(line)

    def said(self, event: str, **fields: object) -> list[dict[str, Any]]:
        """Give the log lines of an event that have these fields."""
        wanted = {"event": event, **fields}
        return [line for line in list(self.log) if all(line.get(key) == value for key, value in wanted.items())]

    def working(self, count: int) -> bool:
        """Say whether that many lookup workers and the after-call worker are there."""
        lookups, others = (int(self.redis.scard(f"rq:workers:{queue}")) for queue in (QUEUE, AFTERCALL_QUEUE))
        return lookups == count and others == 1

    def children(self) -> dict[str, int]:
        """Give the process id of the latest child of each queue."""
        return {line["queue"]: line["pid"] for line in self.said("prefetcher child started")}

    def page(self) -> str:
        """Fetch `/metrics`."""
        [started_line] = self.said("prefetchers started")
        with urllib.request.urlopen(f"http://127.0.0.1:{started_line['metrics_port']}/metrics") as answer:
            return str(answer.read().decode())

    def observed(self) -> dict[str, float]:
        """Give the count of each outcome on `/metrics`."""
        text = self.page()
        return {
            sample.labels["outcome"]: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "offhook_context_prefetch_seconds_count"
        }

    def result(self, call_sid: str) -> Result | None:
        """Read the first result of a call."""
        return read_result(self.redis, call_sid)

    def end(self, sig: int = signal.SIGTERM) -> int:
        """Send a signal and give the exit status."""
        self.process.send_signal(sig)
        return self.process.wait(DEADLINE_S)

    def close(self) -> None:
        """Leave nothing running."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(DEADLINE_S)
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.redis.close()


def read_result(redis: Redis, call_sid: str) -> Result | None:
    entries: Any = redis.xrange(keys.customer(CallSid(call_sid)), count=1)
    return msgspec.json.decode(entries[0][1]["result"], type=Result) if entries else None


def call(number: int, caller: str = PHONE) -> IncomingCall:
    return IncomingCall(call_sid=CallSid(f"CA{number}"), caller=caller, called="+1", trace_id=TraceId("0" * 32))


@contextmanager
def prefetchers(
    redis_url: str, folder: Path, supabase: Standin | None, workers: int = 2, **env: str
) -> Iterator[Prefetchers]:
    """Run the prefetchers, by default until their workers are there."""
    if supabase is not None:
        env |= {"SUPABASE_URL": supabase.url, "SUPABASE_SECRET_KEY": "sb_secret_test"}
    running = Prefetchers(redis_url, folder, PREFETCH_WORKERS=str(workers), **env)
    try:
        yield running
    finally:
        running.close()


@contextmanager
def queueing(redis_url: str) -> Iterator[PrefetchQueue]:
    queue = PrefetchQueue(Settings(_env_file=None, redis_url=redis_url))
    yield queue
    queue.close()


@pytest.fixture
def supabase() -> Iterator[Standin]:
    with started("supabase_api") as standin:
        standin.control_now(customers=CUSTOMERS)
        yield standin


async def test_thirty_calls_at_once_with_a_slow_lookup_all_know_their_caller(
    redis_url: str, tmp_path: Path, supabase: Standin
) -> None:
    """Answer them side by side: one after another they would need fifteen seconds."""
    supabase.control_now(latency_ms=500)
    with prefetchers(redis_url, tmp_path, supabase, workers=30) as running, queueing(redis_url) as queue:
        until("thirty workers", lambda: running.working(30))
        assert all([await queue.enqueue(call(n)) for n in range(30)])
        until("thirty results", lambda: all(running.result(f"CA{n}") for n in range(30)))
        results = [result for n in range(30) if (result := running.result(f"CA{n}"))]
        assert {result.outcome for result in results} == {"found"}
        assert all(result.record and result.record["facts"] == {"code": "X7QK"} for result in results)
        assert max(result.took_s for result in results) < 10
        until("thirty observations", lambda: running.observed().get("found") == 30)
        assert running.end() == 0
    assert running.noise == []


async def test_unknown_and_failed_lookups_are_results_too(redis_url: str, tmp_path: Path, supabase: Standin) -> None:
    with prefetchers(redis_url, tmp_path, supabase, PREFETCH_TIMEOUT="0.3") as running, queueing(redis_url) as queue:
        until("workers", lambda: running.working(2))
        assert await queue.enqueue(call(1, "+15550001111"))
        until("unknown", lambda: running.result("CA1"))
        supabase.control_now(stall=True)
        assert await queue.enqueue(call(2))
        until("failed", lambda: running.result("CA2"))
        supabase.control_now(stall=False)
        assert await queue.enqueue(call(3))
        until("found", lambda: running.result("CA3"))
        outcomes = [result.outcome for n in (1, 2, 3) if (result := running.result(f"CA{n}"))]
        assert outcomes == ["unknown", "failed", "found"]
        assert running.end() == 0
    assert not any(PHONE in json.dumps(line) for line in running.log)
    [line] = running.said("customer prefetched", call_sid="CA3")
    assert line["trace_id"] == "0" * 32


async def test_without_supabase_every_customer_is_unavailable(redis_url: str, tmp_path: Path) -> None:
    with prefetchers(redis_url, tmp_path, None) as running, queueing(redis_url) as queue:
        until("workers", lambda: running.working(2))
        assert await queue.enqueue(call(1))
        until("a result", lambda: running.result("CA1"))
        result = running.result("CA1")
        assert result is not None
        assert result.outcome == "unavailable"
        assert running.end(signal.SIGINT) == 0


async def test_a_stopped_redis_is_survived_by_the_same_processes_and_said_once(
    redis_server: RedisServer, tmp_path: Path, supabase: Standin
) -> None:
    with prefetchers(redis_server.url, tmp_path, supabase, workers=4) as running, queueing(redis_server.url) as queue:
        until("workers", lambda: running.working(4))
        before = running.children()
        redis_server.stop()
        until("both children notice", lambda: len(running.said("redis does not answer")) == 2)
        assert not await queue.enqueue(call(1))
        redis_server.start()
        until("workers are back", lambda: running.working(4))
        assert await queue.enqueue(call(2))
        until("a result", lambda: running.result("CA2"))
        assert running.children() == before
        assert running.end() == 0
    assert len(running.said("redis does not answer")) == 2
    assert not [line for line in running.log if "Traceback" in json.dumps(line) or "exception" in line]
    assert running.noise == []


def test_without_redis_it_starts_waits_and_leaves_quickly(redis_server: RedisServer, tmp_path: Path) -> None:
    redis_server.stop()
    with prefetchers(redis_server.url, tmp_path, None) as running:
        until("both children notice", lambda: len(running.said("redis does not answer")) == 2)
        assert running.end() == 0
        assert not running.said("prefetcher child killed")
    assert running.noise == []


async def test_a_hanging_redis_is_noticed_and_does_not_keep_it_from_leaving(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    with prefetchers(redis_server.url, tmp_path, None) as running:
        until("workers", lambda: running.working(2))
        os.kill(redis_server.pid, signal.SIGSTOP)
        until("both children notice", lambda: len(running.said("redis does not answer")) == 2)
        assert running.end() == 0
        assert not running.said("prefetcher child killed")


async def test_a_redis_that_dies_during_lookups_brings_no_tracebacks(
    redis_server: RedisServer, tmp_path: Path, supabase: Standin
) -> None:
    with prefetchers(redis_server.url, tmp_path, supabase, workers=8) as running, queueing(redis_server.url) as queue:
        until("workers", lambda: running.working(8))
        supabase.control_now(latency_ms=1000, reset=True)
        for n in range(8):
            assert await queue.enqueue(call(n))
        until("the lookups are under way", lambda: supabase.state_now()["counters"].get("requests") == 8)
        redis_server.stop()
        until("both children notice", lambda: len(running.said("redis does not answer")) == 2)
        redis_server.start()
        assert await queue.enqueue(call(99))
        until("a result", lambda: running.result("CA99"))
        assert running.end() == 0
    assert not [line for line in running.log if "Traceback" in json.dumps(line)]
    assert running.noise == []


async def test_a_killed_child_is_replaced(redis_url: str, tmp_path: Path, supabase: Standin) -> None:
    with prefetchers(redis_url, tmp_path, supabase) as running, queueing(redis_url) as queue:
        until("workers", lambda: running.working(2))
        before = running.children()
        os.kill(before[QUEUE], signal.SIGKILL)
        until("a new child", lambda: running.children()[QUEUE] != before[QUEUE])
        assert running.children()[AFTERCALL_QUEUE] == before[AFTERCALL_QUEUE]
        assert await queue.enqueue(call(1))
        until("a result", lambda: running.result("CA1"))
        [death] = running.said("prefetcher child died")
        assert death["queue"] == QUEUE
        assert running.end() == 0


def test_children_do_not_outlive_a_killed_parent(redis_url: str, tmp_path: Path) -> None:
    with prefetchers(redis_url, tmp_path, None) as running:
        until("workers", lambda: running.working(2))
        children = [psutil.Process(pid) for pid in running.children().values()]
        running.process.kill()
        _, alive = psutil.wait_procs(children, timeout=DEADLINE_S)
        assert alive == []


async def test_a_lookup_under_way_is_finished_before_the_end(redis_url: str, tmp_path: Path, supabase: Standin) -> None:
    with prefetchers(redis_url, tmp_path, supabase, PREFETCH_TIMEOUT="20") as running, queueing(redis_url) as queue:
        until("workers", lambda: running.working(2))
        supabase.control_now(latency_ms=1000, reset=True)
        assert await queue.enqueue(call(1))
        until("the lookup is under way", lambda: supabase.state_now()["counters"].get("requests"))
        assert running.end() == 0
        result = running.result("CA1")
        assert result is not None
        assert result.outcome == "found"


def test_a_job_of_the_aftercall_queue_runs_when_its_time_has_come(redis_url: str, tmp_path: Path) -> None:
    """Any function will do: the scheduler and the worker are what is proved."""
    with prefetchers(redis_url, tmp_path, None) as running:
        until("workers", lambda: running.working(2))
        with redis_door.for_rq(redis_url) as client:
            queue = Queue(AFTERCALL_QUEUE, connection=client, serializer=JSONSerializer)
            job = queue.enqueue_in(timedelta(seconds=0.1), "time.time")
            until("the job ran", lambda: job.get_status(refresh=True) == "finished")
        assert running.end() == 0


async def test_a_repeated_webhook_is_looked_up_once(redis_url: str, tmp_path: Path, supabase: Standin) -> None:
    with prefetchers(redis_url, tmp_path, supabase) as running, queueing(redis_url) as queue:
        until("workers", lambda: running.working(2))
        assert await queue.enqueue(call(1))
        assert await queue.enqueue(call(1))
        until("a result", lambda: running.result("CA1"))
        assert await queue.enqueue(call(1))
        assert await queue.enqueue(call(2))
        until("the next result", lambda: running.result("CA2"))
        assert running.redis.xlen(keys.customer(CallSid("CA1"))) == 1
        assert running.end() == 0


def test_jobs_that_were_given_up_are_counted(redis_url: str, tmp_path: Path) -> None:
    """One that cannot be read is never tried again; it waits for somebody to look at it."""

    def dead_letters() -> float:
        text = running.page()
        [family] = [each for each in text_string_to_metric_families(text) if each.name == "offhook_dead_letters"]
        return family.samples[0].value

    with prefetchers(redis_url, tmp_path, None) as running, redis_door.for_rq(redis_url) as redis:
        until("workers", lambda: running.working(2))
        assert dead_letters() == 0
        Queue(AFTERCALL_QUEUE, connection=redis, serializer=JSONSerializer).enqueue("worker.jobs.aftercall.store", "{}")
        until("it is counted", lambda: dead_letters() == 1)
        assert running.end() == 0


def test_a_wrong_setting_and_a_taken_port_end_with_status_2(redis_url: str, tmp_path: Path) -> None:
    with prefetchers(redis_url, tmp_path, None, SUPABASE_URL="https://x.example") as running:
        assert running.process.wait(DEADLINE_S) == 2
    assert running.noise == ["offhook: SUPABASE_SECRET_KEY: missing beside SUPABASE_URL\n"]
    with prefetchers(redis_url, tmp_path, None, POOL_METRICS_HOST="no such host") as running:
        assert running.process.wait(DEADLINE_S) == 2
    (line,) = running.noise
    assert line.startswith("offhook: POOL_METRICS_HOST: no such host:0: ")
    with prefetchers(redis_url, tmp_path, None) as first:
        until("it listens", lambda: first.said("prefetchers started"))
        port = str(first.said("prefetchers started")[0]["metrics_port"])
        with prefetchers(redis_url, tmp_path, None, PREFETCH_METRICS_PORT=port) as second:
            assert second.process.wait(DEADLINE_S) == 2
        assert second.noise[0].startswith("offhook: PREFETCH_METRICS_PORT: ")
        assert first.end() == 0


def test_the_job_is_found_under_its_name() -> None:
    """The router knows the job only as a string."""
    from rq.utils import import_attribute

    from worker.jobs.customer import prefetch

    assert import_attribute(JOB) is prefetch


async def test_the_queues_are_on_the_page_and_a_hanging_redis_does_not_keep_it(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    def shown() -> dict[str, float]:
        return {
            sample.labels.get("queue", "") + sample.labels.get("state", "") or sample.name: sample.value
            for family in text_string_to_metric_families(running.page())
            if family.name.startswith("offhook_rq_")
            for sample in family.samples
            if sample.name != "offhook_rq_oldest_job_seconds"
        }

    with prefetchers(redis_server.url, tmp_path, None) as running:
        until("workers", lambda: running.working(2))
        with redis_door.for_rq(redis_server.url) as client:
            queue = Queue(AFTERCALL_QUEUE, connection=client, serializer=JSONSerializer)
            queue.enqueue_in(timedelta(hours=1), "time.time")
        assert shown()["aftercallscheduled"] == 1
        assert shown()["prefetchqueued"] == 0
        os.kill(redis_server.pid, signal.SIGSTOP)
        assert shown() == {"offhook_rq_up": 0}
        os.kill(redis_server.pid, signal.SIGCONT)
        until("it is seen again", lambda: shown()["offhook_rq_up"] == 1)
        assert running.end() == 0
