"""The door: the control socket of a pool, and the routers connected to it.

A socket of the kind `SOCK_SEQPACKET` in `HANDOFF_DIR`, mode 0600; only our own user and root are let in.
"""

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from shared import handoff_dir, logs
from shared.channel import Channel, close_all
from shared.errors import SettingsError
from shared.framing import FROM_ROUTER
from shared.messages import PROTOCOL_VERSION, Hello, Message, Readiness, Welcome
from shared.workers import PoolId

RETRY_S: Final = 1.0

Receive = Callable[[Any, list[int], Callable[[Message], bool]], None]
"""Called with a message, its descriptors and the way to answer."""

_log = logs.get(__name__)


def listen(folder: Path, pool: PoolId) -> socket.socket:
    """Bind and listen as `<pool>.sock`; sockets in the folder that nobody answers any more are removed.

    Raises:
        SettingsError: the folder cannot be used, or a living pool has this name.
    """
    path = folder / f"{pool}.sock"
    handoff_dir.check_path(path)
    handoff_dir.prepare(folder)
    fresh = folder / f".{pool}{secrets.token_hex(2)}"  # no longer than `path`, which it becomes when it listens
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        _refuse_taken(path, [other for other in handoff_dir.look(folder) if not _deserted(other)])
        sock.bind(str(fresh))
        fresh.chmod(0o600)
        sock.listen(128)
        fresh.replace(path)
    except OSError as error:
        sock.close()
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise handoff_dir.refusal(folder, error) from None
    except SettingsError:
        sock.close()
        raise
    return sock


def _refuse_taken(path: Path, taken: list[Path]) -> None:
    if path in taken:
        msg = f"POOL_ID: {path}: another pool answers there"
        raise SettingsError(msg)


def _deserted(path: Path) -> bool:
    """Remove a socket that refuses connections; say whether it did."""
    if not path.is_socket():  # whatever it is, it is not one that a pool left behind
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return True
        except OSError:  # full, of another kind, not ours to judge
            return False
    return False


class Door:
    """Lets routers in, greets them, and keeps each told what this pool may promise."""

    def __init__(self, sock: socket.socket, path: Path, welcome: Welcome, receive: Receive) -> None:
        self._sock = sock
        self._path = path
        self._welcome = welcome
        self._receive = receive
        self._routers: set[Channel] = set()
        self._greeted: set[Channel] = set()
        self._last: Readiness | None = None
        self._versions: set[int] = set()  # of other protocols, which were named in the log
        self._loop = asyncio.get_running_loop()
        self._inode = path.stat().st_ino
        self._retry: asyncio.TimerHandle | None = None
        self._open()

    def push(self, readiness: Readiness) -> None:
        """Tell every router, when it is news."""
        if readiness == self._last:
            return
        self._last = readiness
        self.tell(readiness)

    def tell(self, message: Message) -> None:
        """Tell every router."""
        for router in list(self._greeted):
            router.send(message)

    def close(self) -> None:
        """Let nobody in any more, and remove the socket's name if it is still ours."""
        if self._retry is not None:
            self._retry.cancel()
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        with contextlib.suppress(OSError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()
        for router in list(self._routers):
            router.close()

    def _open(self) -> None:
        self._loop.add_reader(self._sock.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            peer, _ = self._sock.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:  # out of descriptors: the router waits in the backlog
            _log.error("cannot let a router in", error=str(error))
            self._loop.remove_reader(self._sock.fileno())
            self._retry = self._loop.call_later(RETRY_S, self._open)
            return
        uid = handoff_dir.uid_behind(peer)
        if uid not in {os.getuid(), 0}:
            _log.warning("refused a connection of another user", uid=uid)
            peer.close()
            return
        router: Channel

        def receive(message: Any, fds: list[int]) -> None:
            self._heard(router, message, fds)

        def lost(why: str) -> None:
            if why:
                _log.warning("router broke its connection", error=why)
            self._gone(router)

        router = Channel(peer, FROM_ROUTER, receive, lost)
        self._routers.add(router)

    def _heard(self, router: Channel, message: Any, fds: list[int]) -> None:
        if router in self._greeted:
            self._receive(message, fds, router.send)
            return
        close_all(fds)
        if not isinstance(message, Hello):
            _log.error("router does not introduce itself", got=str(message)[:200])
            router.close()
            self._gone(router)
            return
        if message.version != PROTOCOL_VERSION:
            self._name_version(message.version)
            router.send(self._welcome)  # or it would not know why, and come again
            router.close()
            self._gone(router)
            return
        router.send(self._welcome)
        self._greeted.add(router)
        if self._last is not None:
            router.send(self._last)

    def _name_version(self, theirs: int) -> None:
        if theirs not in self._versions:
            self._versions.add(theirs)
            _log.error("router not served: it speaks another version of the control protocol", theirs=theirs,
                       ours=PROTOCOL_VERSION)  # fmt: skip

    def _gone(self, router: Channel) -> None:
        self._routers.discard(router)
        self._greeted.discard(router)
