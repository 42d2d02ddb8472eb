"""Plays recordings on a stream past the pipeline: at most `BURST_S` ahead of the caller's ear, whatever their length."""

import asyncio
import base64
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from worker.call.greeting import BURST_S, Piece
from worker.call.media import MEDIA_SUFFIX, media_prefix
from worker.call.playout import Playout
from worker.call.stream import Stream


class Sink(Protocol):
    """What a recording is written beside: the clock it is counted on, and whether the agent may speak now."""

    playout: Playout
    going: asyncio.Event


def _nobody(_size: int) -> None:
    pass


async def play(
    stream: Stream, stream_sid: str, output: Sink, pieces: Iterable[Piece], written: Callable[[int], None] = _nobody
) -> None:
    """Write pieces as the play-out clock wants them, and count them there; returns when the last is written.

    `written` is told the bytes of each. Behind what was written before, and not while the agent halts. What the stream does
    not take any more is dropped.
    """
    prefix = media_prefix(stream_sid)
    playout = output.playout
    for piece in pieces:
        await asyncio.sleep(max(0.0, playout.lead(time.monotonic()) - BURST_S))
        await output.going.wait()
        if stream.send(f"{prefix}{piece.payload}{MEDIA_SUFFIX}"):
            audio = base64.b64decode(piece.payload)
            begins = playout.sent(piece.size, time.monotonic(), audio)
            if playout.tap is not None:
                playout.tap.agent(begins, audio)
            written(piece.size)
