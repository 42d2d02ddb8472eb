"""What the exporter of Redis is started with."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Final

import pytest

from tests.standins.process import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SCRIPT: Final = ROOT / "deploy" / "prometheus" / "redis_exporter.py"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder with an exporter that says what it was given, and a file with an address."""
    program = tmp_path / "prometheus-redis-exporter"
    program.write_text('#!/bin/sh\necho "$*|$REDIS_ADDR|$OPENAI_API_KEY"\n', encoding="utf-8")
    program.chmod(0o755)
    (tmp_path / "url").write_text("redis://:from-file@redis:6379\n", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ({}, "redis://redis:6379"),
        ({"REDIS_URL": ""}, "redis://redis:6379"),
        ({"REDIS_URL": "redis://:secret@elsewhere:6380/1"}, "redis://:secret@elsewhere:6380/1"),
        ({"REDIS_URL_FILE": "url"}, "redis://:from-file@redis:6379"),
    ],
)
def test_it_watches_the_redis_of_the_settings_and_is_told_nothing_else(
    folder: Path, given: Mapping[str, str], address: str
) -> None:
    env = {"PATH": f"{folder}:/bin:/usr/bin", "OPENAI_API_KEY": "sk-secret", **given}
    done = subprocess.run(
        [sys.executable, SCRIPT], cwd=folder, env=env, capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.strip() == f"-web.listen-address :9121|{address}|"
