"""The zygote as a process: it forks, counts its threads, leaks nothing, and leaves with its pool."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from shared.channel import close_all, receive_datagram
from shared.framing import FROM_WORKER, FROM_ZYGOTE
from shared.messages import Alive, Fork, Forked, ForkRefused, Ready, Reaped, WarmFailed
from shared.workers import WorkerId
from tests.fake_child import Script
from tests.pool_process import DEADLINE_S, descriptors, environment
from worker.pool.zygote import send

if TYPE_CHECKING:
    from collections.abc import Iterator


class ZygoteProcess:
    """A zygote and the pool's end of its control socket."""

    def __init__(self, folder: Path, script: Script) -> None:
        (folder / "script.json").write_bytes(msgspec.json.encode(script))
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.settimeout(DEADLINE_S)
        command = [sys.executable, "-m", "worker.pool.zygote", "--child", "tests.fake_child"]
        with theirs:
            self.process = subprocess.Popen(
                [*command, "--control-fd", str(theirs.fileno())],
                env=environment(folder),
                cwd=folder,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def fork(self, name: str) -> socket.socket:
        """Ask for a worker; give the pool's end of its channel."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(DEADLINE_S)
        with theirs:
            send(self.control, Fork(worker=WorkerId(name)), theirs.fileno())
        return ours

    def receive(self) -> tuple[Any, list[int]]:
        """Wait for its next message."""
        received = receive_datagram(self.control)
        assert received is not None
        return FROM_ZYGOTE(received[0]), received[1]

    def close(self) -> int:
        """Close the control socket and wait for its end."""
        self.control.close()
        return self.process.wait(DEADLINE_S)


@contextlib.contextmanager
def _zygote(folder: Path, script: Script | None = None) -> Iterator[ZygoteProcess]:
    zygote = ZygoteProcess(folder, script or Script())
    try:
        yield zygote
    finally:
        zygote.control.close()
        if zygote.process.poll() is None:
            try:
                zygote.process.wait(DEADLINE_S)
            except subprocess.TimeoutExpired:
                zygote.process.kill()
                zygote.process.wait()


@pytest.fixture
def zygote(tmp_path: Path) -> Iterator[ZygoteProcess]:
    with _zygote(tmp_path) as running:
        alive, _ = running.receive()
        assert isinstance(alive, Alive)
        assert alive.threads == 1
        yield running


def test_a_fork_is_announced_with_its_pidfd_and_its_end_with_its_status(zygote: ZygoteProcess) -> None:
    channel = zygote.fork("0-1")
    forked, fds = zygote.receive()
    assert isinstance(forked, Forked)
    assert forked.worker == "0-1"
    assert len(fds) == 1
    assert isinstance(FROM_WORKER(channel.recv(65_536)), Ready)
    assert not os.get_inheritable(fds[0])
    signal.pidfd_send_signal(fds[0], signal.SIGKILL)
    assert select.select([fds[0]], [], [], DEADLINE_S)[0]
    reaped, _ = zygote.receive()
    assert reaped == Reaped(pid=forked.pid, status=signal.SIGKILL)
    close_all(fds)
    channel.close()


def test_a_worker_holds_nothing_of_the_zygote_and_is_the_first_to_be_killed_by_oom(zygote: ZygoteProcess) -> None:
    """The second worker has neither the first one's channel nor its pidfd, nor the control socket."""
    channels = [zygote.fork(name) for name in ("0-1", "1-2")]
    forks = [zygote.receive() for _ in channels]
    for channel in channels:
        assert isinstance(FROM_WORKER(channel.recv(65_536)), Ready)
    second = Path(f"/proc/{forks[1][0].pid}")
    kinds = sorted(str(each.readlink()).partition(":")[0] for each in (second / "fd").iterdir())
    assert kinds.count("anon_inode") == 1  # its event loop
    assert kinds.count("socket") == 3  # its channel, and the event loop's own pair
    assert (second / "oom_score_adj").read_text().strip() == "500"
    core = next(line for line in (second / "limits").read_text().splitlines() if line.startswith("Max core file size"))
    assert core.split()[4:6] == ["0", "0"]
    for channel in channels:
        channel.close()
    for _, fds in forks:
        close_all(fds)


def test_fifty_forks_leave_no_descriptor_behind(zygote: ZygoteProcess) -> None:
    before = descriptors(zygote.process.pid)
    for number in range(50):
        zygote.fork(f"0-{number}").close()  # a worker leaves when its pool is gone
        forked, fds = zygote.receive()
        assert isinstance(forked, Forked)
        reaped, _ = zygote.receive()
        assert isinstance(reaped, Reaped)
        close_all(fds)
    assert descriptors(zygote.process.pid) == before


def test_a_zygote_leaves_with_its_pool_and_its_children_go_on(zygote: ZygoteProcess) -> None:
    channel = zygote.fork("0-1")
    _, fds = zygote.receive()
    assert isinstance(FROM_WORKER(channel.recv(65_536)), Ready)
    assert zygote.close() == 0
    assert not select.select([fds[0]], [], [], 0)[0]
    channel.close()
    assert select.select([fds[0]], [], [], DEADLINE_S)[0]
    close_all(fds)


def test_a_second_thread_forbids_forking(tmp_path: Path) -> None:
    with _zygote(tmp_path, Script(second_thread=True)) as zygote:
        alive, _ = zygote.receive()
        assert alive.threads == 2
        channel = zygote.fork("0-1")
        refused, fds = zygote.receive()
        assert refused == ForkRefused(worker=WorkerId("0-1"), why="the zygote has 2 threads")
        assert fds == []
        channel.close()


def test_what_cannot_be_loaded_is_told_with_its_traceback(tmp_path: Path) -> None:
    with _zygote(tmp_path, Script(load_fails="vad")) as zygote:
        failed, _ = zygote.receive()
        assert isinstance(failed, WarmFailed)
        assert failed.resource == "vad"
        assert "the script says so" in failed.traceback
        assert zygote.process.wait(DEADLINE_S) == 3
