"""An answer that broke, and its rest: joined, and nothing of it said twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.providers.continuation import Continuation


def joined(given_: str, pieces: list[str]) -> str:
    rest = Continuation(given_)
    return given_ + "".join(rest.take(piece) for piece in pieces) + rest.rest()


@pytest.mark.parametrize(
    ("given_", "pieces", "whole"),
    [
        ("", ["Hello", " there."], "Hello there."),
        ("We open", ["at", " nine."], "We open at nine."),
        ("We open", [" at", " nine."], "We open at nine."),
        ("We open", [", then."], "We open, then."),
        ("We open ", ["at nine."], "We open at nine."),
        ("We open", ["We", " open", " at", " nine."], "We open at nine."),
        ("We open", [" We open at", " nine."], "We open at nine."),
        ("We open", ["We", " close."], "We open We close."),
        ("We open", [], "We open"),
    ],
)
def test_the_rest_is_joined_to_what_was_said(given_: str, pieces: list[str], whole: str) -> None:
    assert joined(given_, pieces) == whole


@given(st.lists(st.text(st.sampled_from("abc."), min_size=1, max_size=4), min_size=1, max_size=8), st.data())
def test_a_model_that_begins_anew_is_heard_once(words: list[str], data: st.DataObject) -> None:
    whole = " ".join(words)
    cut = data.draw(st.integers(0, len(whole)))
    assert joined(whole[:cut], [" " * (index > 0) + word for index, word in enumerate(words)]).split() == words
