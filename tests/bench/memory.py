"""What processes own, from the kernel: USS is memory no other process shares, PSS counts shared pages in parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterable

ZYGOTE: Final = "worker.pool.zygote"


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes: USS of each worker, and USS of the processes there is one of."""

    workers: tuple[int, ...]
    zygote: int
    pool: int
    router: int
    pss: int  # of pool, zygote and workers together


def look(pool_pid: int, router_pid: int) -> Memory:
    """Measure the pool's family and the router now. Workers are the children of the zygote, whatever their state."""
    pool = psutil.Process(pool_pid)
    zygotes = [child for child in pool.children() if ZYGOTE in " ".join(child.cmdline())]
    workers = [worker for zygote in zygotes for worker in zygote.children()]
    return Memory(
        workers=tuple(_uss(workers)),
        zygote=sum(_uss(zygotes)),
        pool=sum(_uss([pool])),
        router=sum(_uss([psutil.Process(router_pid)])),
        pss=sum(one.memory_full_info().pss for one in [pool, *zygotes, *workers]),
    )


def _uss(processes: Iterable[psutil.Process]) -> list[int]:
    return [process.memory_full_info().uss for process in processes]
