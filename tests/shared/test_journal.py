"""The journal: an entry always fits a message."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.journal import MAX_TEXT_CHARS, entry
from shared.messages import FROM_WORKER, MAX_MESSAGE_BYTES, Entry, encode


def test_an_entry_says_what_when_and_for_which_tool_call() -> None:
    before = time.time()
    made = entry("tool", '{"name": "end_call"}', "call-1")
    assert (made.kind, made.text, made.key) == ("tool", '{"name": "end_call"}', "call-1")
    assert before <= made.at <= time.time()


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=200))
def test_an_entry_crosses_to_the_pool_unchanged(text: str) -> None:
    made = entry("user", text)
    assert FROM_WORKER(encode(made)) == made


@pytest.mark.parametrize("character", ["a", "é", "語", "😀", '"', "\\", "\n", "\x01"])
def test_the_longest_text_fits_whatever_its_characters(character: str) -> None:
    data = encode(entry("agent", character * 100_000, "k" * 100))
    assert len(data) <= MAX_MESSAGE_BYTES
    kept = FROM_WORKER(data)
    assert isinstance(kept, Entry)
    assert kept.text == character * len(kept.text)
    assert 0 < len(kept.text) <= MAX_TEXT_CHARS


def test_half_of_a_surrogate_pair_does_not_cost_the_call() -> None:
    assert encode(entry("user", "caf\ud83d"))
    assert entry("user", "caf\ud83d").text == "caf?"
