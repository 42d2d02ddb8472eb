"""The stand-ins of a deployment without keys: their file, their end, and calls to what is started with nothing but that file."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from deploy.demo import customers
from deploy.demo.standins import lines, write
from deploy.demo.trouble import Trouble
from shared.settings import Settings
from tests.launch import launch
from tests.stack import Part, free_ports
from tests.standins.process import running

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.launch import Launched
    from tests.redis_server import RedisServer

ROOT = Path(__file__).resolve().parents[2]
KEPT = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG", "VIRTUAL_ENV"}}
PORTS = {"cartesia": 8001, "openai_api": 8002, "supabase_api": 8003}
DEADLINE_S = 60.0


class Standins:
    """A process of stand-ins, its log lines, and what it wrote."""

    def __init__(self, process: Launched, out: Any, file: Path) -> None:
        self.process = process
        self.file = file
        self.said: list[dict[str, Any]] = []
        self._out = out

    def until(self, event: str) -> dict[str, Any]:
        """Read its log up to an event; an end before that fails."""
        for line in self._out:
            assert line.startswith("{"), line
            self.said.append(json.loads(line))
            if self.said[-1]["event"] == event:
                return self.said[-1]
        raise AssertionError(f"it ended without {event!r}: {self.said}")

    def pids(self) -> dict[str, int]:
        """Give the processes that were started, by vendor."""
        return {line["vendor"]: line["pid"] for line in self.said if line["event"] == "stand-in listens"}

    def values(self) -> dict[str, str]:
        """Give the settings of the file."""
        return dict(line.split("=", 1) for line in self.file.read_text(encoding="utf-8").splitlines())


@contextmanager
def standins(folder: Path, *arguments: str, **env: str) -> Iterator[Standins]:
    """Start the stand-ins; at the end they are stopped, whatever they are doing."""
    file = folder / "settings.env"
    read, written = os.pipe()
    given = ["--settings", str(file), "--host-name", "127.0.0.1", "--speech", "scripted", *arguments]
    with os.fdopen(read) as out, Path(os.devnull).open("rb") as nothing, (folder / "stderr").open("wb") as error:
        descriptors = (nothing.fileno(), written, error.fileno())
        process = launch("deploy.demo.standins", given, KEPT | env, str(folder), descriptors)
        os.close(written)
        try:
            yield Standins(process, out, file)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(DEADLINE_S)


@pytest.fixture(autouse=True)
def _found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KEPT, "PYTHONPATH", str(ROOT))  # they run in a folder without a .env


def settings(**given: Any) -> Settings:
    return Settings(_env_file=None, **given)


# --- what the file says -----------------------------------------------------------------------------------------------


def test_the_file_has_what_router_pool_and_prefetchers_need() -> None:
    values = lines(settings(), "standins", PORTS)
    assert values["CARTESIA_TTS_URL"] == "ws://standins:8001/tts/websocket"
    assert values["OPENAI_BASE_URL"] == "http://standins:8002/v1"
    assert values["SUPABASE_URL"] == "http://standins:8003"
    assert values["PUBLIC_BASE_URL"] == "http://127.0.0.1:8080"
    assert values["CALL_RECORDS"] == "false"
    settings(**{name.lower(): value for name, value in values.items()})


def test_the_token_is_another_each_time() -> None:
    tokens = {lines(settings(), "standins", PORTS)["TWILIO_AUTH_TOKEN"] for _ in range(3)}
    assert len(tokens) == 3


@pytest.mark.parametrize(
    ("given", "absent"),
    [
        ({"openai_api_key": "sk-real"}, {"OPENAI_API_KEY", "OPENAI_BASE_URL"}),
        (
            {"cartesia_api_key": "real"},
            {"CARTESIA_API_KEY", "CARTESIA_TTS_URL", "CARTESIA_STT_URL", "CARTESIA_VOICE_ID"},
        ),
        (
            {"supabase_url": "https://x.supabase.co", "supabase_secret_key": "sb_secret_x"},
            {"SUPABASE_URL", "SUPABASE_SECRET_KEY", "CALL_RECORDS"},
        ),
        ({"twilio_auth_token": "mine"}, {"TWILIO_AUTH_TOKEN"}),
        ({"twilio_account_sid": "AC1"}, {"TWILIO_ACCOUNT_SID"}),
        ({"public_base_url": "https://voice.example.com"}, {"PUBLIC_BASE_URL"}),
    ],
)
def test_a_vendor_that_somebody_has_a_key_of_is_not_replaced(given: dict[str, str], absent: set[str]) -> None:
    every = lines(settings(), "standins", PORTS).keys()
    assert every - lines(settings(**given), "standins", PORTS).keys() == absent


def test_the_file_is_for_its_owner_and_group_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "settings.env"
    before = os.umask(0o077)
    try:
        write(file, {"A": "1"})
        write(file, {"A": "2", "B": "3"})
    finally:
        os.umask(before)
    assert file.read_text() == "A=2\nB=3\n"
    assert file.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [file]


# --- who is in the database -------------------------------------------------------------------------------------------


async def test_callers_are_added_to_the_regulars_and_a_number_is_nobody_elses() -> None:
    async with running("supabase_api") as database:
        now = datetime.now(UTC)
        phones = customers.callers(3)
        assert customers.add(database.url, customers.regulars(now))
        assert customers.add(database.url, customers.planted(customers.codes(phones)))
        names = {phone: _context(database.url, phone)["customer"]["name"] for phone, _, _ in customers.REGULARS}
        assert names == {phone: name for phone, name, _ in customers.REGULARS}
        (coming,) = _context(database.url, customers.REGULARS[0][0])["next"]
        assert now < datetime.fromisoformat(coming["starts_at"]) < now + timedelta(days=3)
        assert _context(database.url, phones[0])["facts"].keys() == {"reference_code"}
    assert len(set(phones)) == 3


async def test_nothing_is_planted_where_there_is_no_stand_in_for_a_database() -> None:
    async with running("openai_api") as other:
        assert not customers.add(other.url, [])
    with pytest.raises(Trouble, match=r"SUPABASE_URL: .* does not answer"):
        customers.add(f"http://127.0.0.1:{free_ports(1)[0]}", [])


def _context(url: str, phone: str) -> dict[str, Any]:
    body = json.dumps({"p_phone": phone}).encode()
    request = urllib.request.Request(f"{url}/rest/v1/rpc/customer_context", body, {"apikey": "any"})  # noqa: S310 - loopback
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        found: dict[str, Any] = json.load(answer)
    return found


# --- how they end -----------------------------------------------------------------------------------------------------


@pytest.mark.system
def test_a_stop_ends_every_stand_in_removes_the_file_and_is_no_failure(tmp_path: Path) -> None:
    left = tmp_path / "settings.env"
    left.write_text("TWILIO_AUTH_TOKEN=of-stand-ins-that-were-killed\n")
    with standins(tmp_path, "--first-port", "0", SETTINGS_FILE=str(left)) as started:
        started.until("stand-ins ready")
        token = started.values()["TWILIO_AUTH_TOKEN"]
        assert token != "of-stand-ins-that-were-killed"
        assert token not in str(started.said)
        pids = started.pids()
        assert set(pids) == {"Cartesia", "OpenAI", "Supabase"}
        started.process.send_signal(signal.SIGTERM)
        assert started.process.wait(DEADLINE_S) == 0
    assert not any(psutil.pid_exists(pid) for pid in pids.values())
    assert not left.exists()


@pytest.mark.system
def test_a_stop_while_they_start_leaves_nothing(tmp_path: Path) -> None:
    with standins(tmp_path, "--first-port", "0") as started:
        first = started.until("stand-in listens")
        started.process.send_signal(signal.SIGTERM)
        assert started.process.wait(DEADLINE_S) == 0
        started.until("stand-ins stopped")
    assert not psutil.pid_exists(first["pid"])
    assert list(tmp_path.iterdir()) == [tmp_path / "stderr"]


@pytest.mark.system
def test_a_stand_in_that_dies_is_named_and_takes_the_others_with_it(tmp_path: Path) -> None:
    with standins(tmp_path, "--first-port", "0") as started:
        started.until("stand-ins ready")
        pids = started.pids()
        os.kill(pids["OpenAI"], signal.SIGKILL)
        failed = started.until("stand-ins failed")
        assert started.process.wait(DEADLINE_S) == 1
    assert "stand-in for OpenAI ended with status -9" in failed["error"]
    assert not any(psutil.pid_exists(pid) for pid in pids.values())
    assert not started.file.exists()


@pytest.mark.system
def test_a_port_that_is_taken_is_said_by_the_name_of_who_wanted_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = int(taken.getsockname()[1])
        with standins(tmp_path, "--first-port", str(port)) as started:
            assert "stand-in for Cartesia did not start" in started.until("stand-ins failed")["error"]
            assert started.process.wait(DEADLINE_S) == 1
    assert "Address already in use" in (tmp_path / "stderr").read_text()


@pytest.mark.parametrize(
    ("folder", "env", "words"),
    [
        ("absent", {}, "--settings: absent/settings.env: No such file or directory"),
        (".", {"LOG_LEVEL": "LOUD"}, "LOG_LEVEL: must be"),
    ],
)
def test_what_cannot_be_used_is_one_line_before_anything_starts(
    tmp_path: Path, folder: str, env: Mapping[str, str], words: str
) -> None:
    command = [sys.executable, "-m", "deploy.demo.standins", "--settings", f"{folder}/settings.env"]
    done = subprocess.run(command, cwd=tmp_path, env={**KEPT, **env}, capture_output=True, text=True, check=False)
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"offhook: {words}")
    assert done.returncode == 2
    assert done.stdout == ""


def test_process_1_waits_for_what_others_have_left_and_not_for_the_stand_ins(tmp_path: Path) -> None:
    script = """
