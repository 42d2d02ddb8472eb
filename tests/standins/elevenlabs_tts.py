"""The TTS sockets: contexts side by side, texts of one context in order, sound faster than real time.

Source: the vendor's guide "Multi-Context Websocket", asyncapi.yml, "Buffering" (`flush`, `chunk_length_schedule`,
`auto_mode`), and reports of the live service: a whole segment is timed on its first message; an empty text for a context that
is not there opens it (pipecat#4520). Decided here: what a context that was idle too long ends with (`isFinal`).
"""

from __future__ import annotations

import asyncio
import itertools
import time
from functools import lru_cache
from typing import TYPE_CHECKING

from tests.standins import elevenlabs_wire as wire

if TYPE_CHECKING:
    from tests.standins.elevenlabs_socket import Desk, Socket

MODELS_ELSEWHERE = ("eleven_v3", "eleven_v4")  # served by another endpoint: the upgrade is answered with 400


class TtsSession:
    """Everything asked for on one TTS socket; with `single` there is one context only, without a name (`stream-input`)."""

    def __init__(self, desk: Desk, socket: Socket, *, single: bool = False) -> None:
        self.desk = desk
        self.socket = socket
        query = socket.websocket.query_params
        self.output = wire.FORMATS[query.get("output_format", "pcm_8000")]
        self.language = query.get("language_code", "en")
        self.auto_mode = query.get("auto_mode") == "true"
        self.aligned = query.get("sync_alignment") == "true"
        self.voice = socket.websocket.path_params["voice_id"]
        self.chunks_sent = 0
        self._single = single
        self._contexts: dict[str | None, Context] = {}
        self._tasks: asyncio.TaskGroup

    async def run(self) -> None:
        """Serve the socket until it closes."""
        async with asyncio.TaskGroup() as self._tasks:
            async for text in self.socket.messages():
                if self.desk.settings.stall_tts:
                    self.desk.control.counters["tts_stalled"] += 1
                    continue
                try:
                    await self._take(wire.client_message(text))
                except wire.Refused as refused:
                    self.desk.control.note("tts_error", code=refused.code)
                    await self.socket.refuse(refused)
            for context in self._contexts.values():
                context.task.cancel()

    async def _take(self, message: wire.ClientMessage) -> None:
        if not self.desk.knows(self.socket.websocket, message.xi_api_key):
            raise wire.Refused("invalid_api_key")
        if not self.desk.speaks(self.voice):
            raise wire.Refused("voice_id_does_not_exist", voice=self.voice)
        if message.close_socket:
            await self._end()
        elif message.close_context:
            self._close(message.context)
        elif message.text or message.flush or message.context is not None:
            self._text(message)
        elif self._single:
            await self._end()
        else:
            self.desk.control.counters["kept_alive"] += 1  # keeps the connection open and nothing else

    def _text(self, message: wire.ClientMessage) -> None:
        name = None if self._single else message.context
        context = self._contexts.get(name)
        text = message.text or ""
        if text.strip():
            said = {"text": text, "voice": self.voice, "language": self.language}
            self.desk.control.note("tts_text", context_id=name, **said)
            self.desk.control.counters["characters"] += len(text)
            if code := self.desk.settings.tts_error:
                self.desk.spend("tts_error_next", "tts_error")
                raise wire.Refused(code, name)
        if context is None:
            context = self._open(name, message)
        elif message.voice_settings is not None or message.generation_config is not None:
            raise wire.Refused("voice_settings", name)
        if not text and not message.flush:
            self.desk.control.counters["contexts_kept_alive"] += 1
        context.take(text, flush=bool(message.flush))

    def _open(self, name: str | None, message: wire.ClientMessage) -> Context:
        counters, limit = self.desk.control.counters, self.desk.settings.tts_max_contexts
        if len(self._contexts) >= limit:
            raise wire.Refused("max_active_conversations", name, contexts=limit)
        counters["contexts"] += 1
        counters["contexts_open"] += 1
        config = message.generation_config
        schedule = tuple(config.chunk_length_schedule or ()) if config else ()
        context = Context(self, name, schedule or wire.SCHEDULE)
        context.task = self._tasks.create_task(context.run())
        context.task.add_done_callback(lambda _: self._forget(name, context))
        self._contexts[name] = context
        return context

    def _forget(self, name: str | None, context: Context) -> None:
        if self._contexts.get(name) is context:
            del self._contexts[name]
        self.desk.control.counters["contexts_open"] -= 1

    def _close(self, name: str | None) -> None:
        context = self._contexts.get(name)
        self.desk.control.note("tts_close_context", context_id=name)
        if context is not None:
            self.desk.control.counters["cancelled"] += context.close()

    async def _end(self) -> None:
        """Say what was still to be said, then close."""
        contexts = list(self._contexts.values())
        for context in contexts:
            context.take("", flush=True)
            context.close()
        if contexts:
            await asyncio.wait([context.task for context in contexts])
        elif self._single:
            await self.socket.send(wire.final(None))
        await self.socket.close(wire.NORMAL)


