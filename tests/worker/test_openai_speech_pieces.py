"""A text cut for a voice that takes pieces, where its words are, and its sound at 8 kHz."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.standins import modem
from worker.providers.openai_pieces import Pace, Piece, Pieces
from worker.providers.openai_sound import VENDOR_HZ, Converter
from worker.providers.spoken import Void

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

RATE_HZ = 8000


def cut(*texts: str) -> list[str]:
    pieces = Pieces()
    return [piece for text in texts for piece in pieces.add(text)] + pieces.rest()


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Of course, I can do that. ", ["Of course, I can do that."]),
        ("Thank you for calling us, one moment. ", ["Thank you for calling us,", "one moment."]),
        (
            "Sure. I will look at the calendar of Dr. Silva now. ",
            ["Sure.", "I will look at the calendar of Dr. Silva now."],
        ),
        (
            "We open at 3 p.m. today. Come in! Or call us again later. Bye.",
            ["We open at 3 p.m. today.", "Come in! Or call us again later.", "Bye."],
        ),
        ("It costs 3.50, and 1,000 more: ok", ["It costs 3.50, and 1,000 more:", "ok"]),
        ("你好。我可以帮你预约吗？", ["你好。", "我可以帮你预约吗？"]),  # noqa: RUF001 - Chinese signs
        ("... !", []),
    ],
)
def test_a_text_is_cut_at_a_clause_and_then_at_sentences(text: str, pieces: list[str]) -> None:
    assert cut(text) == pieces


def test_the_first_piece_is_given_when_its_clause_is_there() -> None:
    pieces = Pieces()
    assert pieces.add("I have found your") == []
    assert pieces.add(" appointment,") == []  # a number could follow
    assert pieces.add(" it is") == ["I have found your appointment,"]
    assert pieces.add(" on Friday at noon.") == []
    assert pieces.rest() == ["it is on Friday at noon."]


def test_a_text_without_any_border_is_cut_between_words() -> None:
    pieces = cut(*["word "] * 200)
    assert len(pieces) > 1
    assert {word for piece in pieces for word in piece.split()} == {"word"}


@given(st.lists(st.text(st.sampled_from("ab ,.;!?1A\n"), max_size=30), max_size=20))
def test_no_letter_is_lost_or_said_twice_however_the_text_comes(texts: list[str]) -> None:
    said = "".join(" ".join(cut(*texts)).split())
    asked = "".join("".join(texts).split())
    assert [letter for letter in said if letter.isalnum()] == [letter for letter in asked if letter.isalnum()]


def test_words_are_given_when_their_sound_has_come() -> None:
    piece = Piece("Hello there", Pace())
    piece.begin(2.0)
    assert piece.sound(0.39) == []
    first = piece.sound(0.05)
    assert [(word.text, word.start_s) for word in first] == [("Hello", 2.0)]
    last = piece.ended()
    assert [word.text for word in last] == ["there"]
    assert last[0].start_s == first[0].end_s
    assert last[0].end_s == pytest.approx(2.44)


def test_what_is_asked_again_begins_with_the_first_word_that_was_not_whole() -> None:
    piece = Piece("One two  three.", Pace())
    piece.begin(1.0)
    words = [word for _ in range(7) for word in piece.sound(0.1)]
    assert [word.text for word in words] == ["One", "two"]
    piece.silence(0.01)
    assert piece.lost() == Void(words[-1].end_s, 1.0 + sum([0.1] * 7) + 0.01)
    left = piece.again()
    assert left is not None
    assert left.text == "three."


def test_a_piece_that_was_said_is_not_asked_again() -> None:
    piece = Piece("One.", Pace())
    piece.begin(0.0)
    assert [word.text for word in piece.sound(1.0)] == ["One."]
    assert piece.again() is None


def test_the_pace_of_a_voice_is_learned() -> None:
    pace = Pace()
    before = pace.unit_s
    piece = Piece("a slow voice", pace)
    piece.begin(0.0)
    piece.sound(3.0)
    piece.ended()
    assert pace.unit_s > before
    quick = Piece("a quick voice", pace)
    quick.begin(0.0)
    quick.sound(0.1)
    quick.ended()
    assert pace.unit_s < 3.0 / len("a slow voice")


@pytest.mark.parametrize("size", [1, 333, 4095, 1_000_000])
def test_sound_is_converted_the_same_however_it_is_cut(size: int) -> None:
    generator = np.random.default_rng(7)
    sound = (generator.standard_normal(VENDOR_HZ // 10) * 4000).astype("<i2").tobytes()
    converter = Converter(RATE_HZ)
    got = b"".join(converter.take(sound[at : at + size]) for at in range(0, len(sound), size)) + converter.rest()
    whole = Converter(RATE_HZ)
    expected = np.frombuffer(whole.take(sound) + whole.rest(), dtype="<i2").astype(int)
    assert len(got) == 2 * RATE_HZ // 10
    assert np.abs(np.frombuffer(got, dtype="<i2") - expected).max() <= 2  # each conversion dithers in its own way


def test_a_tone_stays_a_tone_and_what_a_telephone_cannot_carry_is_gone() -> None:
    seconds = np.arange(VENDOR_HZ) / VENDOR_HZ
    high = 9000 * np.sin(2 * np.pi * 6000 * seconds)  # would come back as 2 kHz
    sound = (9000 * np.sin(2 * np.pi * 1000 * seconds) + high).astype("<i2").tobytes()
    converter = Converter(RATE_HZ)
    got = b"".join(converter.take(sound[at : at + 999]) for at in range(0, len(sound), 999)) + converter.rest()
    middle = np.frombuffer(got, dtype="<i2")[1000:-1000].astype(np.float64)
    power = np.abs(np.fft.rfft(middle * np.blackman(len(middle)))) ** 2
    frequencies = np.fft.rfftfreq(len(middle), 1 / RATE_HZ)
    tone = np.abs(frequencies - 1000) < 10
    assert 10 * np.log10(power[tone].max() / power[~tone].max()) > 70


def test_words_of_the_stand_in_survive_the_conversion() -> None:
    import soxr

    spoken = np.frombuffer(modem.encode("Good morning to you."), dtype="<i2")
    sound = soxr.resample(spoken, RATE_HZ, VENDOR_HZ, quality="VHQ").astype("<i2").tobytes()
    converter = Converter(RATE_HZ)
    got = b"".join(converter.take(sound[at : at + 4095]) for at in range(0, len(sound), 4095)) + converter.rest()
    assert " ".join(word.text for word in modem.decode(audioop.lin2ulaw(got, 2))) == "Good morning to you."
