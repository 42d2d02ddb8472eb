"""The journal: an entry always fits a message, and a journal as many as it needs."""

import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.journal import MAX_TEXT_CHARS, entry, packed
from shared.messages import FROM_WORKER, MAX_MESSAGE_BYTES, TO_WORKER, Entry, encode


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


texts = st.builds(
    lambda text, times: text * times, st.sampled_from(["a", "\x01", "é", '"']), st.integers(0, 2 * MAX_TEXT_CHARS)
)


@settings(deadline=None, max_examples=40)
@given(st.lists(texts, max_size=12))
def test_a_journal_is_packed_whole_in_order_and_into_messages_that_fit(said: list[str]) -> None:
    entries = [entry("user", text, str(number)) for number, text in enumerate(said)]
    messages = list(packed(entries))
    assert [each for message in messages for each in message.entries] == entries
    for message in messages:
        data = encode(message)
        assert len(data) <= MAX_MESSAGE_BYTES
        assert TO_WORKER(data) == message
    for first, second in itertools.pairwise(messages):
        assert len(encode(first)) + len(encode(second.entries[0])) > MAX_MESSAGE_BYTES - 2048, "as few as hold it"


def test_an_empty_journal_needs_no_message() -> None:
    assert list(packed([])) == []
