"""The caller's audio that no final transcript covers yet."""

from hypothesis import given
from hypothesis import strategies as st

from worker.providers.unheard import FINALIZE, MOST_S, QUIET_S, Unheard

PER_S = 1_000
PIECE = bytes(40)


def sent(unheard: Unheard) -> tuple[int, int]:
    """Send everything: the bytes of audio and the requests that went out."""
    audio = requests = 0
    while (piece := unheard.next()) is not None:
        if isinstance(piece, str):
            requests += 1
        else:
            audio += len(piece)
    return audio, requests


def spoken(pieces: int) -> Unheard:
    unheard = Unheard(PER_S)
    unheard.speaking = True
    for _ in range(pieces):
        unheard.add(PIECE)
    return unheard


def test_everything_is_sent_again_until_it_is_understood() -> None:
    unheard = spoken(5)
    unheard.end_turn()
    assert sent(unheard) == (200, 1)
    unheard.rewind()
    assert sent(unheard) == (200, 1)
    unheard.transcribed()
    unheard.rewind()
    assert sent(unheard) == (0, 0)


def test_the_end_of_an_answered_turn_settles_no_other_turn() -> None:
    """A final transcript and its `flush_done` are one answer; a second turn waits for its own."""
    unheard = spoken(1)
    unheard.end_turn()
    unheard.add(PIECE)
    unheard.end_turn()
    sent(unheard)
    unheard.transcribed()
    unheard.transcribed()
    unheard.flushed()
    assert unheard.turns == 1
    unheard.flushed()
    assert unheard.turns == 0


def test_a_turn_without_words_is_settled_by_its_end() -> None:
    unheard = spoken(1)
    unheard.end_turn()
    sent(unheard)
    unheard.flushed()
    assert unheard.turns == 0


def test_a_transcript_that_nobody_asked_for_covers_what_was_sent() -> None:
    unheard = spoken(2)
    sent(unheard)
    unheard.add(PIECE)
    unheard.transcribed()
    assert sent(unheard) == (40, 0)


def test_an_answer_to_what_was_not_sent_on_this_connection_settles_nothing() -> None:
    unheard = spoken(2)
    unheard.end_turn()
    sent(unheard)
    unheard.rewind()
    unheard.flushed()
    assert unheard.turns == 1


def test_little_is_kept_while_nobody_speaks_and_much_in_a_turn() -> None:
    unheard = spoken(0)
    unheard.speaking = False
    for _ in range(1_000):
        unheard.add(PIECE)
    assert sent(unheard)[0] == QUIET_S * PER_S
    unheard.speaking = True
    for _ in range(1_000):
        unheard.add(PIECE)
    unheard.rewind()
    assert sent(unheard)[0] == MOST_S * PER_S


def test_the_order_of_the_wire_is_kept() -> None:
    unheard = Unheard(PER_S)
    unheard.add(b"a")
    unheard.end_turn()
    unheard.add(b"b")
    assert [unheard.next() for _ in range(4)] == [b"a", FINALIZE, b"b", None]


@given(st.lists(st.sampled_from(["add", "end", "send", "rewind", "final", "flush"]), max_size=60))
def test_no_order_of_events_loses_a_turn_that_was_not_answered(events: list[str]) -> None:
    unheard, ended, answers = Unheard(PER_S), 0, 0
    for event in events:
        match event:
            case "add":
                unheard.add(PIECE)
            case "end":
                unheard.end_turn()
                ended += 1
            case "send":
                sent(unheard)
            case "rewind":
                unheard.rewind()
            case "final":
                unheard.transcribed()
                answers += 1
            case _:
                unheard.flushed()
                answers += 1
        assert ended - answers <= unheard.turns <= ended
        assert 0 <= unheard.asked <= unheard.turns


def test_what_somebody_else_ended_is_covered_with_all_that_was_asked_in_it() -> None:
    unheard = spoken(5)
    unheard.end_turn()
    unheard.add(PIECE)
    sent(unheard)
    unheard.add(PIECE)
    unheard.covered(0.0)
    assert (unheard.turns, unheard.asked) == (0, 0)
    assert sent(unheard) == (40, 0), "what was not sent is not covered"


def test_what_was_said_behind_it_is_kept() -> None:
    unheard = spoken(5)
    sent(unheard)
    unheard.covered(0.05)
    assert unheard.kept_s == 0.08
    unheard.rewind()
    assert sent(unheard) == (80, 0), "whole pieces"
