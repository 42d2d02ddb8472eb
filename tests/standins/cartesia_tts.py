"""The TTS socket: contexts side by side, inputs of one context in order, audio faster than real time.

Source: docs.cartesia.ai, "TTS (WebSocket)", "Contexts", "Buffering" (managed: text waits until there is enough of it or
`max_buffer_delay_ms` has passed), "Context flushing". What is not published and decided here: what is enough; that the delay
counts from the first text that waits; a context that expires ends with `done`, and an input for an ended context is refused;
a cancelled context falls silent; only what is flushed, by hand or with a delay of 0, is answered with `flush_done`.
"""

from __future__ import annotations

import asyncio
import time
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from tests.standins import cartesia_wire as wire
from tests.standins import modem
from tests.standins.speech import spread

if TYPE_CHECKING:
    from tests.standins.cartesia_socket import Desk, Socket

SENTENCE_ENDS = (".", "!", "?", ":", ";", "。")
LONG_ENOUGH = 120  # characters after which managed buffering waits no longer; the vendor's rule is not published


class TtsSession:
    """Everything asked for on one TTS socket."""

    def __init__(self, desk: Desk, socket: Socket) -> None:
        self.desk = desk
        self.socket = socket
        self.chunks_sent = 0
        self._contexts: dict[str, Context] = {}
        self._ended: set[str] = set()
        self._tasks: asyncio.TaskGroup

    async def run(self) -> None:
        """Serve the socket until it closes."""
        async with asyncio.TaskGroup() as self._tasks:
            async for message in self.socket.messages():
                if self.desk.settings.stall_tts:
                    self.desk.control.counters["tts_stalled"] += 1
                    continue
                try:
                    self._take(wire.parse_request(message if isinstance(message, str) else message.decode()))
                except wire.Refused as refused:
                    self.desk.control.note("tts_refused_input", status=refused.status, message=refused.message)
                    await self.socket.refuse(refused)
            for context in self._contexts.values():
                context.task.cancel()

    def _take(self, request: wire.Generation | wire.Cancel) -> None:
        control, context_id = self.desk.control, request.context_id
        if isinstance(request, wire.Cancel):
            control.note("tts_cancel", context_id=context_id)
            control.counters["cancelled"] += context_id in self._contexts
            if context_id in self._contexts:
                self._contexts[context_id].task.cancel()
            self._ended.add(context_id)
            return
        self.socket.touch()
        voice = request.voice if isinstance(request.voice, str) else request.voice.id
        said = {"text": request.transcript, "language": request.language, "voice": voice}
        control.note("tts_text", context_id=context_id, buffer_ms=request.max_buffer_delay_ms, **said)
        control.counters["characters"] += len(request.transcript)
        if status := self.desk.settings.tts_error_code:
            self.desk.spend("tts_error_next", "tts_error_code")
            raise wire.Refused(status, "made to fail", context_id)
        if context_id in self._ended:
            raise wire.Refused(400, "the context has ended", context_id)
        context = self._contexts.get(context_id) or self._open(request)
        if context.first.fixed() != request.fixed():
            raise wire.Refused(400, "model, voice, language and output format of a context cannot change", context_id)
        context.inputs.put_nowait((time.monotonic(), request))

    def _open(self, request: wire.Generation) -> Context:
        counters = self.desk.control.counters
        limit = self.desk.settings.tts_max_contexts
        if limit and counters["contexts_open"] >= limit:
            raise wire.Refused(429, "too many contexts", request.context_id)
        counters["contexts"] += 1
        counters["contexts_open"] += 1
        context = Context(self, request)
        context.task = self._tasks.create_task(context.run())
        context.task.add_done_callback(lambda _: self._forget(request.context_id))
        self._contexts[request.context_id] = context
        return context

    def _forget(self, context_id: str) -> None:
        self._contexts.pop(context_id, None)
        self._ended.add(context_id)
        self.desk.control.counters["contexts_open"] -= 1
        self.socket.touch()


