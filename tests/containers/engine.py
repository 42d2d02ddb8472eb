"""A container engine for tests: the one this machine has, or one of our own from Debian's packages, which we stop again.

    with running() as engine:
        engine.run("docker", "version")

An engine of our own needs root and apt. It has its sockets and data in a folder of its own, and as no registry need be
reachable, the base images are made here: Debian's root file system with the CPython that runs the tests, or a 3.12 beside it.
What it has changed of the machine's network rules is undone at the end; the packages stay installed.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PACKAGES: Final = ("docker.io", "containerd", "runc", "iptables", "mmdebstrap")
PLUGINS: Final = ("docker-compose", "docker-buildx")
COMPOSE_LEAST: Final = (2, 24)  # optional env_file, needed by compose.yaml
PYTHON_IMAGE: Final = "python:3.12-slim"
REDIS_IMAGE: Final = "redis:7-bookworm"
SOURCES: Final = Path("/etc/apt/sources.list.d/debian.sources")
CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
INCLUDED: Final = (
    "ca-certificates,libssl3,libffi8,libsqlite3-0,zlib1g,libbz2-1.0,liblzma5,libreadline8,libncursesw6,libuuid1,libexpat1,"
    "redis-server"
)
PIP: Final = "#!/usr/local/bin/python3\\nimport sys\\nfrom pip._internal.cli.main import main\\nsys.exit(main())\\n"
LEFT_OUT: Final = "--exclude=__pycache__ --exclude=test --exclude='*.a' --exclude='site-packages/*'"
DEADLINE_S: Final = 600.0
START_S: Final = 30.0
STOP_S: Final = 30.0
LOOK_AGAIN_S: Final = 0.1


class NoEngine(Exception):
    """No containers can be run here; the message says why in one line."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A running engine and the environment its clients need."""

    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None  # of an engine of our own

    def run(self, *command: str, env: Mapping[str, str] | None = None, check: bool = True) -> str:
        """Run a client and give its stdout.

        Raises:
            AssertionError: it failed (with `check`); with everything it said.
        """
        done = self.attempt(*command, env=env)
        assert done.returncode == 0 or not check, (
            f"{' '.join(command)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done.stdout

    def attempt(self, *command: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a client, whatever comes of it."""
        return subprocess.run(
            command,
            env={**os.environ, **self.environment, **(env or {})},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=DEADLINE_S,
            check=False,
        )


@contextmanager
def running() -> Iterator[Engine]:
    """Give an engine with the base images; what was started here is stopped.

    Raises:
        NoEngine: there is none and none can be had.
    """
    theirs = Engine()
    if not _unusable(theirs):
        yield theirs
        return
    _judge()
    folder = Path(tempfile.mkdtemp(prefix="offhook-engine-"))
    try:
        _install()
        rules = subprocess.run(["iptables-save"], capture_output=True, text=True, check=False).stdout
        ours = Engine(
            {
                "DOCKER_HOST": f"unix://{folder}/d.sock",
                "DOCKER_CONFIG": str(folder / "config"),
                "DOCKER_BUILDKIT": "1",
            },
            folder,
        )
        _plugins(folder)
        daemon = _start(ours, folder)
        try:
            _base_images(ours, folder)
            yield ours
        finally:
            _stop(daemon, rules)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unusable(engine: Engine) -> str:
    """Say why the engine at hand cannot be used; empty when it can."""
    if shutil.which("docker") is None:
        return "no docker"
    if engine.attempt("docker", "info").returncode:
        return "no engine answers"
    version = engine.attempt("docker", "compose", "version", "--short").stdout
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    return "" if numbers >= COMPOSE_LEAST else f"compose is {version.strip() or 'missing'}"


def _judge() -> None:
    """Say at once when this machine cannot have an engine of our own."""
    if os.geteuid() != 0:
        raise NoEngine("no container engine runs here, and one of our own needs root")
    if shutil.which("apt-get") is None or not SOURCES.exists():
        raise NoEngine("no container engine runs here, and it is no Debian whose packages could make one")
    if _python() is None:
        raise NoEngine(
            "no container engine runs here, and there is no CPython of its own folder to make a base image of"
        )


def _install() -> None:
    missing = [
        name for name in PACKAGES if subprocess.run(["dpkg", "-s", name], capture_output=True, check=False).returncode
    ]
    if missing:
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        _do("apt-get", "update", "-qq", env=env)
        _do("apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing, env=env)


def _plugins(folder: Path) -> None:
    """Unpack Compose and BuildKit of the next Debian release: this one's are too old, and its programs run here."""
    plugins, state = folder / "config" / "cli-plugins", folder / "next"
    for made in (plugins, state / "lists" / "partial", state / "cache" / "archives" / "partial", state / "root"):
        made.mkdir(parents=True)
    sources = state / "next.sources"
    sources.write_text(SOURCES.read_text(encoding="utf-8").replace("bookworm", "trixie"), encoding="utf-8")
    options = (
        f"Dir::Etc::sourcelist={sources}", "Dir::Etc::sourceparts=/dev/null", f"Dir::State::lists={state / 'lists'}",
        f"Dir::Cache={state / 'cache'}", "APT::Sandbox::User=root",
    )  # fmt: skip
    apt = ["apt-get", *(word for option in options for word in ("-o", option))]
    _do(*apt, "update", "-qq")
    _do(*apt, "download", "-qq", *(f"{name}/trixie" for name in PLUGINS), folder=state)
    for package in state.glob("*.deb"):
        _do("dpkg", "-x", str(package), str(state / "root"))
    for plugin in (state / "root" / "usr" / "libexec" / "docker" / "cli-plugins").iterdir():
        shutil.copy(plugin, plugins)


def _start(engine: Engine, folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "dockerd.log").open("wb") as log:
        daemon = subprocess.Popen(
            [
                "dockerd", "--host", engine.environment["DOCKER_HOST"], "--data-root", str(folder / "data"),
                "--exec-root", str(folder / "exec"), "--pidfile", str(folder / "d.pid"),
            ],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    ends = time.monotonic() + START_S
    while engine.attempt("docker", "info").returncode:
        if daemon.poll() is not None or time.monotonic() > ends:
            _end(daemon)
            last = (folder / "dockerd.log").read_text(errors="replace").splitlines()[-1:]
            raise NoEngine(f"no container engine runs here, and one of our own does not start: {' '.join(last)[-200:]}")
        time.sleep(LOOK_AGAIN_S)
    return daemon


def _stop(daemon: subprocess.Popen[bytes], rules: str) -> None:
    _end(daemon)
    subprocess.run(["ip", "link", "del", "docker0"], capture_output=True, check=False)
    subprocess.run(["iptables-restore"], input=rules, capture_output=True, text=True, check=False)


def _end(daemon: subprocess.Popen[bytes]) -> None:
    daemon.send_signal(signal.SIGTERM)
    try:
        daemon.wait(STOP_S)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait(STOP_S)


def _base_images(engine: Engine, folder: Path) -> None:
    """Make what would be pulled: an image like the official ones of Python, and the same for Redis."""
    archive, python = folder / "base.tar", _python()
    hooks = (
        f"copy-in {CERTIFICATES} {CERTIFICATES.parent}",
        f"tar -C '{python}' {LEFT_OUT} -cf - . | tar -C \"$1/usr/local\" -xf -",
        'chroot "$1" ldconfig; chroot "$1" /usr/local/bin/python3 -m ensurepip >/dev/null 2>&1',
        'ln -sf python3 "$1/usr/local/bin/python"',
        f'printf \'{PIP}\' >"$1/usr/local/bin/pip"; chmod 755 "$1/usr/local/bin/pip"',
        'rm -rf "$1"/usr/share/doc/* "$1"/usr/share/man/* "$1"/var/lib/apt/lists/*',
    )
    _do(
        "mmdebstrap", "--quiet", "--variant=minbase", f"--include={INCLUDED}",
        *(f"--customize-hook={hook}" for hook in hooks), "bookworm", str(archive),
    )  # fmt: skip
    certificates = [f"ENV {name}={CERTIFICATES}" for name in ("PIP_CERT", "SSL_CERT_FILE")]
    changes = [word for change in (*certificates, 'CMD ["python3"]') for word in ("--change", change)]
    engine.run("docker", "import", *changes, str(archive), PYTHON_IMAGE)
    engine.run("docker", "tag", PYTHON_IMAGE, REDIS_IMAGE)
    archive.unlink()


def _python() -> Path | None:
    """Find a CPython in a folder of its own: 3.12, or else what runs the tests."""
    beside = sorted(Path(sys.base_prefix).parent.glob("3.12*"))
    for prefix in (*reversed(beside), Path(sys.base_prefix)):
        if (prefix / "bin" / "python3").exists() and prefix != Path("/usr"):
            return prefix
    return None


def _do(*command: str, env: Mapping[str, str] | None = None, folder: Path | None = None) -> None:
    done = subprocess.run(
        command, env=env, cwd=folder, capture_output=True, text=True, errors="replace", timeout=DEADLINE_S, check=False
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise NoEngine(f"no container engine runs here, and {command[0]} fails: {' '.join(said)[-200:]}")
