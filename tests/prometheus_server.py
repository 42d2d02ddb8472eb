"""A real Prometheus for tests: Debian's package on a free loopback port, which forgets everything when it is stopped.

    with PrometheusServer({"pool": ["127.0.0.1:9100"]}, rules=[RULES / "alerts.yml"]) as prometheus:
        prometheus.until(lambda: prometheus.query('up{job="pool"} == 1'), "the pool is scraped")

Its methods block: on an event loop they belong in `asyncio.to_thread`. A new Prometheus takes 5 s to its first scrape: so
long its service discovery waits before it hands on what it has found.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from tests.debian import unpacked

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

DEADLINE_S: Final = 30.0
STOP_DEADLINE_S: Final = 10.0
LISTENING: Final = re.compile(r'msg="Listening on" address=(\S+)')


class PrometheusRefused(Exception):
    """Prometheus did not accept a query; its message says why."""


@dataclass(frozen=True, slots=True)
class Series:
    """One series of an answer: its labels and its samples, each a Unix time in seconds and a value."""

    labels: Mapping[str, str]
    samples: tuple[tuple[float, float], ...]

    @property
    def value(self) -> float:
        """The newest sample's."""
        return self.samples[-1][1]


class PrometheusServer:
    """One Prometheus. `jobs` gives the targets (`host:port`) of each job, `rules` are files of rules.

    `more` is added to its configuration: `alerting`, another `scrape_configs`. Rules are evaluated as often as targets are
    scraped.
    """

    def __init__(
        self,
        jobs: Mapping[str, Sequence[str]],
        *,
        rules: Sequence[Path] = (),
        interval_s: float = 0.5,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="offhook-prometheus-"))
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""
        every = f"{round(interval_s * 1000)}ms"
        self.config = {
            "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
            "rule_files": [str(path.resolve()) for path in rules],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": list(targets)}]} for job, targets in jobs.items()
            ],
        } | dict(more or {})

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def log(self) -> str:
        """Everything it has printed."""
        path = self._folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        """Start it and return when it answers queries."""
        program = unpacked("prometheus") / "usr/bin/prometheus"
        config = self._folder / "prometheus.yml"
        config.write_text(json.dumps(self.config))  # every JSON document is one of YAML, too
        options = [f"--config.file={config}", f"--storage.tsdb.path={self._folder / 'data'}"]
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [str(program), *options, "--web.listen-address=127.0.0.1:0", "--web.enable-lifecycle"],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C at the terminal is for the tests, which stop it
            )
        self.until(self._answers, "Prometheus answers")

    def close(self) -> None:
        """Stop it and remove its folder; harmless when it is stopped."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(STOP_DEADLINE_S)
            self._process = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def query(self, expression: str, at: float | None = None) -> list[Series]:
        """Ask for the value of an expression, now or at a Unix time. Raises PrometheusRefused."""
        asked = {"query": expression} | ({} if at is None else {"time": str(at)})
        return _series(self._ask("query", asked))

    def query_range(self, expression: str, start: float, end: float, step_s: float) -> list[Series]:
        """Ask for the values of an expression between two Unix times. Raises PrometheusRefused."""
        asked = {"query": expression, "start": str(start), "end": str(end), "step": str(step_s)}
        return _series(self._ask("query_range", asked))

    def targets(self) -> list[dict[str, Any]]:
        """Give its targets as it describes them: `labels`, `health` (`up`), `lastError`, `scrapeUrl`."""
        return list(self._ask("targets", {"state": "active"})["activeTargets"])

    def alerts(self) -> list[dict[str, Any]]:
        """Give the alerts that are pending or firing: `labels`, `annotations`, `state`."""
        return list(self._ask("alerts")["alerts"])

    def rules(self) -> list[dict[str, Any]]:
        """Give every rule it has loaded: `name`, `type`, `health` (`ok` once it was evaluated), `lastError`."""
        return [rule for group in self._ask("rules")["groups"] for rule in group["rules"]]

    def all_up(self) -> bool:
        """Say whether every target of its configuration was scraped with success the last time."""
        wanted = sum(len(one["targets"]) for job in self.config["scrape_configs"] for one in job["static_configs"])
        found = self.targets()
        return len(found) == wanted and all(target["health"] == "up" for target in found)

    def until(self, condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
        """Wait until something holds and give its value; what a scrape brings announces itself to nobody."""
        ends = time.monotonic() + deadline_s
        while not (value := condition()):
            assert self._process is not None, "Prometheus is not running"
            assert self._process.poll() is None, f"Prometheus ended: {self.log[-2000:]}"
            assert time.monotonic() < ends, f"not within {deadline_s:.0f} s: {what}\n{self.log[-2000:]}"
            time.sleep(0.05)
        return value

    def _answers(self) -> bool:
        found = LISTENING.search(self.log)
        if found is None:
            return False
        self.url = f"http://{found[1]}"
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=DEADLINE_S) as answer:  # noqa: S310 - loopback
                return bool(answer.status == 200)
        except OSError:  # 503 while it starts
            return False

    def _ask(self, what: str, asked: Mapping[str, str] | None = None) -> Any:
        page = f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(asked or {})}"
        try:
            with urllib.request.urlopen(page, timeout=DEADLINE_S) as answer:  # noqa: S310 - loopback
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise PrometheusRefused(f"{json.load(error).get('error')}: {asked}") from None


def _series(data: Mapping[str, Any]) -> list[Series]:
    """Read a result: a scalar is one series without labels."""
    if data["resultType"] == "scalar":
        return [Series({}, (_sample(data["result"]),))]
    return [
        Series(found["metric"], tuple(_sample(each) for each in found.get("values") or [found["value"]]))
        for found in data["result"]
    ]


def _sample(pair: Sequence[Any]) -> tuple[float, float]:
    return float(pair[0]), float(pair[1])
