"""Finished recordings: what the workers of a call have written becomes one stereo file, caller left, agent right.

The caller's frames come at their own pace, and late ones come together: each is placed by the least delayed of those that
follow it, so that a worker that was stopped for a second leaves no hole. The agent's sound is where the carrier played it;
what was taken back, or would have been played after the end, is not in it.
"""

import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from shared import logs
from shared.calls import CallSid
from shared.rawrecording import FINISHED_SUFFIX, SUFFIX, Kind, Piece, finished, parts, unpack

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # gone in 3.13, where audioop-lts provides it
    import audioop

RATE_HZ: Final = 8000
SILENCE: Final = b"\xff"
"""mu-law's zero."""

SAME_S: Final = 0.06
"""A frame this near to the end of the one before follows it: that was jitter."""

WINDOW: Final = 150
"""How many frames (3 s) are looked at for one that was not delayed."""

BLOCK_S: Final = 10

_log = logs.get(__name__)


def finish(folder: Path, call_sid: CallSid, ended_at: float) -> str:
    """Encode what was recorded of a call that ended at `ended_at` (unix seconds), delete what it was made of, give its name.

    Empty when nothing was recorded. A recording that is finished stays as it is.

    Raises:
        OSError: the folder cannot be read or written.
    """
    target = finished(folder, call_sid)
    found = parts(folder, call_sid)
    if found:
        caller, agent = channels([list(unpack(path.read_bytes())) for path in found], ended_at)
        if caller or agent:
            fresh = target.with_suffix(".new")
            _encode(fresh, caller, agent)
            fresh.replace(target)
        for path in found:
            path.unlink(missing_ok=True)
        _log.info("recording finished", call_sid=call_sid, seconds=round(len(caller) / RATE_HZ, 1))
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
        if path.suffix not in {FINISHED_SUFFIX, SUFFIX, ".new"} or path.stat().st_mtime >= before:
            continue
        path.unlink(missing_ok=True)
        if path.suffix == FINISHED_SUFFIX:
            yield CallSid(path.stem)


def delete(folder: Path, call_sid: CallSid) -> int:
    """Delete every file of a call; give how many there were."""
    found = [path for path in (*parts(folder, call_sid), finished(folder, call_sid)) if path.exists()]
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)


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


def _encode(path: Path, caller: bytes, agent: bytes) -> None:
    import numpy as np  # as above
    import soundfile  # 20 ms and libsndfile

    path.touch(mode=0o600)
    step = BLOCK_S * RATE_HZ
    with soundfile.SoundFile(path, "w", RATE_HZ, 2, format="OGG", subtype="OPUS") as out:
        for start in range(0, len(caller), step):
            sides = [
                np.frombuffer(audioop.ulaw2lin(side[start : start + step], 2), dtype=np.int16)
                for side in (caller, agent)
            ]
            out.write(np.stack(sides, axis=1))