import os, subprocess, sys
from pathlib import Path
from types import SimpleNamespace
from deploy.demo.standins import reap_orphans

def ended():
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    return child

stray = ended()
reap_orphans(SimpleNamespace(started=[]))
try:
    os.waitpid(stray.pid, os.WNOHANG)
except ChildProcessError:
    print("the stray was waited for")
own = ended()
reap_orphans(SimpleNamespace(started=[own]))
print("a stand-in's status:", os.waitpid(own.pid, os.WNOHANG)[0] == own.pid)
"""
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=KEPT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["the stray was waited for", "a stand-in's status: True"], done.stderr


# --- calls ------------------------------------------------------------------------------------------------------------


async def _calls(folder: Path, *arguments: str, **env: str) -> tuple[int | None, str, str]:
    """Run `python -m deploy.demo call` and give status, stdout and stderr."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "deploy.demo", "call", *arguments),
        cwd=folder,
        env=KEPT | env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, error = await process.communicate()
    return process.returncode, out.decode(), error.decode()


@pytest.mark.system
async def test_a_deployment_that_knows_nothing_but_that_file_answers_calls(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    with standins(tmp_path, "--first-port", "0") as started:
        await asyncio.to_thread(started.until, "stand-ins ready")
        router, pool, prefetcher = free_ports(3)
        env = KEPT | {
            "SETTINGS_FILE": str(started.file),
            "REDIS_URL": redis_server.url,
            "HANDOFF_DIR": str(tmp_path / "handoff"),
            "ROUTER_PORT": str(router),
            "POOL_METRICS_PORT": str(pool),
            "PREFETCH_METRICS_PORT": str(prefetcher),
        }
        parts = [Part(name, env, tmp_path) for name in ("router", "pool", "prefetcher")]
        try:
            for part in parts:
                part.start()
            await asyncio.to_thread(_ready, router)
            url, file = f"http://127.0.0.1:{router}", str(started.file)
            values = started.values()
            # as from a host that has a published port and a token, and no way to the database
            known = ("--public-url", values["PUBLIC_BASE_URL"], "--token", values["TWILIO_AUTH_TOKEN"])
            inside, outside, stranger = await asyncio.gather(
                _calls(tmp_path, "--url", url, "--judge", "tones", "--calls", "2", "--at-once", SETTINGS_FILE=file),
                _calls(tmp_path, "--url", url, "--judge", "none", *known),
                _calls(tmp_path, "--url", url, "--judge", "none", "--token", "another"),
            )
        finally:
            statuses = [await asyncio.to_thread(part.terminate) for part in parts]
    status, out, error = inside
    assert (status, error) == (0, ""), out
    assert out.count("Your reference code is ") == out.count("(the agent hung up)") == 2
    assert "start → first audio" in out
    assert "customer in context" not in out  # only the pool's log tells
    status, out, error = outside
    assert (status, error) == (0, ""), out
    assert "no stand-in for Supabase" in out
    assert " s of sound]" in out
    status, _, error = stranger
    assert status == 1
    assert "the router refuses the signature; PUBLIC_BASE_URL" in error
    assert statuses == [0, 0, 0]


def _ready(port: int) -> None:
    """Wait until the router has a worker: what a health check of a container asks."""
    ends = time.monotonic() + DEADLINE_S
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10):
                return
        except OSError:
            assert time.monotonic() < ends
            time.sleep(0.05)


async def test_a_router_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    status, _, error = await _calls(tmp_path, "--url", url, "--token", "any", "--judge", "none")
    assert status == 1
    assert error == "offhook: call: the router does not answer; see what the router logs\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--url", "http://127.0.0.1:1", "--judge", "none"], "TWILIO_AUTH_TOKEN: missing; give --token"),
        (["--url", "https://voice.example.com", "--token", "any", "--judge", "none"], "without TLS: http://host:port"),
        (["--url", "http://127.0.0.1:1", "--calls", "0", "--judge", "none"], "--calls: 0; 1 to 100"),
        (
            ["--url", "http://127.0.0.1:1", "--public-url", "ftp://x", "--token", "any", "--judge", "none"],
            "PUBLIC_BASE_URL: must be an absolute URL",
        ),
    ],
)
async def test_calls_that_cannot_be_placed_are_one_line(tmp_path: Path, arguments: list[str], words: str) -> None:
    status, _, error = await _calls(tmp_path, *arguments)
    assert status == 1
    assert words in error
    assert error.count("\n") == 1
