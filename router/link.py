"""One control connection to one pool: greeting, questions and answers. Which pool to ask is `pools`' business."""

import asyncio
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from shared import handoff_dir, logs
from shared.channel import Channel, close_all
from shared.framing import FROM_POOL
from shared.messages import Ended, EndKnown, Hello, Message, NoWorker, Readiness, Reserved, Welcome

log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class Address:
    """A pool's socket: the file and which one it was, since a restarted pool makes a new one under the old name.

    Inodes are used again at once; the time of making (nanoseconds, unchanged by chmod) tells such files apart.
    """

    path: Path
    inode: int
    made_ns: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """Look at a socket's file.

        Raises:
            OSError: it is gone.
        """
        status = path.stat()
        return cls(path, status.st_ino, status.st_mtime_ns)


class ForeignSocket(Exception):
    """The process behind a socket runs as another user: it must not be given calls."""


def dial(path: Path) -> socket.socket:
    """Connect to a pool's socket, without waiting.

    Raises:
        ForeignSocket: the peer is not of our user.
        OSError: as connect(2); ECONNREFUSED when nobody listens there any more.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.setblocking(False)
        sock.connect(os.fspath(path))
        _refuse_foreign(sock)
    except BaseException:
        sock.close()
        raise
    return sock


def _refuse_foreign(sock: socket.socket) -> None:
    uid = handoff_dir.uid_behind(sock)
    if uid != os.geteuid():
        raise ForeignSocket(f"belongs to uid {uid}, not {os.geteuid()}")


class Link:
    """A connection to a pool; to be made on the loop.

    `changed` is called when readiness changes and when the link is lost, `ended` with each end of a call. `introduced` is
    set when the pool's first readiness is known, or never will be. A pool of another `version` than the one we come with is
    named in the log once and `foreign`, in words, from then on; `theirs` is what it speaks. One that kept a call waiting is
    `late` until it says something.
    """

    def __init__(
        self,
        address: Address,
        sock: socket.socket,
        changed: Callable[["Link"], None],
        ended: Callable[[Ended], None],
        version: int,
    ) -> None:
        self.address = address
        self.welcome: Welcome | None = None
        self.readiness = Readiness(ready=0, warming=0)
        self.introduced = asyncio.Event()
        self.foreign = ""
        self.theirs = version
        self._version = version
        self.late = False
        self._changed = changed
        self._ended = ended
        self._questions: dict[int, asyncio.Future[Any]] = {}
        self._last_request = 0
        self._channel = Channel(sock, FROM_POOL, self._receive, self._lost)
        self._channel.send(Hello(version=version))

    @property
    def open(self) -> bool:
        """Say whether the pool has introduced itself and is there."""
        return self._channel.open and self.welcome is not None

    @property
    def ready(self) -> int:
        """How many workers the pool has ready for calls: none while it drains."""
        return self.readiness.ready if self.open and not self.readiness.draining else 0

    @property
    def spare(self) -> int:
        """How many ready workers are left if each question under way takes one; below 0 when there are more of those."""
        return self.ready - len(self._questions)

    def is_pool(self, pool: str, boot: str) -> bool:
        """Say whether this is the pool of that name, in that life."""
        return self.open and self.welcome is not None and (self.welcome.pool, self.welcome.boot) == (pool, boot)

    def send(self, message: Message, *fds: int) -> bool:
        """Send without expecting an answer; False when the pool is gone. The caller keeps its descriptors."""
        return self.open and self._channel.send(message, *fds)

    async def ask(self, question: Callable[[int], Message]) -> Any:
        """Ask and wait for the answer with the same request number; None when the pool is lost meanwhile."""
        self._last_request += 1
        number = self._last_request
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._questions[number] = future
        try:
            return await future if self.send(question(number)) else None
        finally:
            self._questions.pop(number, None)

    def close(self) -> None:
        """Close the connection; `changed` is not called."""
        self._channel.close()
        self._give_up()

    def _receive(self, message: Any, fds: list[int]) -> None:
        close_all(fds)  # a pool has none to give
        self.late = False
        match message:
            case Welcome():
                self._meet(message)
            case Readiness():
                self.readiness = message
                self.introduced.set()
                self._changed(self)
            case Ended():
                self._ended(message)
            case Reserved(request=number) | NoWorker(request=number) | EndKnown(request=number):
                future = self._questions.get(number)
                if future is not None and not future.done():
                    future.set_result(message)

    def _meet(self, welcome: Welcome) -> None:
        if welcome.version != self._version:
            log.error("pool not used: it speaks another version", pool=welcome.pool, theirs=welcome.version,
                      ours=self._version)  # fmt: skip
            self.theirs = welcome.version
            self.foreign = (
                "a pool speaks another version of the control protocol: "
                f"theirs {welcome.version}, ours {self._version} ({welcome.pool})"
            )
            self._channel.close()
            self._lost("version")
            return
        self.welcome = welcome
        log.info("pool connected", pool=welcome.pool, boot=welcome.boot)

    def _lost(self, why: str) -> None:
        if self.welcome is not None:
            log.warning("pool lost", pool=self.welcome.pool, boot=self.welcome.boot, why=why or "closed")
        self._give_up()
        self._changed(self)

    def _give_up(self) -> None:
        self.readiness = Readiness(ready=0, warming=0)
        self.introduced.set()
        for future in self._questions.values():
            if not future.done():
                future.set_result(None)
