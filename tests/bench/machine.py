"""The machine the bench ran on, without naming it, and what else it was busy with."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import psutil

PACKAGES: Final = (
    "pipecat-ai",
    "onnxruntime",
    "websockets",
    "uvicorn",
    "starlette",
    "redis",
    "rq",
    "msgspec",
    "openai",
    "cartesia",
    "supabase",
)


def machine() -> dict[str, str]:
    """Describe this machine without naming it."""
    return {
        "cores": str(os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 1e9:.0f} GB",
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "Python": platform.python_version(),
        "load at start": f"{os.getloadavg()[0]:.1f}",
    }


def versions() -> dict[str, str]:
    """List what was measured."""
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


class OthersShare:
    """How much of the machine other processes took, from now on: they make every figure worse."""

    def __init__(self) -> None:
        self._begun = (time.monotonic(), _busy_s(), _ours_s())

    def remark(self) -> str:
        """Say it, once everything of ours has ended: the times of children count when they have been waited for."""
        began, busy, ours = self._begun
        capacity = (time.monotonic() - began) * (os.cpu_count() or 1)
        mine, others = _ours_s() - ours, _busy_s() - busy
        share = max(0.0, others - mine) / capacity
        return (
            f"The bench used {mine / capacity:.0%} of the cores on average, other processes of the machine {share:.0%}."
        )


def _busy_s() -> float:
    """CPU seconds spent on this machine since boot, stolen and waiting ones not counted."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


def _ours_s() -> float:
    """CPU seconds of this process and of all its descendants that were waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
