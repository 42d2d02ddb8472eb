"""The edge for tests: Caddy with the shipped `deploy/caddy/Caddyfile` on loopback, with a certificate of its own authority.

    with Caddy(stack.router_url) as edge:
        async with stack.carrier(target=edge.url, ca_file=edge.ca_file) as carrier: ...

It never sees a folder of the user's: certificates, settings and the admin socket live in a temporary one.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

import psutil

from tests.stack import PUBLIC, free_ports

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT: Final = Path(__file__).resolve().parents[1]
CADDYFILE: Final = ROOT / "deploy" / "caddy" / "Caddyfile"
RUN: Final = ROOT / "deploy" / "caddy" / "run.sh"
HOST: Final = urlsplit(PUBLIC).hostname or ""
BINARY: Final = Path(sys.executable).parent / "caddy"
PATH: Final = {"PATH": f"{BINARY.parent}:/usr/bin:/bin"}
START_DEADLINE_S: Final = 30.0
STOP_DEADLINE_S: Final = 30.0


def run(*arguments: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command of Caddy's to its end, in an environment of nothing else."""
    return subprocess.run(
        [BINARY, *arguments], env=dict(env), capture_output=True, text=True, timeout=START_DEADLINE_S, check=False
    )


def impatient(folder: Path) -> Path:
    """Write the shipped file with a second in place of every limit of requests."""
    text, count = re.subn(r"\b(read_header|read_body|write|idle) \w+", r"\1 1s", CADDYFILE.read_text())
    assert count == 4
    path = folder / "impatient.caddyfile"
    path.write_text(text)
    return path


class Caddy:
    """One edge in front of a router."""

    def __init__(self, router_url: str, config: Path = CADDYFILE, ca_file: str = "", **env: str) -> None:
        self.config = config
        self.folder = Path(tempfile.mkdtemp(prefix="offhook-edge-"))
        own = self.folder / "data" / "caddy" / "pki" / "authorities" / "local" / "root.crt"
        self.ca_file = ca_file or str(own)  # of the authority that signs its certificate
        self.http_port, self.https_port = free_ports(2)
        self.env = {
            "HOME": str(self.folder),
            "XDG_DATA_HOME": str(self.folder / "data"),
            "XDG_CONFIG_HOME": str(self.folder / "config"),
            "PUBLIC_BASE_URL": PUBLIC,
            "ROUTER_UPSTREAM": urlsplit(router_url).netloc,
            "EDGE_TLS": "internal",
            "EDGE_ADMIN": f"unix/{self.folder / 'admin.sock'}",
            "EDGE_BIND": "127.0.0.1",
            "EDGE_HTTP_PORT": str(self.http_port),
            "EDGE_HTTPS_PORT": str(self.https_port),
            **env,
        }
        self._log = self.folder / "caddy.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens for TLS; its certificate is for the host of `PUBLIC`."""
        return f"https://127.0.0.1:{self.https_port}"

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """Everything it has printed."""
        return self._log.read_text()

    def lines(self) -> list[dict[str, Any]]:
        """Its log lines."""
        return [json.loads(line) for line in self.log.splitlines()]

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and return when it serves TLS."""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [RUN, self.config], env=PATH | self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_DEADLINE_S
        while not self._answers():
            assert self._process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)  # there is no event to wait for: it serves when it has its certificate

    def reload(self, **env: str) -> None:
        """Give it a changed configuration, as an operator does; what changes here is the environment it is read in."""
        done = run("reload", "--config", str(self.config), "--adapter", "caddyfile", env=self.env | env)
        assert done.returncode == 0, done.stderr

    def configuration(self) -> str:
        """Ask it for the configuration it runs with."""
        connection = _Admin(self.folder / "admin.sock")
        try:
            connection.request("GET", "/config/", headers={"Host": ""})
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def guests(self) -> int:
        """Count the connections that clients have to it."""
        found = psutil.Process(self.pid).net_connections("tcp")
        return sum(one.laddr.port == self.https_port and one.status == "ESTABLISHED" for one in found)

    def connect(self) -> ssl.SSLSocket:
        """Open a connection on which nothing is said yet; the caller closes it."""
        raw = socket.create_connection(("127.0.0.1", self.https_port), START_DEADLINE_S)
        return ssl.create_default_context(cafile=self.ca_file).wrap_socket(raw, server_hostname=HOST)

    def request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None, name: str = HOST
    ) -> Page:
        """Send one request to the host of that name and give the whole answer. Raises OSError."""
        connection = _Named("127.0.0.1", self.https_port, ssl.create_default_context(cafile=self.ca_file), name)
        try:
            connection.request(method, path, body or None, {"Host": name, **(headers or {})})
            return Page(connection.getresponse())
        finally:
            connection.close()

    def stop(self) -> None:
        """End it and forget everything; harmless when it is stopped."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(STOP_DEADLINE_S)
            self._process = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        try:
            self.request("GET", "/")
        except OSError:
            return False
        return True


class Page:
    """An answer that was read to its end."""

    def __init__(self, answer: HTTPResponse) -> None:
        self.status = answer.status
        self.headers = answer.headers
        self.body = answer.read()


class _Named(HTTPSConnection):
    """A connection to an address that expects the certificate of a name."""

    def __init__(self, host: str, port: int, trust: ssl.SSLContext, name: str) -> None:
        super().__init__(host, port, timeout=START_DEADLINE_S, context=trust)
        self._trust = trust
        self._name = name

    def connect(self) -> None:
        """Connect, and name whom we mean."""
        raw = socket.create_connection((self.host, self.port), self.timeout)
        self.sock = self._trust.wrap_socket(raw, server_hostname=self._name)


class _Admin(HTTPConnection):
    """A connection to its admin socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("edge", timeout=START_DEADLINE_S)
        self._path = path

    def connect(self) -> None:
        """Connect."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def unread(port: int) -> bool:
    """Say whether something was sent to a port of this machine and not read yet."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    local = f":{port:04X}"
    return any(row[1].endswith(local) and row[3] == "01" and not row[4].endswith(":00000000") for row in rows)
