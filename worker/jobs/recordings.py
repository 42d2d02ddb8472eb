"""Finished recordings: what the workers of a call have written becomes one stereo file, caller left, agent right.

The caller's frames come at their own pace, and late ones come together: each is placed by the least delayed of those that
follow it, so that a worker that was stopped for a second leaves no hole. The agent's sound is where the carrier played it;
what was taken back, or would have been played after the end, is not in it.

A caller who was cut off and comes back makes more of the same call: that is added to what is finished. Whoever writes or
deletes holds the lock of the call, and a part is deleted when a file that contains it is on the disk.
"""

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from shared import logs
from shared.calls import CallSid
from shared.rawrecording import (
    FINISHED_SUFFIX,
    NUMBERS_OF_AN_ATTEMPT,
    SUFFIX,
    Kind,
    Piece,
    finished,
    number_of,
    parts,
    unpack,
)
from worker.jobs.finished import RATE_HZ, Contents, contents, read, write

SILENCE: Final = b"\xff"
"""mu-law's zero."""

SAME_S: Final = 0.06
"""A frame this near to the end of the one before follows it: that was jitter."""

WINDOW: Final = 150
"""How many frames (3 s) are looked at for one that was not delayed."""

UNDER_WAY: Final = ".new"
LOCK: Final = ".lock"

_log = logs.get(__name__)


def finish(folder: Path, call_sid: CallSid, ended_at: float, attempts: int) -> str:
    """Encode what was recorded of so many attempts of a call, delete what it was made of, give the file's name.

    `ended_at` is when the last of them ended, in unix seconds. Empty when nothing was recorded. What is finished stays, and
    what is not in it yet is added. A later attempt may still be going on: its parts are left alone.

    Raises:
        OSError: the folder cannot be read or written.
        ValueError, RuntimeError: something cannot be encoded, or added to what is finished; everything stays as it is.
    """
    target = finished(folder, call_sid)
    if _parts_of(folder, call_sid, attempts):
        with _locked(folder, call_sid):
            found = _parts_of(folder, call_sid, attempts)  # those that are left
            _add(target, found, ended_at)
            for path in found:
                path.unlink(missing_ok=True)
    return target.name if target.exists() else ""


def channels(recorded: Iterable[list[Piece]], ended_at: float) -> tuple[bytes, bytes]:
    """Lay out the two sides of a call (mu-law, of the same length), from the pieces of each of its workers in order."""
    workers = [pieces for pieces in recorded if pieces]
    if not workers:
        return b"", b""
    origin = min(piece.at for pieces in workers for piece in pieces)
    most = max(0, round((ended_at - origin) * RATE_HZ))
    caller, agent = bytearray(), bytearray()
    for pieces in workers:
        for at, ulaw in _in_time([piece for piece in pieces if piece.kind is Kind.CALLER]):
            _place(caller, at - origin, ulaw)
        for piece in pieces:
            if piece.kind is Kind.AGENT:
                _place(agent, piece.at - origin, piece.ulaw)
            elif piece.kind is Kind.CLEARED:
                del agent[max(0, round((piece.at - origin) * RATE_HZ)) :]
    length = min(most, max(len(caller), len(agent)))
    return tuple(bytes(side[:length].ljust(length, SILENCE)) for side in (caller, agent))  # type: ignore[return-value]


def expired(folder: Path, days: int, now: float | None = None) -> Iterator[CallSid]:
    """Delete recordings older than so many days, and give the calls whose finished ones are gone."""
    before = (time.time() if now is None else now) - days * 86_400
    for path in sorted(folder.glob("*")):
        if path.suffix not in {FINISHED_SUFFIX, SUFFIX, UNDER_WAY, LOCK}:
            continue
        with contextlib.suppress(FileNotFoundError):  # finished meanwhile, or forgotten
            if path.stat().st_mtime >= before:
                continue
            path.unlink()
            if path.suffix == FINISHED_SUFFIX:
                yield CallSid(path.stem)


