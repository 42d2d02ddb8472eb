"""Programs of Debian's packages for tests, unpacked beside the project: nothing is installed and nothing is started.

    prometheus = unpacked("prometheus") / "usr/bin/prometheus"

A package is unpacked alone, without what it depends on: enough for programs that need no more than the C library.
"""

from __future__ import annotations

import fcntl
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[1]
PACKAGES: Final = ROOT / ".run" / "debian"

DEADLINE_S: Final = 180.0
"""For one command of apt; twenty megabytes take a second on a good line."""

PATIENCE: Final = (
    "-qq",
    "-o",
    "Acquire::Retries=1",
    "-o",
    "Acquire::http::Timeout=20",
    "-o",
    "APT::Sandbox::User=root",
)
"""A machine without a network is to be noticed soon; the folder we load into is not the sandbox user's."""


def unpacked(package: str) -> Path:
    """Give the root folder of an unpacked package of the system's Debian; the test is skipped when it cannot be had.

    It stays in `.run/debian`. Tests that ask at the same time, in whatever process, wait for the one that loads it.
    """
    found = _found(package)
    if isinstance(found, str):
        pytest.skip(f"no Debian package {package}: {found}")
    return found


@functools.cache  # what cannot be had is asked for once in a session
def _found(package: str) -> Path | str:
    """Give the folder, or why there is none in one line."""
    folder = PACKAGES / package
    if folder.is_dir():
        return folder
    missing = [program for program in ("apt-get", "dpkg") if shutil.which(program) is None]
    if missing:
        return f"this machine has no {missing[0]}"
    PACKAGES.mkdir(parents=True, exist_ok=True)
    with (PACKAGES / f"{package}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # let go of when the file is closed, by whatever ends this process
        if folder.is_dir():
            return folder
        with tempfile.TemporaryDirectory(dir=PACKAGES, prefix=f"{package}.") as made:
            try:
                _load(package, Path(made))
            except subprocess.CalledProcessError as error:
                said = str(error.stderr).strip().splitlines()
                return said[0] if said else str(error)
            except subprocess.TimeoutExpired as error:
                return f"{error.cmd[0]} {error.cmd[-1]} did not end within {DEADLINE_S:.0f} s"
            (Path(made) / "root").rename(folder)  # there as a whole or not at all
    return folder


def _load(package: str, folder: Path) -> None:
    """Load a package and unpack it to `root` in this folder, with the system's lists or, where they are old, with our own."""
    try:
        _run(folder, "apt-get", *PATIENCE, "download", package)
    except subprocess.CalledProcessError:
        own = [f"Dir::{name}={PACKAGES / 'apt' / name}" for name in ("State", "Cache")]
        options = [word for option in own for word in ("-o", option)]
        PACKAGES.joinpath("apt", "State", "lists", "partial").mkdir(parents=True, exist_ok=True)
        PACKAGES.joinpath("apt", "Cache", "archives", "partial").mkdir(parents=True, exist_ok=True)
        options += ["-o", "Dir::State::status=/var/lib/dpkg/status"]
        _run(folder, "apt-get", *PATIENCE, *options, "update", "--error-on=any")
        _run(folder, "apt-get", *PATIENCE, *options, "download", package)
    _run(folder, "dpkg", "-x", str(next(folder.glob("*.deb"))), str(folder / "root"))


def _run(folder: Path, *command: str) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=DEADLINE_S)