class Context:
    """One context: collects text as its buffering says, speaks, ends when it is closed or was idle too long."""

    task: asyncio.Task[None]

    def __init__(self, session: TtsSession, name: str | None, schedule: tuple[float, ...]) -> None:
        self._session = session
        self._desk = session.desk
        self._name = name
        self._thresholds = itertools.chain(schedule, itertools.repeat(schedule[-1]))
        self._threshold = next(self._thresholds)
        self._buffered = ""
        self._segments: asyncio.Queue[tuple[float, str] | None] = asyncio.Queue()
        self._flushing = False
        self._cut = asyncio.Event()
        self._active_at = time.monotonic()

    def take(self, text: str, *, flush: bool) -> None:
        """Take a text; what is enough is spoken."""
        self._active_at = time.monotonic()
        self._flushing = self._flushing or flush
        self._buffered += text
        enough = self._session.auto_mode or len(self._buffered) >= self._threshold
        if self._buffered.strip() and (flush or enough):
            self._segments.put_nowait((time.monotonic(), self._buffered))
            self._buffered, self._threshold = "", next(self._thresholds)

    def close(self) -> bool:
        """Take no more; what was set to flush is still spoken, anything else is cut off. Say whether something was."""
        cut = not self._flushing
        self._segments.put_nowait(None)
        if cut:
            self._cut.set()
        return cut

    async def run(self) -> None:
        """Speak segment after segment."""
        while (segment := await self._next()) is not None and not self._cut.is_set():
            await self._speak(segment[1], segment[0])
            self._active_at = time.monotonic()
        await asyncio.sleep(self._desk.settings.tts_final_ms / 1000)
        self._desk.control.note("tts_final", context_id=self._name)
        await self._session.socket.send(wire.final(self._name))

    async def _next(self) -> tuple[float, str] | None:
        """Wait for what is to be said next; None when the context is closed or was idle too long."""
        while True:
            idle_s = self._session.socket.idle_s
            left_s = self._active_at + idle_s - time.monotonic() if idle_s else None
            if left_s is not None and left_s <= 0 and self._segments.empty():
                return None
            try:
                async with asyncio.timeout(left_s):
                    return await self._segments.get()
            except TimeoutError:
                continue

    async def _speak(self, text: str, asked_at: float) -> None:
        output, socket, settings = self._session.output, self._session.socket, self._desk.settings
        audio = await asyncio.get_running_loop().run_in_executor(
            self._desk.threads, _audio, self._desk, text, self._session.language, output
        )
        per_ms = output.sample_bytes * output.rate_hz / 1000
        size = max(1, int(settings.tts_chunk_ms * output.rate_hz / 1000)) * output.sample_bytes + settings.tts_odd_bytes
        letters = wire.letters(text, len(audio) / per_ms / 1000)
        each = settings.tts_each_aligned or self._session.aligned
        due = max(asked_at + settings.tts_first_byte_ms / 1000, time.monotonic())
        for at in range(0, len(audio), size):
            await asyncio.sleep(due - time.monotonic())
            if self._cut.is_set():
                return
            if at == 0:
                self._desk.control.note("tts_first_chunk", context_id=self._name, asked_at=asked_at)
            piece = audio[at : at + size]
            some = letters if at == 0 else []
            if each:
                inside = range(at, at + size)
                last = at + size >= len(audio)
                some = [
                    one
                    for one in letters
                    if int(one.start_ms * per_ms) in inside or (last and one.start_ms * per_ms >= at)
                ]
            alignment = wire.alignment(some, at / per_ms if each else 0.0)
            await socket.send(wire.audio(self._name, piece, alignment))
            self._count_chunk()
            due += len(piece) / per_ms / 1000 / max(settings.tts_realtime_factor, 0.01)

    def _count_chunk(self) -> None:
        self._session.chunks_sent += 1
        limit = self._desk.settings.drop_tts_after_chunks
        if limit and self._session.chunks_sent >= limit and not self._session.socket.closed:
            self._desk.spend("drop_tts_next", "drop_tts_after_chunks")
            self._session.socket.drop()


@lru_cache(maxsize=256)
def _audio(desk: Desk, text: str, language: str, output: wire.AudioFormat) -> bytes:
    """Speak, in the format asked for; blocks. What was said once is not computed again."""
    return wire.encoded(desk.speech.synthesize(text, language), output)