class Context:
    """One context: collects text as long as its buffering says, generates, ends."""

    task: asyncio.Task[None]

    def __init__(self, session: TtsSession, first: wire.Generation) -> None:
        self.first = first
        self.inputs: asyncio.Queue[tuple[float, wire.Generation]] = asyncio.Queue()
        self._session = session
        self._desk = session.desk
        self._flush_id = 1
        self._spoken_s = 0.0  # audio generated so far
        self._heard_until = 0.0  # when it has been heard, if played as it came; monotonic
        self._idle_since = 0.0  # when the last generation ended; monotonic

    async def run(self) -> None:
        """Work through the inputs; ends with the last one, or when the context expires."""
        buffered, since, delay_s = "", 0.0, self.first.max_buffer_delay_ms / 1000
        while True:
            deadline = since + delay_s if buffered else self._expires_at()
            try:
                async with asyncio.timeout_at(deadline and deadline + _loop_offset()):
                    at, request = await self.inputs.get()
            except TimeoutError:
                if not buffered:
                    break
                await self._generate(buffered, since + delay_s, flushed=False)
                buffered = ""
                continue
            since = since if buffered else at
            buffered += request.transcript
            flushed = request.flush or (request.continues and not delay_s)
            if flushed or not request.continues or _enough(buffered):
                await self._generate(buffered, at, flushed=flushed)
                buffered = ""
            if not request.continues:
                await self._done()
                return
        if not self._desk.settings.tts_expire_silently:
            await self._done()

    async def _done(self) -> None:
        self._desk.control.note("tts_done", context_id=self.first.context_id)
        await self._session.socket.send(wire.done(self.first.context_id))

    def _expires_at(self) -> float | None:
        expire_s = self._desk.settings.tts_context_expire_s
        return self._heard_until + expire_s if expire_s and self._heard_until else None

    async def _generate(self, text: str, asked_at: float, *, flushed: bool) -> None:
        if text.strip():
            await self._speak(text, asked_at)
        if flushed:
            await self._session.socket.send(wire.flush_done(self.first.context_id, self._flush_id))
            self._flush_id += 1

    async def _speak(self, text: str, asked_at: float) -> None:
        output, socket, settings = self.first.output_format, self._session.socket, self._desk.settings
        if settings.tts_tone_hz:
            audio = wire.encoded(tone(text, settings.tts_tone_hz, self._spoken_s), output)
        else:
            audio = await asyncio.get_running_loop().run_in_executor(
                self._desk.threads, _audio, self._desk, text, self.first.language or "en", output
            )
        second = wire.sample_bytes(output.encoding) * output.sample_rate
        size = max(1, int(settings.tts_chunk_ms * output.sample_rate / 1000)) * wire.sample_bytes(output.encoding)
        size = settings.tts_chunk_bytes or size
        # An input that waited behind another of its context does not wait for the model a second time.
        due = max(asked_at + settings.tts_first_byte_ms / 1000, self._idle_since)
        for at in range(0, len(audio), size):
            await asyncio.sleep(due - time.monotonic())
            if at == 0:
                self._desk.control.note("tts_first_chunk", context_id=self.first.context_id, asked_at=asked_at)
                self._heard_until = max(self._heard_until, time.monotonic()) + len(audio) / second
            step_ms = (time.monotonic() - asked_at) * 1000
            piece = audio[at : at + size]
            await socket.send(wire.chunk(self.first.context_id, piece, self._flush_id, step_ms))
            if at == 0 and self.first.add_timestamps:
                times = spread(text, len(audio) / second, self._spoken_s)
                await socket.send(wire.timestamps(self.first.context_id, *times, self._flush_id))
            self._count_chunk()
            due += len(piece) / second / max(settings.tts_realtime_factor, 0.01)
        self._spoken_s += len(audio) / second
        self._idle_since = time.monotonic()
        socket.touch()

    def _count_chunk(self) -> None:
        self._session.chunks_sent += 1
        limit = self._desk.settings.drop_tts_after_chunks
        if limit and self._session.chunks_sent >= limit and not self._session.socket.closed:
            self._desk.spend("drop_tts_next", "drop_tts_after_chunks")
            self._session.socket.drop()


def tone(text: str, hz: float, start_s: float = 0.0) -> bytes:
    """Make a pure tone as long as the words of a text take, from its phase at `start_s` on: PCM s16le, 8 kHz mono."""
    first = round(start_s * wire.RATE_HZ)
    count = round(sum(map(modem.duration_s, text.split())) * wire.RATE_HZ)
    wave = modem.AMPLITUDE * np.sin(2 * np.pi * hz / wire.RATE_HZ * np.arange(first, first + count))
    return bytes(np.round(wave).astype("<i2").tobytes())


def _enough(buffered: str) -> bool:
    return buffered.rstrip().endswith(SENTENCE_ENDS) or len(buffered) >= LONG_ENOUGH


def _loop_offset() -> float:
    """Return what must be added to `time.monotonic()` to get the event loop's clock."""
    return asyncio.get_running_loop().time() - time.monotonic()


@lru_cache(maxsize=256)
def _audio(desk: Desk, text: str, language: str, output: wire.OutputFormat) -> bytes:
    """Speak, in the encoding asked for; blocks. What was said once is not computed again."""
    return wire.encoded(desk.speech.synthesize(text, language), output)