def delete(folder: Path, call_sid: CallSid) -> int:
    """Delete every file of a call, after whoever is just finishing it; give how many there were."""
    if not _files(folder, call_sid):
        return 0
    with _locked(folder, call_sid):
        found = _files(folder, call_sid)
        for path in found:
            path.unlink(missing_ok=True)
    return len(found)


def _parts_of(folder: Path, call_sid: CallSid, attempts: int) -> list[Path]:
    """List the parts of so many attempts of a call."""
    return [path for path in parts(folder, call_sid) if number_of(path) < attempts * NUMBERS_OF_AN_ATTEMPT]


def _files(folder: Path, call_sid: CallSid) -> list[Path]:
    found = [finished(folder, call_sid), *folder.glob(f"{call_sid}.*{UNDER_WAY}")]
    return [*parts(folder, call_sid), *(path for path in found if path.exists())]


@contextlib.contextmanager
def _locked(folder: Path, call_sid: CallSid) -> Iterator[None]:
    """Be the only one, of all threads and processes, who writes a call's finished recording."""
    path = folder / f"{call_sid}{LOCK}"
    while True:
        with path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _is_still(path, file.fileno()):
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return


def _is_still(path: Path, fd: int) -> bool:
    """Say whether a file that was opened has its name still: a lock's last holder has removed it, and the next makes another."""
    try:
        return path.stat().st_ino == os.fstat(fd).st_ino
    except FileNotFoundError:
        return False


def _add(target: Path, found: Iterable[Path], ended_at: float) -> None:
    """Put parts into a finished recording, which is made when there is none; those that are in it stay what they are."""
    for left in target.parent.glob(f"{target.stem}.*{UNDER_WAY}"):  # of somebody who was killed
        left.unlink(missing_ok=True)
    before = contents(target) if target.exists() else None
    more = [path for path in found if before is None or number_of(path) not in before.parts]
    recorded = [taken for path in more if (taken := list(unpack(path.read_bytes())))]
    if not recorded:
        return
    numbers = [number_of(path) for path in more]
    if before is not None:
        recorded.insert(0, read(target))
        numbers = [*before.parts, *numbers]
        ended_at = max(ended_at, before.origin + len(recorded[0][0].ulaw) / RATE_HZ)
    origin = min(piece.at for taken in recorded for piece in taken)
    caller, agent = channels(recorded, ended_at)
    if caller or agent:
        _write(target, Contents(origin, tuple(numbers)), caller, agent)
        _log.info("recording finished", call_sid=target.stem, seconds=round(len(caller) / RATE_HZ, 1))


def _write(target: Path, held: Contents, caller: bytes, agent: bytes) -> None:
    """Write a file beside, and put it there when it is on the disk: what it replaces is deleted next."""
    fd, name = tempfile.mkstemp(UNDER_WAY, f"{target.stem}.", target.parent)
    fresh = Path(name)
    try:
        write(fresh, held, caller, agent)
        os.fsync(fd)
        fresh.replace(target)
    finally:
        os.close(fd)
        fresh.unlink(missing_ok=True)


def _in_time(frames: list[Piece]) -> Iterator[tuple[float, bytes]]:
    """Say when each of a stream's frames was spoken: their own length tells the pace, their arrival the beginning."""
    if not frames:
        return
    import numpy as np  # 0.1 s and 20 MB that most of this process's life does without

    sizes = np.array([len(frame.ulaw) for frame in frames])
    positions = (np.cumsum(sizes) - sizes) / RATE_HZ
    offsets = np.array([frame.at for frame in frames]) - positions
    following = np.lib.stride_tricks.sliding_window_view(np.pad(offsets, (0, WINDOW - 1), mode="edge"), WINDOW)
    for frame, at in zip(frames, following.min(axis=1) + positions, strict=True):
        yield float(at), frame.ulaw


def _place(side: bytearray, at_s: float, ulaw: bytes) -> None:
    ahead = round(at_s * RATE_HZ) - len(side)
    if ahead > SAME_S * RATE_HZ or (not side and ahead > 0):
        side += SILENCE * ahead
    side += ulaw
