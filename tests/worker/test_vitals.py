"""What is read of a process: its counters while it sleeps, runs and stops, and the stack it writes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from tests.pool_process import eventually
from worker.pool.vitals import MOST_LINES, StackFile, read, sleeps_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from worker.pool.stall import Reading

SLEEP = "import time; time.sleep(3600)"
SPIN = "while True: pass"


@pytest.fixture
def start() -> Iterator[Callable[[str], int]]:
    """Start Python programs that are ended with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def starter(program: str) -> int:
        started.append(subprocess.Popen([sys.executable, "-I", "-S", "-c", program]))
        return started[-1].pid

    yield starter
    for process in started:
        process.kill()
        process.wait()


def look(pid: int) -> Reading:
    reading = read(pid)
    assert reading is not None
    return reading


async def in_state(pid: int, state: str) -> Reading:
    return await eventually(lambda: next((seen for seen in [look(pid)] if seen.state == state), None))


async def test_a_process_that_runs_is_seen_running(start: Callable[[str], int]) -> None:
    pid = start(SPIN)
    before = await in_state(pid, "R")
    await eventually(lambda: look(pid).on_cpu[pid] > before.on_cpu[pid] or None)
    assert look(pid).at > before.at


async def test_a_process_that_sleeps_says_where(start: Callable[[str], int]) -> None:
    pid = start(SLEEP)
    await eventually(lambda: "nanosleep" in sleeps_in(pid) or None)
    assert look(pid).state == "S"


async def test_a_process_that_is_stopped_is_seen_stopped(start: Callable[[str], int]) -> None:
    pid = start(SPIN)
    os.kill(pid, signal.SIGSTOP)
    first = await in_state(pid, "T")
    assert look(pid).on_cpu == first.on_cpu
    assert look(pid).waited == first.waited


def test_every_thread_is_read() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        seen = look(os.getpid())
        assert {os.getpid(), thread.native_id} <= seen.on_cpu.keys() == seen.waited.keys()
    finally:
        done.set()
        thread.join()


def test_of_a_process_that_is_gone_there_is_nothing() -> None:
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", "pass"]) as process:
        process.wait()
        assert read(process.pid) is None
        assert sleeps_in(process.pid) == ""


def test_a_stack_is_read_once_and_only_so_much_of_it() -> None:
    written = os.memfd_create("test")
    stack = StackFile(os.dup(written))
    assert stack.lines() == []
    os.write(written, b"one\n\n  two\n")
    assert stack.lines() == ["one", "two"]
    assert stack.lines() == []
    os.write(written, b"  File x\n" * 1_000_000)
    assert len(stack.lines()) == MOST_LINES
    os.write(written, b"last\n")
    assert stack.lines() == ["last"]
    stack.close()
    stack.close()
    assert stack.lines() == []
    os.close(written)
