"""What operators get wrong, at real processes: one line with the setting's name, exit 2, and no storm of starts or of lines."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from redis import Redis

from shared.channel import Channel
from shared.framing import FROM_POOL
from shared.messages import PROTOCOL_VERSION, Hello, Welcome
from tests.fakes_pool import FakePool
from tests.pool_process import running_pool
from tests.stack import ROOT, Plan, Stack
from tests.system.talk import greeted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.redis_server import RedisServer

pytestmark = pytest.mark.system

DEADLINE_S: Final = 60.0
LONG_PAUSE: Final = {"RESTART_PAUSE": "3600"}
"""Far beyond what any test waits for."""

MODULES: Final = ("router", "worker", "worker.prefetcher")
GOOD: Final = {
    "PUBLIC_BASE_URL": "https://voice.example.test",
    "TWILIO_AUTH_TOKEN": "a-made-up-auth-token",
    "OPENAI_API_KEY": "made-up",
    "CARTESIA_API_KEY": "made-up",
    "CARTESIA_VOICE_ID": "made-up",
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "ROUTER_HOST": "127.0.0.1",
    "POOL_METRICS_HOST": "127.0.0.1",
    "ROUTER_PORT": "0",
    "POOL_METRICS_PORT": "0",
    "PREFETCH_METRICS_PORT": "0",
}
MISSING: Final = {
    "router": ({"PUBLIC_BASE_URL": "", "TWILIO_AUTH_TOKEN": ""}, ["PUBLIC_BASE_URL", "TWILIO_AUTH_TOKEN"]),
    "worker": ({"OPENAI_API_KEY": "", "CARTESIA_API_KEY": ""}, ["OPENAI_API_KEY", "CARTESIA_API_KEY"]),
    "worker.prefetcher": (
        {"WHATSAPP_FROM": "+15550001111", "TWILIO_AUTH_TOKEN": ""},
        ["TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN"],
    ),
}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name, which everybody may search."""
    with tempfile.TemporaryDirectory(prefix="offhook-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def start(module: str, folder: Path, *before: str, **changes: str) -> subprocess.Popen[str]:
    """Start a process of ours, with a command before it."""
    return run([*before, sys.executable, "-m", module], folder, changes)


def run(command: list[str], folder: Path, changes: Mapping[str, str]) -> subprocess.Popen[str]:
    """Run a command in the environment of a process of ours."""
    kept = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HANDOFF_DIR": str(folder / "handoff")}
    return subprocess.Popen(
        command,
        env={**kept, **GOOD, **changes},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """Have a process that a failing test leaves."""
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def refused(module: str, folder: Path, *before: str, **changes: str) -> list[str]:
    """Start a process that must refuse; give what it says."""
    return refusal(start(module, folder, *before, **changes))


def refusal(started: subprocess.Popen[str]) -> list[str]:
    """Give what a process says that must refuse."""
    with ended(started) as process:
        out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 2, (out, err)
    assert all(line.startswith("offhook: ") for line in err.splitlines()), err
    return [line.removeprefix("offhook: ") for line in err.splitlines()]


def lines_of(process: subprocess.Popen[str], count: int) -> list[str]:
    """Give the first lines it says of what is wrong."""
    assert process.stderr is not None
    return [process.stderr.readline().strip() for _ in range(count)]


@pytest.mark.parametrize("module", MODULES)
def test_what_is_missing_is_said_once_and_the_pause_ends_at_once_when_it_is_told_to_stop(
    folder: Path, module: str
) -> None:
    changes, names = MISSING[module]
    with ended(start(module, folder, **LONG_PAUSE, **changes)) as process:
        assert lines_of(process, len(names)) == [f"offhook: {name}: missing" for name in names]
        process.terminate()
        out, err = process.communicate(timeout=DEADLINE_S)
        assert (process.returncode, err) == (2, ""), "each line once, and nothing more"
    assert out == ""


@pytest.mark.parametrize("module", MODULES)
def test_the_pause_ends_by_itself(folder: Path, module: str) -> None:
    changes, names = MISSING[module]
    assert refused(module, folder, RESTART_PAUSE="0.05", **changes) == [f"{name}: missing" for name in names]
    assert refused(module, folder, RESTART_PAUSE="soon", **changes)[-1].startswith("RESTART_PAUSE: ")


def test_it_is_ended_as_the_first_process_of_a_container_too(folder: Path) -> None:
    """The kernel keeps signals without a handler from such a process."""
    as_first = ("unshare", "--pid", "--fork", "--kill-child")
    _can(*as_first, "true")
    for module in MODULES:
        changes, names = MISSING[module]
        with ended(start(module, folder, *as_first, **LONG_PAUSE, **changes)) as process:
            lines_of(process, len(names))
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            assert "NSpid" in Path(f"/proc/{children[0]}/status").read_text()
            waits = Path(f"/proc/{children[0]}/wchan")
            _until(lambda waits=waits: "sigtimedwait" in waits.read_text())
            os.kill(int(children[0]), signal.SIGTERM)
            _, err = process.communicate(timeout=DEADLINE_S)
            assert (process.returncode, err) == (2, ""), module


def _until(condition: Any) -> None:
    """Look until something of the kernel's is so; there is no event to wait for."""
    process = subprocess.Popen(["sleep", str(DEADLINE_S)])
    try:
        while not condition():
            assert process.poll() is None, "it never was"
    finally:
        process.kill()
        process.wait()


def _can(*command: str) -> None:
    """Skip where this cannot be done."""
    if shutil.which(command[0]) is None or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip(f"cannot run {' '.join(command[:3])} here")


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("router", "ROUTER_PORT"),
        ("router", "ROUTER_METRICS_PORT"),
        ("worker", "POOL_METRICS_PORT"),
        ("worker.prefetcher", "PREFETCH_METRICS_PORT"),
    ],
)
def test_a_port_that_is_taken_is_one_line(folder: Path, module: str, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (line,) = refused(module, folder, **{name: str(port)})
    assert line.startswith(f"{name}: ")
    assert line.endswith(f"127.0.0.1:{port}: Address already in use")


def test_nobody_waits_at_a_port_of_a_process_that_refuses(folder: Path) -> None:
    """It holds none while it pauses: whoever came would hear nothing, and its successor could not have it."""
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as other:
        port, free = taken.getsockname()[1], other.getsockname()[1]
        other.close()
        for module, taken_name, free_name in (
            ("router", "ROUTER_METRICS_PORT", "ROUTER_PORT"),
            ("worker", "HANDOFF_DIR", "POOL_METRICS_PORT"),
        ):
            wrong = {"HANDOFF_DIR": "/dev/null"} if taken_name == "HANDOFF_DIR" else {taken_name: str(port)}
            with ended(start(module, folder, **LONG_PAUSE, **wrong, **{free_name: str(free)})) as process:
                (line,) = lines_of(process, 1)
                assert line.startswith(f"offhook: {taken_name}: ")
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection(("127.0.0.1", free)).close()
                process.terminate()
                process.communicate(timeout=DEADLINE_S)


@pytest.mark.parametrize("module", ["router", "worker"])
def test_a_folder_for_sockets_that_cannot_be_had_is_one_line(folder: Path, module: str) -> None:
    (folder / "file").touch()
    assert refused(module, folder, HANDOFF_DIR=f"{folder}/file") == [f"HANDOFF_DIR: {folder}/file: is not a folder"]
    (line,) = refused(module, folder, HANDOFF_DIR=f"{folder}/{'x' * 120}")
    assert "the path of a Unix socket at most 107" in line


@pytest.mark.parametrize(("module", "mode"), [("router", 0o700), ("worker", 0o700), ("worker", 0o755)])
def test_a_folder_of_another_user_is_one_line_that_says_whose_it_is(folder: Path, module: str, mode: int) -> None:
    _can("setpriv", "--reuid", "65534", "--clear-groups", "test", "-r", str(ROOT / "audio_assets" / "manifest.toml"))
    (folder / "handoff").mkdir()
    (folder / "handoff").chmod(mode)
    # what it imports may be in a folder of root's
    as_nobody = f"import os, encodings.idna, {module}.__main__ as module; os.setresuid(*[65534] * 3); module.main()"
    (line,) = refusal(run([sys.executable, "-c", as_nobody], folder, {}))
    assert line.startswith(f"HANDOFF_DIR: {folder}/handoff: Permission denied: it belongs to uid {os.getuid()} ")
    assert line.endswith("this process is uid 65534")


@pytest.mark.parametrize(("module", "below"), [("router", "/new"), ("worker", "/new"), ("worker", "")])
def test_a_folder_on_a_file_system_that_is_read_only_is_one_line(folder: Path, module: str, below: str) -> None:
    (folder / "handoff").mkdir()
    mount = f"mount -t tmpfs -o ro none {folder}/handoff"
    _can("unshare", "--mount", "sh", "-c", mount)
    before = ("unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh")
    path = f"{folder}/handoff{below}"
    assert refused(module, folder, *before, HANDOFF_DIR=path) == [f"HANDOFF_DIR: {path}: Read-only file system"]


# --- versions -----------------------------------------------------------------------------------------------------------


async def test_a_router_says_that_its_pool_speaks_another_version_and_uses_the_one_that_does_not(folder: Path) -> None:
    (folder / "handoff").mkdir()
    old = FakePool(folder / "handoff", name="old", version=PROTOCOL_VERSION - 1)
    words = f"a pool speaks another version of the control protocol: theirs {PROTOCOL_VERSION - 1}, ours {PROTOCOL_VERSION} (old)"
    async with old.serving():
        with ended(start("router", folder)) as process:
            assert process.stdout is not None
            port = json.loads(await asyncio.to_thread(process.stdout.readline))["port"]
            url = f"http://127.0.0.1:{port}/readyz"
            status, said = await asyncio.to_thread(_page, url)
            assert (status, said["reason"]) == (503, words)
            check = (sys.executable, "-m", "shared.healthcheck", url)
            checked = await asyncio.to_thread(
                subprocess.run, check, cwd=ROOT, capture_output=True, text=True, check=False
            )
            assert (checked.returncode, checked.stdout) == (1, f"{url}: 503: {words}\n")
            async with FakePool(folder / "handoff", name="new").serving(), asyncio.timeout(DEADLINE_S):
                while status != 200:
                    status, said = await asyncio.to_thread(_page, url)
                assert said == {"ready": 4, "problems": [{"resource": "pool", "detail": words}]}
            process.terminate()
            out, _ = await asyncio.to_thread(process.communicate, timeout=DEADLINE_S)
            assert out.count("another version") == 1
    versions = [PROTOCOL_VERSION, PROTOCOL_VERSION - 1]
    assert [hello.version for hello in old.hellos] == versions, "it is not met again and again"


def _page(url: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(url, timeout=DEADLINE_S) as answer:  # noqa: S310 - a loopback address
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


async def test_a_pool_names_a_router_of_another_version_once_and_is_as_ready_as_before(tmp_path: Path) -> None:
    async with running_pool(tmp_path, ready=1) as pool:
        await (await pool.router()).ready(1)
        for _ in range(3):
            stranger = await _stranger(pool.socket)
            assert stranger == Welcome(version=PROTOCOL_VERSION, pool=stranger.pool, boot=stranger.boot)
        assert (await pool.get("/readyz"))[0] == 200
        await (await pool.router()).ready(1)
        assert len([line for line in pool.lines if "another version" in line["event"]]) == 1


async def _stranger(path: Path) -> Any:
    """Come in as a router of another version; give what it is told before the door is closed."""
    heard: list[Any] = []
    closed = asyncio.Event()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(str(path))
    channel = Channel(sock, FROM_POOL, lambda message, _fds: heard.append(message), lambda _why: closed.set())
    channel.send(Hello(version=PROTOCOL_VERSION + 1))
    async with asyncio.timeout(DEADLINE_S):
        await closed.wait()
    (said,) = heard
    return said


# --- Redis --------------------------------------------------------------------------------------------------------------


@pytest.mark.redis
async def test_a_redis_whose_password_was_not_given_is_one_line_of_each_process_and_one_when_it_lets_us_in(
    redis_server: RedisServer,
) -> None:
    """Both children of the prefetchers are processes; calls are served meanwhile."""
    with Redis.from_url(redis_server.url) as admin:
        admin.config_set("requirepass", "right-password")
        plan = Plan(pool_ready=1, redis=False, env={"REDIS_URL": redis_server.url})
        async with Stack(plan) as stack:

            def said(name: str, words: str) -> list[str]:
                return [str(line) for line in stack.parts[name].lines() if words in line["event"]]

            wanted = {"router": 1, "pool": 1, "prefetcher": 2}
            for name, count in wanted.items():
                away = await stack.until(lambda name=name: said(name, "redis does not answer"), name)  # type: ignore[misc]
                assert all("REDIS_URL: its password is missing or not accepted" in line for line in away), (count, away)
            async with stack.carrier() as carrier:
                for _ in range(2):
                    call = await carrier.dial()
                    await greeted(call)
                    await call.hangup()
                    await call.ended(DEADLINE_S)
                    await stack.ready()
            admin.config_set("requirepass", "")
            for name, words in (
                ("router", "hold line is shared"),
                ("pool", "answers again"),
                ("prefetcher", "answers again"),
            ):
                await stack.until(lambda name=name, words=words: len(said(name, words)) == wanted[name], name)  # type: ignore[misc]
            for name, count in wanted.items():
                assert len(said(name, "redis does not answer")) == count, stack.parts[name].log
                assert "Traceback" not in stack.parts[name].log
