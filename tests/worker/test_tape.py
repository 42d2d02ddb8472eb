"""The tape: what a successor needs of the caller's audio, and that it outlives its writer."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pool_process import DEADLINE_S, REPOSITORY, descriptors
from worker.call.playout import RATE
from worker.call.tape import GIVEN_UP_BYTES, PIECE_BYTES, PREROLL_BYTES, RING_BYTES, Tape, make_tape, pieces

FRAME = 160


class Reel:
    """A tape under test: the descriptor that a pool would hold, and sound that never repeats."""

    def __init__(self) -> None:
        self.fd = make_tape()
        self.tape = self.again()
        self._numbers = count()
        self.said = b""

    def again(self) -> Tape:
        """Open it as a successor does."""
        return Tape(os.dup(self.fd))

    def hear(self, length: int = FRAME) -> bytes:
        """Write sound, and give it."""
        sound = b"".join(number.to_bytes(4) for number in (next(self._numbers) for _ in range(length // 4 + 1)))[
            :length
        ]
        self.tape.write(sound)
        self.said += sound
        return sound

    def silence(self, length: int) -> None:
        """Let a time pass in frames, as a carrier does."""
        for _ in range(length // FRAME):
            self.hear()


@pytest.fixture
def reel() -> Iterator[Reel]:
    made = Reel()
    yield made
    made.tape.close()
    os.close(made.fd)


def test_the_descriptor_is_not_inherited_and_a_closed_tape_leaves_nothing() -> None:
    before = descriptors(os.getpid())
    fd = make_tape()
    assert not os.get_inheritable(fd)
    Tape(fd).close()
    assert descriptors(os.getpid()) == before


def test_before_anybody_was_understood_everything_is_needed(reel: Reel) -> None:
    assert reel.again().unheard() == b""
    reel.silence(20 * GIVEN_UP_BYTES // 8)
    assert reel.again().unheard() == reel.said


def test_of_silence_the_last_half_second_is_kept(reel: Reel) -> None:
    reel.tape.speech_began()
    reel.hear()
    reel.tape.speech_ended()
    reel.tape.written_down()
    reel.silence(2 * PREROLL_BYTES)
    assert reel.again().unheard() == reel.said[-PREROLL_BYTES:]


def test_a_voice_is_kept_from_before_it_was_noticed_until_it_is_written_down(reel: Reel) -> None:
    reel.tape.written_down()
    reel.silence(3 * PREROLL_BYTES)
    noticed = len(reel.said)
    reel.tape.speech_began()
    reel.silence(4 * GIVEN_UP_BYTES // 5 * 2)
    assert reel.again().unheard() == reel.said[noticed - PREROLL_BYTES :]
    reel.tape.speech_ended()
    pause = len(reel.said)
    reel.silence(PREROLL_BYTES // 2)
    assert reel.again().unheard() == reel.said[noticed - PREROLL_BYTES :]
    reel.tape.written_down()
    assert reel.again().unheard() == reel.said[pause:]


def test_a_pause_within_a_turn_lets_nothing_go(reel: Reel) -> None:
    reel.tape.written_down()
    reel.tape.speech_began()
    reel.silence(8000)
    reel.tape.speech_ended()
    reel.silence(4000)
    reel.tape.speech_began()
    reel.silence(8000)
    assert reel.again().unheard() == reel.said


def test_what_was_not_understood_long_after_a_pause_was_no_speech(reel: Reel) -> None:
    reel.tape.written_down()
    reel.tape.speech_began()
    reel.hear(8000)
    reel.tape.speech_ended()
    reel.silence(GIVEN_UP_BYTES)
    assert reel.again().unheard() == reel.said
    reel.hear()
    assert reel.again().unheard() == reel.said[-PREROLL_BYTES:]


def test_no_more_is_given_than_the_ring_holds(reel: Reel) -> None:
    reel.tape.speech_began()
    reel.hear(RING_BYTES + 12_344)
    assert reel.again().unheard() == reel.said[-RING_BYTES:]
    reel.hear(8000)
    assert reel.again().unheard() == reel.said[-RING_BYTES:]


def test_a_piece_larger_than_the_ring_keeps_its_end(reel: Reel) -> None:
    reel.hear(77)
    reel.hear(2 * RING_BYTES + 3)
    assert reel.again().unheard() == reel.said[-RING_BYTES:]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.one_of(st.integers(1, 1000), st.sampled_from([RING_BYTES // 2, RING_BYTES - 1])), max_size=12))
def test_across_the_end_of_the_ring_sound_stays_in_order(lengths: list[int]) -> None:
    reel = Reel()
    for length in lengths:
        reel.hear(length)
        assert reel.again().unheard() == reel.said[-RING_BYTES:]
    os.close(reel.fd)


def test_sound_that_was_not_counted_yet_is_not_given(reel: Reel) -> None:
    """A writer killed between the sound and its position: the last piece is missing, nothing is torn."""
    first = reel.hear()
    torn = reel.again()
    torn._map[16 + FRAME : 16 + 2 * FRAME] = b"\x01" * FRAME
    assert reel.again().unheard() == first


def test_a_successor_keeps_what_it_was_given_until_it_had_time_to_understand(reel: Reel) -> None:
    """Its own death, a moment later, must not cost the words that killed calls were about."""
    reel.tape.written_down()
    reel.tape.speech_began()
    reel.hear(8000)
    reel.tape = reel.again()
    reel.silence(PREROLL_BYTES * 2)
    assert reel.again().unheard() == reel.said
    reel.tape = reel.again()
    reel.silence(GIVEN_UP_BYTES)
    reel.hear()
    assert reel.again().unheard() == reel.said[-PREROLL_BYTES:], "there was no voice in it"


def test_a_successor_that_notices_the_voice_keeps_it(reel: Reel) -> None:
    reel.hear(8000)
    reel.tape = reel.again()
    reel.tape.speech_began()
    reel.silence(2 * GIVEN_UP_BYTES)
    assert reel.again().unheard() == reel.said


def test_pieces_are_those_of_a_carrier_and_lose_nothing() -> None:
    audio = bytes(range(250)) * 3
    cut = pieces(audio)
    assert b"".join(cut) == audio
    assert {len(piece) for piece in cut[:-1]} == {PIECE_BYTES}
    assert pieces(b"") == []


WRITER = """
import sys
from worker.call.playout import RATE
from worker.call.tape import Tape
tape = Tape(int(sys.argv[1]))
tape.speech_began()
tape.write(b"said before the kill")
print("written", flush=True)
sys.stdin.read()
"""


def test_what_was_written_outlives_the_kill_of_its_writer(reel: Reel) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(reel.fd)],
        cwd=REPOSITORY,
        pass_fds=[reel.fd],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"written\n"
        writer.send_signal(signal.SIGKILL)
        assert writer.wait(DEADLINE_S) == -signal.SIGKILL
    assert reel.again().unheard() == b"said before the kill"


def test_a_voice_that_begins_before_the_words_of_the_last_are_written_down_is_kept_from_its_beginning() -> None:
    """A recogniser may take its time: the caller speaks again before the first sentence stands in the journal."""
    tape = Tape(make_tape())
    tape.write(b"\x01" * RATE * 3)
    tape.speech_began(0)
    tape.speech_ended(2 * RATE)
    tape.write(b"\x02" * RATE * 2)
    tape.speech_began(3 * RATE)
    tape.written_down()
    assert tape.unheard().count(b"\x02") == 2 * RATE
    tape.speech_ended(5 * RATE)
    tape.written_down()
    assert tape.unheard() == b""


def test_positions_are_those_the_pipeline_has_seen_and_not_those_that_were_written() -> None:
    """On a busy machine it notices a pause when the next words are on the tape already: they are not written down yet."""
    tape = Tape(make_tape())
    tape.write(b"\x01" * RATE + b"\x02" * RATE)
    tape.speech_began(0)
    tape.speech_ended(RATE)
    tape.written_down()
    assert tape.unheard() == b"\x02" * RATE
