"""One Pipecat service in a running pipeline, for checking a stand-in against the client that will really use it."""

from __future__ import annotations

import asyncio
import warnings
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from pipecat.frames.frames import InputAudioRawFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.workers.runner import WorkerRunner

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # pipecat.services.tts_service subclasses its own old classes
    from pipecat.services.cartesia.tts import CartesiaTTSService

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pipecat.frames.frames import Frame

__all__ = ["CartesiaTTSService", "Rig", "frames_of", "of_kind", "piped"]

RATE_HZ = 8000
FRAME_BYTES = 320  # 20 ms of PCM
DEADLINE_S = 30.0

FrameT = TypeVar("FrameT", bound="Frame")


class Collector(FrameProcessor):
    """Keeps what comes out of the service, at the end of the pipeline."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: asyncio.Queue[Frame] = asyncio.Queue()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Keep the frame and pass it on."""
        await super().process_frame(frame, direction)
        if direction is FrameDirection.DOWNSTREAM:
            self.frames.put_nowait(frame)
        await self.push_frame(frame, direction)


class Rig:
    """A running pipeline of one service."""

    def __init__(self, worker: PipelineWorker, collector: Collector) -> None:
        self._worker = worker
        self._collector = collector

    async def send(self, *frames: Frame) -> None:
        """Put frames into the pipeline."""
        for frame in frames:
            await self._worker.queue_frame(frame)

    async def until(self, kind: type[Frame]) -> list[Frame]:
        """Return the frames that came out, up to and with the first of this kind."""
        async with asyncio.timeout(DEADLINE_S):
            frames = [await self._collector.frames.get()]
            while not isinstance(frames[-1], kind):
                frames.append(await self._collector.frames.get())
        return frames


def of_kind(frames: list[Frame], kind: type[FrameT]) -> list[FrameT]:
    """Pick the frames of one kind."""
    return [frame for frame in frames if isinstance(frame, kind)]


def frames_of(pcm: bytes) -> list[InputAudioRawFrame]:
    """Cut PCM into the 20 ms frames of a phone call."""
    return [InputAudioRawFrame(pcm[at : at + FRAME_BYTES], RATE_HZ, 1) for at in range(0, len(pcm), FRAME_BYTES)]


@asynccontextmanager
async def piped(service: FrameProcessor) -> AsyncIterator[Rig]:
    """Run a service at 8 kHz around a block."""
    collector = Collector()
    worker = PipelineWorker(
        Pipeline([service, collector]),
        params=PipelineParams(audio_in_sample_rate=RATE_HZ, audio_out_sample_rate=RATE_HZ),
        idle_timeout_secs=None,
        enable_rtvi=False,
    )
    started = asyncio.Event()

    async def on_started(*_: object) -> None:
        started.set()

    worker.add_event_handler("on_pipeline_started", on_started)
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())
    try:
        async with asyncio.timeout(DEADLINE_S):
            await started.wait()
        yield Rig(worker, collector)
    finally:
        await worker.cancel()
        await running
