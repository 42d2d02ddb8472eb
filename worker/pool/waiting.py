"""A call that has no worker for a moment: its caller hears bridging words, and what it says goes to the tape.

Reads the stream as a worker would, because a carrier whose messages nobody reads drops them, and because a hang-up is one of
them. Everything is given back by `leave`, without ending the connection.
"""

import asyncio
import base64
import contextlib
import os
from collections.abc import Callable
from typing import Final

from shared.calls import EndReason, StreamSid
from worker.call.media import MEDIA_SUFFIX, Audio, Codec, Stopped, clear_message, media_prefix
from worker.call.memory import remember
from worker.call.stream import Stream, open_stream
from worker.call.tape import Tape
from worker.pool.book import Call

EVERY_S: Final = 8.0
"""Between two bridging words: a caller who hears nothing for longer hangs up."""

HungUp = Callable[[Call, EndReason], None]


class Waiting:
    """One waiting call. `hung_up` is called when the caller leaves, with why; nothing is called after `leave`.

    A stream whose `start` nobody is known to have read is left alone: what it says first is for the worker that comes.
    """

    def __init__(self, call: Call, bridging: bytes, hung_up: HungUp) -> None:
        self._call = call
        self._bridging = base64.b64encode(bridging).decode()
        self._hung_up = hung_up
        self._codec = Codec(call.stream_sid or "")
        self._tape = None if call.tape is None else Tape(os.dup(call.tape))
        if self._tape is not None:
            self._tape.speech_began()  # nobody listens who could tell speech from silence: all of it is kept
        self._stream: Stream | None = None
        self._left = False
        self._timer: asyncio.TimerHandle | None = None
        self._opening: asyncio.Task[None] | None = None
        if call.stream_sid:
            self._opening = asyncio.create_task(self._open(call.stream_sid))

    def leave(self) -> None:
        """Stop reading and speaking: somebody else does now."""
        self._left = True
        if self._timer is not None:
            self._timer.cancel()
        if self._opening is not None:
            self._opening.cancel()
        if self._stream is not None:
            self._stream.leave()
        if self._tape is not None:
            self._tape.close()
            self._tape = None

    def text(self, data: bytes) -> None:
        """Take a message of the carrier."""
        event, _ = self._codec.read(data)
        match event:
            case Audio() if self._tape is not None:
                self._tape.write(event.ulaw)
            case Stopped():
                self._gone(EndReason.CALLER_HANGUP)
            case _:
                pass

    def binary(self) -> None:
        """Leave a binary message out."""

    def oversize(self) -> None:
        """Leave it to `ended`."""

    def ended(self, code: int | None) -> None:
        """Note that the caller, or the connection, is gone."""
        self._gone(EndReason.STREAM_LOST if code is None else EndReason.CALLER_HANGUP)

    def _gone(self, why: EndReason) -> None:
        if not self._left:
            self._left = True
            self._hung_up(self._call, why)

    async def _open(self, stream_sid: StreamSid) -> None:
        assert self._call.stream is not None  # noqa: S101 - only a call with a stream waits
        with contextlib.suppress(OSError):
            self._stream = await open_stream(self._call.stream.dup(), self, resync=True)
            if self._bridging and remember(self._call.journal).owed:
                self._stream.send(clear_message(stream_sid))  # what broke off will be said again
            self._speak(stream_sid)

    def _speak(self, stream_sid: StreamSid) -> None:
        if self._left or self._stream is None or not self._bridging:
            return
        self._stream.send(f"{media_prefix(stream_sid)}{self._bridging}{MEDIA_SUFFIX}")
        self._call.bridged = True
        self._timer = asyncio.get_running_loop().call_later(EVERY_S, self._speak, stream_sid)
