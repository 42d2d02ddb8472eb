"""Processes seen from outside: which ones belong together, the CPU time and memory they took, the cores they may use."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

IDLE_SHARE: Final = 0.2
"""Of one core: a system that uses less than this over LOOK_S is at rest."""

LOOK_S: Final = 0.3
REST_DEADLINE_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class Cores:
    """Which cores the system under test has, and which the carrier and the stand-ins."""

    system: frozenset[int]
    others: frozenset[int]


def parted() -> Cores | None:
    """Give one core to the system under test and the rest to everything else; None where there is only one."""
    available = sorted(os.sched_getaffinity(0))
    return Cores(frozenset(available[:1]), frozenset(available[1:])) if len(available) > 1 else None


def everywhere() -> frozenset[int]:
    """All cores of this machine that may be used."""
    return frozenset(range(os.cpu_count() or 1))


def family(pids: Iterable[int]) -> list[psutil.Process]:
    """Give these processes with all their descendants, those that have gone left out."""
    found: dict[int, psutil.Process] = {}
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(pid)
            found |= {one.pid: one for one in (root, *root.children(recursive=True))}
    return list(found.values())


def pin(processes: Iterable[psutil.Process], cores: frozenset[int]) -> None:
    """Bind every thread of the processes to cores; what they start later inherits it."""
    for process in processes:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{process.pid}/task").iterdir():
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(int(task.name), cores)


def cpu_s(processes: Iterable[psutil.Process]) -> dict[int, float]:
    """CPU seconds of each process until now, its threads included, its children not."""
    found = {}
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            found[process.pid] = float(times.user + times.system)
    return found


def busy_s(cores: frozenset[int]) -> float:
    """CPU seconds anybody has spent on these cores, until now."""
    every = psutil.cpu_times(percpu=True)
    spent = (every[core] for core in cores)
    return sum(float(one.user + one.nice + one.system + one.irq + one.softirq) for one in spent)


def spent_s(before: Mapping[int, float], after: Mapping[int, float]) -> float:
    """CPU seconds between two looks. A process that began in between counts whole; one that ended, no further."""
    return sum(now - before.get(pid, 0.0) for pid, now in after.items())


def uss(processes: Iterable[psutil.Process]) -> int:
    """Bytes that no process outside of these owns, as far as the kernel tells: the sum of what each has alone."""
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().uss
    return total


def rest(pids: Iterable[int]) -> None:
    """Wait until processes do next to nothing: calls are torn down, workers are replaced. Gives up after REST_DEADLINE_S."""
    roots, ends = list(pids), time.monotonic() + REST_DEADLINE_S
    while time.monotonic() < ends:
        before = cpu_s(family(roots))
        time.sleep(LOOK_S)
        if spent_s(before, cpu_s(family(roots))) < IDLE_SHARE * LOOK_S:
            return
