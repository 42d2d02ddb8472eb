"""The runner: settings said at once, one stop for all, in order."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from deploy import run

ROOT = Path(__file__).resolve().parents[2]

# Writes its name when it is up, and again when it is told to end.
POLITE = """
import pathlib, signal, sys
log = pathlib.Path(sys.argv[1])
def note(word):
    with log.open("a") as out:
        out.write(f"{word} {sys.argv[2]}\\n")
def leave(*_):
    note("stopped")
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
note("up")
while True:
    signal.pause()
"""
DEAF = POLITE.replace("signal.signal(signal.SIGTERM, leave)", "signal.signal(signal.SIGTERM, signal.SIG_IGN)")


def commands(log: Path, *programs: str) -> dict[str, list[str]]:
    return {f"p{number}": ["-c", program, str(log), f"p{number}"] for number, program in enumerate(programs)}


def up(log: Path, count: int) -> None:
    """Wait until so many have said that they are up: a file is all they share with the test."""
    ends = time.monotonic() + 60
    while not log.exists() or log.read_text().count("up ") < count:
        assert time.monotonic() < ends
        time.sleep(0.01)


async def test_one_signal_stops_all_in_order_and_exits_0(tmp_path: Path) -> None:
    log = tmp_path / "log"
    running = asyncio.create_task(run.run(commands(log, POLITE, POLITE, POLITE)))
    await asyncio.to_thread(up, log, 3)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await running == 0
    assert [line for line in log.read_text().splitlines() if "stopped" in line] == [
        "stopped p0",
        "stopped p1",
        "stopped p2",
    ]


async def test_a_process_that_ends_by_itself_stops_the_others_and_gives_its_status(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    assert await run.run(commands(log, POLITE, "import sys; sys.exit(7)")) == 7
    assert "p1 ended with status 7" in capfd.readouterr().err


async def test_a_process_killed_from_outside_is_a_failure(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert await run.run(commands(log, POLITE, "import os; os.kill(os.getpid(), 9)")) == 1


async def test_a_second_signal_does_not_wait(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    running = asyncio.create_task(run.run(commands(log, DEAF, POLITE)))
    await asyncio.to_thread(up, log, 2)
    os.kill(os.getpid(), signal.SIGINT)
    said = ""
    while "calls in progress" not in said:
        await asyncio.sleep(0.01)
        said += capfd.readouterr().err
    os.kill(os.getpid(), signal.SIGINT)
    assert await running == 1


async def test_every_missing_setting_is_said_before_anything_starts(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG"}}
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "deploy.run"),
        cwd=tmp_path,  # where there is no .env
        env={**env, "PYTHONPATH": str(ROOT), "PUBLIC_BASE_URL": "https://voice.example.test", "POOL_READY": "none"},
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await child.communicate()
    lines = said.decode().splitlines()
    assert child.returncode == 2
    assert all(line.startswith("offhook: ") for line in lines)
    assert any("POOL_READY" in line for line in lines)
