"""What was asked of the voice against what came of it: a lost connection costs no word and repeats none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.providers.spoken import Left, Utterance, Void, unsaid

WORD_S = 0.3
CHUNK_S = 0.1


@pytest.mark.parametrize(
    ("texts", "words", "left"),
    [
        (["One two.", "Three."], [], Left(("One two.", "Three."), exact=True)),
        (["One two.", "Three."], ["One"], Left(("two.", "Three."), exact=True)),
        (["One two.", " Three."], ["One", "two."], Left((" Three.",), exact=True)),
        (["One two."], ["one", "two"], Left((), exact=True)),
        (["It costs $5 now."], ["It", "costs", "five"], Left(("It costs $5 now.",), exact=False)),
        (["Yes.", "It costs $5."], ["Yes.", "It", "costs", "five"], Left(("It costs $5.",), exact=False)),
        (["Yes - no."], ["Yes"], Left(("no.",), exact=True)),
        (["Yes !"], ["Yes"], Left((), exact=True)),
    ],
)
def test_what_is_left_begins_with_the_first_word_that_was_not_said(
    texts: list[str], words: list[str], left: Left
) -> None:
    got = unsaid(texts, words)
    assert (got.exact, [text.strip() for text in got.texts]) == (left.exact, [text.strip() for text in left.texts])


def test_a_word_is_given_when_its_sound_is_whole() -> None:
    utterance = Utterance()
    utterance.ask("One two.")
    utterance.timed(["One", "two."], [0.0, 0.3], [0.3, 0.6])
    utterance.sound(0.29)
    assert utterance.whole() == []
    utterance.sound(0.1)
    assert [word.text for word in utterance.whole()] == ["One"]
    assert [word.text for word in utterance.text_done()] == ["two."]
    assert utterance.unsaid == ()


def test_the_sound_of_half_a_word_is_void_when_the_connection_is_lost() -> None:
    utterance = Utterance()
    utterance.ask("One two.")
    utterance.timed(["One", "two."], [0.0, 0.3], [0.3, 0.6])
    utterance.sound(0.4)
    utterance.whole()
    assert utterance.lost() == Void(0.3, 0.4)
    assert utterance.unsaid == ("two.",)


def test_without_word_times_the_sentence_is_said_again_from_its_start() -> None:
    utterance = Utterance()
    utterance.ask("One.")
    utterance.ask("Two three.")
    utterance.sound(0.3)
    utterance.text_done()
    utterance.sound(0.4)
    assert utterance.lost() == Void(0.3, 0.7)
    assert utterance.unsaid == ("Two three.",)


def test_a_context_that_the_provider_ended_has_nothing_left() -> None:
    utterance = Utterance()
    utterance.wire = "a-1"
    utterance.ask("One.")
    utterance.sound(0.3)
    utterance.ended()
    assert (utterance.unsaid, utterance.wire, utterance.lost()) == ((), "", None)


@given(
    texts=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    losses=st.lists(st.integers(0, 12), max_size=6),
    flushes=st.booleans(),
)
def test_whatever_is_lost_every_word_is_heard_once_and_whole(
    texts: list[int],
    losses: list[int],
    flushes: bool,  # noqa: FBT001 - hypothesis gives them by name
) -> None:
    """A provider that speaks 0.3 s a word in pieces of 0.1 s loses its connection after so many pieces, again and again."""
    numbers = iter(range(100))
    utterance = Utterance()
    for count in texts:
        utterance.ask(" ".join(f"w{next(numbers)}." for _ in range(count)))
    asked = [word for text in utterance.unsaid for word in text.split()]
    sound: list[str] = []
    void: set[int] = set()
    told: list[str] = []
    pending = list(losses)
    while utterance.unsaid:
        budget = pending.pop(0) if pending else 1_000
        at_s = 0.0
        for text in utterance.unsaid:
            words = text.split()
            starts = [at_s + WORD_S * index for index in range(len(words))]
            if budget <= 0:
                break
            utterance.timed(words, starts, [start_s + WORD_S for start_s in starts])
            pieces = [word for word in words for _ in range(3)][:budget]
            budget -= len(pieces)
            for piece in pieces:
                sound.append(piece)
                utterance.sound(CHUNK_S)
                told += [word.text for word in utterance.whole()]
            at_s += WORD_S * len(words)
            if flushes and budget > 0:
                told += [word.text for word in utterance.text_done()]
        if budget > 100:
            utterance.ended()
        elif (cut := utterance.lost()) is not None:
            void |= set(range(round(cut.start_s / CHUNK_S), round(cut.end_s / CHUNK_S)))
    assert [piece for index, piece in enumerate(sound) if index not in void] == [
        word for word in asked for _ in range(3)
    ]
    assert told == asked
