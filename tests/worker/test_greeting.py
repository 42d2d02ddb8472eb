"""The greeting: small first message, few others, every byte, and what was heard of it."""

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.agents import Agent
from shared.clips import Clip
from shared.variables import Values
from worker.call.greeting import BURST_S, FIRST_PIECE_BYTES, PIECE_BYTES, burst, greeting_for, heard_part, record
from worker.call.playout import RATE

TEXT = "Hello, thanks for calling. How can I help you today?"


def clip(audio: bytes) -> Clip:
    """Make a clip of this sound."""
    return Clip(id="greeting", text=TEXT, language="en", voice="", licence="", duration_ms=len(audio) // 8, audio=audio)


def test_the_first_piece_is_20_ms_and_the_others_200_ms() -> None:
    sizes = [piece.size for piece in record(clip(bytes(RATE))).pieces]
    assert sizes[0] == FIRST_PIECE_BYTES == 160
    assert set(sizes[1:-1]) == {PIECE_BYTES} == {1600}
    assert 0 < sizes[-1] <= 1600


@pytest.mark.parametrize(
    ("length", "sizes"),
    [(1, [1]), (160, [160]), (161, [160, 1]), (1760, [160, 1600]), (1761, [160, 1600, 1])],
)
def test_short_clips_have_no_empty_piece(length: int, sizes: list[int]) -> None:
    assert [piece.size for piece in record(clip(bytes(length))).pieces] == sizes


@settings(deadline=None)
@given(st.integers(1, 10 * RATE))
def test_no_byte_is_lost_doubled_or_moved(length: int) -> None:
    audio = (bytes(range(251)) * (length // 251 + 1))[:length]  # a prime number: no two pieces are alike
    pieces = record(clip(audio)).pieces
    decoded = [base64.b64decode(piece.payload) for piece in pieces]
    assert b"".join(decoded) == audio
    assert [len(piece) for piece in decoded] == [piece.size for piece in pieces]


@settings(deadline=None)
@given(st.integers(1, 10 * RATE))
def test_the_burst_is_the_clip_or_5_s_rounded_up_to_a_piece(length: int) -> None:
    recording = record(clip(bytes(length)))
    messages, used, audio = burst(recording, "MZ01")
    assert used == len(messages)
    assert audio == sum(piece.size for piece in recording.pieces[:used])
    if audio < length:
        assert BURST_S * RATE <= audio < BURST_S * RATE + PIECE_BYTES


def test_a_message_of_the_burst_is_a_media_message_of_this_stream() -> None:
    recording = record(clip(bytes(range(256)) * 2))
    messages, _, _ = burst(recording, 'M"Z')
    assert [json.loads(message) for message in messages] == [
        {"event": "media", "streamSid": 'M"Z', "media": {"payload": piece.payload}} for piece in recording.pieces
    ]


def test_one_recording_serves_many_calls() -> None:
    recording = record(clip(bytes(1000)))
    first, again = burst(recording, "MZ01"), burst(recording, "MZ01")
    assert first == again
    assert burst(recording, "MZ02")[0] != first[0]


@pytest.mark.parametrize(
    ("share", "heard"),
    [
        (-1.0, ""),
        (0.0, ""),
        (0.05, ""),
        (0.1, "Hello,…"),
        (0.5, "Hello, thanks for calling. How…"),
        (0.99, "Hello, thanks for calling. How can I help you…"),
        (1.0, TEXT),
        (7.0, TEXT),
    ],
)
def test_what_was_heard_is_cut_at_the_word_that_was_playing(share: float, heard: str) -> None:
    assert heard_part(TEXT, share) == heard


@settings(deadline=None)
@given(st.text(max_size=60), st.floats(0, 1), st.floats(0, 1))
def test_more_of_the_sound_is_never_less_of_the_text(text: str, one: float, other: float) -> None:
    less, more = sorted((one, other))
    assert len(heard_part(text, less).split()) <= len(heard_part(text, more).split())


def test_a_voice_greets_the_customer_by_name_when_that_is_known() -> None:
    agent = Agent(greeting="Hello {{customer.name|there}}.")
    assert greeting_for(agent, Values()).greeting == "Hello there."
    assert greeting_for(agent, Values(record={"customer": {"name": "Ana"}})).greeting == "Hello Ana."
    plain = Agent(greeting="Hello.")
    assert greeting_for(plain, Values(record={"customer": {"name": "Ana"}})) is plain
