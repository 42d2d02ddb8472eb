"""The sound of the voice arrives sample by sample, however its bytes were cut: a tone shows every click."""

import asyncio
import base64
import json
import warnings
from collections.abc import Iterator
from typing import Any, Final, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from pipecat.frames.frames import LLMFullResponseEndFrame, LLMFullResponseStartFrame, LLMTextFrame, TTSStoppedFrame
from pipecat.pipeline.pipeline import Pipeline

from shared.settings import Settings
from tests.standins.cartesia_tts import tone
from tests.standins.pipecat_rig import piped
from tests.standins.process import Standin, started
from tests.tones import distortion_db, largest_jump
from worker.call.stream import Stream
from worker.call.transport import Output
from worker.providers.cartesia_tts import CartesiaVoice

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # gone in 3.13, where audioop-lts provides it
    import audioop

TONE_HZ: Final = 1004.0
"""The test tone of telephony: no divisor of the sampling rate, so that every sample differs."""

TEXT: Final = "One two three. Four five."
PIECE_BYTES: Final = 320


@pytest.fixture(scope="module")
def process() -> Iterator[Standin]:
    with started(
        "cartesia", connect_ms=0, tts_first_byte_ms=0, tts_realtime_factor=100, tts_tone_hz=TONE_HZ
    ) as standin:
        yield standin


class Line:
    """A stream that keeps the sound written to it."""

    def __init__(self) -> None:
        self.writable = asyncio.Event()
        self.writable.set()
        self.ulaw = b""

    def send(self, *texts: str) -> bool:
        """Keep sound."""
        for message in map(json.loads, texts):
            if message["event"] == "media":
                self.ulaw += base64.b64decode(message["media"]["payload"])
        return True


async def said(process: Standin, **flags: Any) -> bytes:
    """Give the mu-law that goes to the carrier for a text that the model writes word by word."""
    await process.control(**flags)
    settings = Settings(
        _env_file=None,
        openai_api_key="key",
        cartesia_api_key="key",
        cartesia_voice_id="a-voice",
        cartesia_tts_url=f"ws://127.0.0.1:{process.port}/tts/websocket",
        cartesia_tts_buffer_ms=1,
    )
    voice, output, line = CartesiaVoice(settings, lambda _why: None), Output(), Line()
    output.attach(cast("Stream", line), "MZ01")
    voice.on_word, voice.on_void = output.word, output.void
    voice.serve()
    async with piped(Pipeline([voice, output])) as rig:
        await rig.send(LLMFullResponseStartFrame())
        await rig.send(*(LLMTextFrame(f"{word} ") for word in TEXT.split()), LLMFullResponseEndFrame())
        await rig.until(TTSStoppedFrame)
    return line.ulaw


def samples(ulaw: bytes) -> NDArray[np.float64]:
    return np.frombuffer(audioop.ulaw2lin(ulaw, 2), dtype="<i2").astype(np.float64)


@pytest.mark.parametrize("size", [57, 1601])
async def test_sound_that_is_cut_inside_samples_comes_out_sample_by_sample(process: Standin, size: int) -> None:
    ideal = audioop.lin2ulaw(tone(TEXT, TONE_HZ), 2)
    sent = await said(process, tts_chunk_bytes=size)
    assert sent[: len(ideal)] == ideal
    assert len(sent) % PIECE_BYTES == 0
    assert set(sent[len(ideal) :]) <= {0xFF}, "what fills the last piece is silence"


async def test_a_tone_is_one_clean_peak_without_clicks(process: Standin) -> None:
    pure = tone(TEXT, TONE_HZ)
    ideal = samples(audioop.lin2ulaw(pure, 2))
    heard = samples((await said(process, tts_chunk_bytes=1601))[: len(ideal)])
    assert distortion_db(heard, TONE_HZ) <= distortion_db(ideal, TONE_HZ) + 0.01
    assert largest_jump(heard) <= largest_jump(ideal)


async def test_a_sample_cut_off_with_its_connection_does_not_shift_those_that_follow(process: Standin) -> None:
    """The next connection begins a tone of its own: one step at each seam, and no noise."""
    heard = samples(await said(process, tts_chunk_bytes=1601, drop_tts_after_chunks=4, drop_tts_next=2))
    ideal = samples(audioop.lin2ulaw(tone(TEXT, TONE_HZ), 2))
    jumps = np.abs(np.diff(heard))
    assert np.count_nonzero(jumps > largest_jump(ideal)) <= 2
    assert abs(len(heard) - len(ideal)) <= 2 * PIECE_BYTES


def test_the_measures_see_a_click_and_a_shift() -> None:
    """They would be worth nothing otherwise."""
    pure = tone(TEXT, TONE_HZ)
    ideal = samples(audioop.lin2ulaw(pure, 2))
    clicked = np.concatenate([ideal[:4000], ideal[4003:]])
    shifted = np.frombuffer(pure[:8000] + b"\0" + pure[8000:-1], dtype="<i2").astype(np.float64)
    assert distortion_db(clicked, TONE_HZ) > distortion_db(ideal, TONE_HZ) + 3
    assert min(largest_jump(clicked), largest_jump(shifted)) > largest_jump(ideal)
    with pytest.raises(AssertionError, match="peak"):
        distortion_db(shifted, TONE_HZ)
