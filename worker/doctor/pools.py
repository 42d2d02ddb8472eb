"""The pools behind `HANDOFF_DIR`, asked as a router asks them: who they are, which version they speak, what they promise."""

import asyncio
import os
import socket
import stat
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from shared import handoff_dir
from shared.errors import system_words
from shared.framing import MAX_MESSAGE_BYTES, encode
from shared.messages import PROTOCOL_VERSION, Hello, Problem, Readiness
from worker.doctor.case import Case
from worker.doctor.findings import Finding, bad, doubtful, good

ANSWER_S: Final = 2.0
"""A pool answers in under a millisecond; one that is stopped or starved does not."""

READINESS_S: Final = 0.5
"""It comes right behind the welcome, unless the pool has only just started."""

T = TypeVar("T")

START: Final = "start one (python -m worker) with the same HANDOFF_DIR and as the same user"


class _Welcome(msgspec.Struct):
    """The part of `Welcome` that every version has."""

    version: int
    pool: str = "?"


@dataclass(frozen=True, slots=True)
class _Met:
    """What a pool said."""

    welcome: _Welcome
    readiness: Readiness | None


async def pools(case: Case) -> AsyncGenerator[Finding, None]:
    """Look at the folder, and speak with each pool in it."""
    folder = case.conf.handoff_dir
    wrong = _folder(folder)
    if wrong is not None:
        yield wrong
        return
    ready = 0
    for path in sorted(folder.glob("*.sock")):
        async for finding, count in _pool(path):
            ready += count
            yield finding
    if not any(folder.glob("*.sock")):
        yield bad(f"no pool in {folder}", START)
    elif not ready:
        yield bad("no worker is ready: callers wait in the hold line", "see above, and the pool's log and /readyz")


def _folder(folder: Path) -> Finding | None:
    """Say what is wrong with the folder itself."""
    try:
        status = folder.stat()
    except FileNotFoundError:
        return bad(f"there is no {folder}: neither router nor pool have started with this HANDOFF_DIR", START)
    except OSError as error:
        return bad(f"{folder}: {system_words(error)}", "HANDOFF_DIR: let this user in")
    owner = f"it belongs to uid {status.st_uid}, and this is uid {os.geteuid()}"
    if not stat.S_ISDIR(status.st_mode):
        return bad(f"{folder} is no folder", "HANDOFF_DIR: name a folder, which may be absent")
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return bad(
            f"{folder} cannot be written: {owner}", "HANDOFF_DIR: give it to the user of router and pools (chown)"
        )
    if status.st_mode & stat.S_IWOTH:
        return bad(f"{folder} may be written by anybody, who would get our callers", "HANDOFF_DIR: chmod 700")
    if status.st_uid not in {os.geteuid(), 0}:
        return doubtful(f"{folder}: {owner}", "HANDOFF_DIR: run router, pools and this as one user")
    return None


async def _pool(path: Path) -> AsyncGenerator[tuple[Finding, int], None]:
    """Speak with a pool; give what was found, and how many workers that counts for."""
    try:
        async with asyncio.timeout(ANSWER_S):
            met = await _meet(path)
    except TimeoutError:
        yield (
            bad(f"{path.name}: the pool does not answer: it is stopped, or starved of CPU", "see its log; restart it"),
            0,
        )
        return
    except ConnectionRefusedError:
        yield doubtful(f"{path.name}: nobody listens there any more", "the next one that starts removes it"), 0
        return
    except PermissionError as error:
        yield bad(f"{path.name}: {error}", "run router, pools and this as one user"), 0
        return
    except OSError as error:
        yield bad(f"{path.name}: {system_words(error)}", START), 0
        return
    if met is None:
        said = f"{path.name}: the pool closed the connection: it speaks another version than {PROTOCOL_VERSION}"
        yield bad(said, _REPLACE), 0
    elif met.welcome.version != PROTOCOL_VERSION:
        said = f"pool {met.welcome.pool} speaks version {met.welcome.version}, this image {PROTOCOL_VERSION}"
        yield bad(said, _REPLACE), 0
    elif met.readiness is None:
        yield doubtful(f"pool {met.welcome.pool} has only just started", "wait a moment"), 0
    else:
        for finding in _promises(met.welcome.pool, met.readiness):
            yield finding, 0
        yield _readiness(met.welcome.pool, met.readiness), 0 if met.readiness.draining else met.readiness.ready


_REPLACE: Final = "run router and pools from the same build: replace the older image"


def _readiness(pool: str, readiness: Readiness) -> Finding:
    if readiness.draining:
        return good(f"pool {pool} drains: it finishes its calls and takes no new one")
    said = f"pool {pool}: {readiness.ready} ready, {readiness.warming} warming, version {PROTOCOL_VERSION}"
    return good(said) if readiness.ready else doubtful(said, "wait a moment, then see its log")


def _promises(pool: str, readiness: Readiness) -> list[Finding]:
    """Say what the pool says keeps its workers from being ready."""
    return [_problem(pool, problem, readiness.ready) for problem in readiness.problems]


def _problem(pool: str, problem: Problem, ready: int) -> Finding:
    words = " ".join(problem.detail.split())[-300:]
    said = f"pool {pool}: {problem.resource}: {words}"
    return (doubtful if ready else bad)(said, "see the line of that provider below, or the pool's log")


async def _meet(path: Path) -> _Met | None:
    """Greet a pool as a router does; None when it closes the connection.

    Raises:
        PermissionError: it is of another user, who must not be given calls.
        OSError: it cannot be reached.
    """
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as sock:
        await loop.sock_connect(sock, str(path))
        uid = handoff_dir.uid_behind(sock)
        if uid != os.geteuid():
            raise PermissionError(f"it runs as uid {uid}, and this as uid {os.geteuid()}")
        await loop.sock_sendall(sock, encode(Hello()))
        welcome = await _heard(sock, _Welcome)
        if welcome is None or welcome.version != PROTOCOL_VERSION:
            return None if welcome is None else _Met(welcome, None)
        try:
            async with asyncio.timeout(READINESS_S):
                return _Met(welcome, await _heard(sock, Readiness))
        except TimeoutError:
            return _Met(welcome, None)


async def _heard(sock: socket.socket, wanted: type[T]) -> T | None:
    """Wait for a message of a kind; None when the pool closes the connection."""
    while data := await asyncio.get_running_loop().sock_recv(sock, MAX_MESSAGE_BYTES):
        said = _read(data)
        if isinstance(said, wanted):
            return said
    return None


def _read(data: bytes) -> Any:
    """Read what a pool of any version says; None for what cannot be read."""
    try:
        kind = msgspec.json.decode(data, type=dict[str, Any]).get("type")
        if kind == "welcome":
            return msgspec.json.decode(data, type=_Welcome)
        return msgspec.json.decode(data, type=Readiness) if kind == "readiness" else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
