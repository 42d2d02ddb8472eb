"""A Supabase data API that is not ours: `@supabase/lite` from npm, on PostgreSQL in WebAssembly, with our migrations.

It is installed once into `.run/`, which is nobody's to commit. Starting it takes some five seconds and a gigabyte of memory.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx

from tests.postgres import MIGRATIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT: Final = Path(__file__).resolve().parents[1]
VERSION: Final = "0.10.0"
INSTALLED: Final = ROOT / ".run" / f"supabase-lite-{VERSION}"
PROGRAM: Final = INSTALLED / "node_modules" / "@supabase" / "lite" / "dist" / "cli" / "index.js"
OLDEST_NODE: Final = 20
INSTALL_DEADLINE_S: Final = 300.0
START_DEADLINE_S: Final = 120.0
STOP_DEADLINE_S: Final = 10.0

UNTIL_STDIN_CLOSES: Final = """
exec 3<&0 </dev/null
( ( read _ <&3; kill -KILL $$ ) & )
exec 3<&-
exec "$@"
"""
"""Tests that are killed would leave it behind. It has nothing to save."""

CONFIG: Final = """
[api]
port = {port}

[db]
driver = "pglite"
url = "supabase/.temp/data"

[db.migrations]
schema_paths = []

[db.seed]
sql_paths = []

[auth]
enabled = true
jwt_secret = "{jwt_secret}"
publishable_key = "{publishable_key}"
secret_key = "{secret_key}"
"""


class Unavailable(Exception):
    """It cannot be had on this machine; the message says why."""


def install() -> None:
    """Install it, unless it is there.

    Raises:
        Unavailable: there is no npm, Node is too old, or npm could not fetch it.
    """
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        raise Unavailable("npm is not installed: the migrations were not tried on @supabase/lite")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(re.findall(r"\d+", version)[0]) < OLDEST_NODE:
        raise Unavailable(f"@supabase/lite needs Node {OLDEST_NODE}, this is {version}")
    if PROGRAM.exists():
        return
    INSTALLED.mkdir(parents=True, exist_ok=True)
    (INSTALLED / "package.json").write_text('{"private": true}\n')  # without one npm climbs to a parent that has one
    how = ("--ignore-scripts", "--no-audit", "--no-fund", "--silent")
    command = [npm, "install", *how, f"@supabase/lite@{VERSION}"]
    run = subprocess.run(
        command, cwd=INSTALLED, capture_output=True, text=True, timeout=INSTALL_DEADLINE_S, check=False
    )
    if run.returncode != 0 or not PROGRAM.exists():
        raise Unavailable(f"npm could not install @supabase/lite: {(run.stderr or run.stdout).strip()[-300:]}")


class SupabaseLite:
    """One server on loopback with the migrations applied."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.secret_key = f"sb_secret_{secrets.token_urlsafe(16)}"
        self.publishable_key = f"sb_publishable_{secrets.token_urlsafe(16)}"
        self.url = ""

    def start(self, migrations: Sequence[Path] = MIGRATIONS) -> None:
        """Start it and return when it answers. The caller closes it."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = int(free.getsockname()[1])
        supabase = self._folder / "supabase"
        (supabase / "migrations").mkdir(parents=True)
        for path in migrations:
            shutil.copyfile(path, supabase / "migrations" / path.name)
        keys = {"publishable_key": self.publishable_key, "secret_key": self.secret_key}
        (supabase / "config.toml").write_text(CONFIG.format(port=port, jwt_secret=secrets.token_urlsafe(32), **keys))
        node = shutil.which("node")
        assert node is not None
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", UNTIL_STDIN_CLOSES, "sh", node, str(PROGRAM), "--no-telemetry", "dev", "--no-admin"],
                cwd=self._folder,
                env={"PATH": os.environ["PATH"], "HOME": str(self._folder), "DO_NOT_TRACK": "1"},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + START_DEADLINE_S
        while not self._answers():
            assert self._process.poll() is None, f"it ended at its start:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"it does not answer:\n{self.log.read_text()}"
            time.sleep(0.05)  # there is no event to wait for: it answers when it answers

    @property
    def log(self) -> Path:
        """What it printed."""
        return self._folder / "lite.log"

    def close(self) -> None:
        """Stop it; harmless when it is stopped."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(STOP_DEADLINE_S)
        self._process = None

    def _answers(self) -> bool:
        try:
            return (
                httpx.get(f"{self.url}/rest/v1/customers", headers={"apikey": self.secret_key}, timeout=5).status_code
                < 500
            )
        except httpx.HTTPError:
            return False
