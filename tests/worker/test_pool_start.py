"""What stops a pool before it listens: every problem by name, one line each, exit 2."""

from __future__ import annotations

import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.pool_process import COMMAND, DEADLINE_S, environment, eventually, running_pool

if TYPE_CHECKING:
    from pathlib import Path


def refused(folder: Path, **settings: str) -> list[str]:
    """Start a pool that must refuse; give what it said."""
    done = subprocess.run(
        COMMAND,
        env=environment(folder, **settings),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_missing_settings_are_listed_by_name(tmp_path: Path) -> None:
    assert refused(tmp_path, OPENAI_API_KEY="", CARTESIA_VOICE_ID="") == [
        "offhook: OPENAI_API_KEY: missing",
        "offhook: CARTESIA_VOICE_ID: missing",
    ]


def test_files_that_are_wrong_are_all_listed(tmp_path: Path) -> None:
    agents = tmp_path / "agents.toml"
    agents.write_text("[agents.default]\nlanguages = 'en'\n")
    lines = refused(tmp_path, AGENTS_FILE=str(agents), ASSETS_DIR=str(tmp_path))
    assert len(lines) == 2
    assert lines[0].startswith(f"offhook: AGENTS_FILE: {agents}: ")
    assert "manifest.toml" in lines[1]


def test_a_greeting_that_does_not_exist_is_named_with_who_wants_it(tmp_path: Path) -> None:
    agents = tmp_path / "agents.toml"
    agents.write_text("[agents.sales]\ngreeting_clip = 'sales.raw'\nnumbers = ['+15550002222']\n")
    lines = refused(tmp_path, AGENTS_FILE=str(agents), GREETING_AUDIO_CLIP="nothing")
    assert [line.split(":")[1].strip() for line in lines] == ["GREETING_AUDIO_CLIP", "AGENTS_FILE"]
    assert "agent sales" in lines[1]


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        lines = refused(tmp_path, POOL_METRICS_PORT=str(port))
    assert lines == [f"offhook: POOL_METRICS_PORT: 127.0.0.1:{port}: Address already in use"]


@pytest.mark.parametrize("host", ["no such host", "192.0.2.1"])
def test_a_host_that_is_not_ours_is_named(tmp_path: Path, host: str) -> None:
    (line,) = refused(tmp_path, POOL_METRICS_HOST=host)
    assert line.startswith(f"offhook: POOL_METRICS_HOST: {host}:0: ")
    assert "Errno" not in line


async def test_a_second_pool_of_the_same_name_is_refused_and_disturbs_nobody(tmp_path: Path) -> None:
    async with running_pool(tmp_path) as pool:
        lines = refused(tmp_path, POOL_ID="p1")
        assert lines == [f"offhook: POOL_ID: {pool.socket}: another pool answers there"]
        router = await pool.router()
        await router.ready(2)


@pytest.mark.parametrize("name", ["file", "long"])
def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path, name: str) -> None:
    folder = tmp_path / (name if name == "file" else "x" * 120)
    if name == "file":
        folder.touch()
    lines = refused(tmp_path, HANDOFF_DIR=str(folder))
    assert len(lines) == 1
    assert lines[0].startswith("offhook: HANDOFF_DIR: ")


RECORDED = {
    "RECORDING_ENABLED": "true",
    "RECORDS_WEBHOOK_URL": "http://127.0.0.1:1",
    "RECORDS_WEBHOOK_SECRET": "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
}


def test_what_would_keep_calls_from_being_recorded_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    lines = refused(tmp_path, RECORDING_CLIP="none-such", RECORDINGS_DIR=str(tmp_path / "file"), **RECORDED)
    assert [line.split(":")[1].strip() for line in lines] == ["RECORDING_CLIP", "RECORDINGS_DIR"]


async def test_agents_whose_calls_are_not_recorded_are_named_at_the_start_and_at_a_change(tmp_path: Path) -> None:
    agents = tmp_path / "agents.toml"
    agents.write_text("[agents.first]\nlanguage = 'pt-BR'\nnumbers = ['+15550002222']\n")
    settings = RECORDED | {"AGENTS_FILE": str(agents), "RECORDINGS_DIR": str(tmp_path / "recordings")}
    async with running_pool(tmp_path, ready=1, settings=settings) as pool:

        def named() -> list[list[str]]:
            return [line["agents"] for line in pool.lines if "are not recorded" in line["event"]]

        assert named() == [["first"]]
        agents.write_text("[agents.second]\nlanguage = 'es'\nnumbers = ['+15550002222']\n")
        await eventually(lambda: named() == [["first"], ["second"]])
