"""Tokens of a model become whole words, early and verbatim."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.providers import words as words_module
from worker.providers.words import MOST_HELD, WholeWords


def pieces(*tokens: str, language: str = "en") -> list[str]:
    """Give the pieces that tokens become, one row of them a token, then the rest."""

    async def cut() -> list[str]:
        words = WholeWords(lambda: None, language)
        given_out = [piece.text for token in tokens async for piece in words.aggregate(token)]
        rest = await words.flush()
        return [*given_out, *([rest.text] if rest else [])]

    return asyncio.run(cut())


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("Sure| I| can|.", "Sure |I |can."),
        ("Hel|lo the|re|, you|", "Hello |there, |you"),
        ("Yes|.| I| am", "Yes. |I |am"),
        ("Yes.| |I am", "Yes. I |am"),
        ("It| costs| 3|.|5| euros|.", "It |costs |3.5 euros."),
        ("At| 3| p.m|.| tomorrow| then", "At |3 p.m. tomorrow |then"),
        ("Is| 10| 000| enough|?", "Is |10 000 enough?"),
        ("Ask| Dr|.| Silva| now", "Ask |Dr. Silva |now"),
        ('He said "Dr|. Silva| is in."| Good', 'He said |"Dr. Silva is |in." |Good'),
        ("Fine|!| 😀| Then", "Fine! |😀 Then"),
        ("- one\n|- two|\n\nthree", "- one\n|- two\n\n|three"),
        ("a| <break| time=|'1s'/>| b", "a |<break time='1s'/> b"),
        ("Code| <spell>|A 1| B 2|</spell>| ok", "Code |<spell>A 1 B 2</spell> |ok"),
        ("3| <| 4| is| true", "3 < |4 is |true"),
        ("元気|です|か。はい", "元気|です|か。はい"),
        ("ok 元気| is", "ok 元気| is"),
        ("สวัสดี|ครับ", "สวัสดี|ครับ"),
        ("  |Hello", "  Hello"),
        ("Hello| \n", "Hello \n"),
        ("|", ""),
        (" | ", ""),
    ],
)
def test_tokens_become_pieces(text: str, whole: str) -> None:
    assert pieces(*text.split("|")) == (whole.split("|") if whole else [])


def test_abbreviations_are_those_of_the_language() -> None:
    tokens = ("Fale", " com", " a", " Dra", ".", " Ana", " hoje")
    assert pieces(*tokens, language="pt-BR")[-2:] == ["Dra. Ana ", "hoje"]


def test_one_who_counts_begins_to_speak() -> None:
    numbers = [f"{number} " for number in range(100)]
    first = pieces(*numbers)[0]
    assert len(first) <= MOST_HELD + len("99 99 ")


@given(st.text(alphabet="ab1.! \n<>/é元", max_size=60), st.lists(st.integers(1, 7), max_size=60))
def test_nothing_is_lost_added_or_cut_inside_a_word(text: str, sizes: list[int]) -> None:
    tokens, at = [], 0
    for size in sizes:
        tokens.append(text[at : at + size])
        at += size
    given_out = pieces(*tokens, text[at:])
    assert text.startswith("".join(given_out))
    assert not text[len("".join(given_out)) :].strip()
    for piece in given_out[:-1]:
        assert piece[-1].isspace() or piece[-1] == "元"
        assert any(character.isalnum() for character in piece)


async def taken(words: WholeWords, token: str) -> list[str]:
    return [piece.text async for piece in words.aggregate(token)]


@pytest.mark.parametrize(
    ("text", "late"),
    [("Let me look.", "look."), ("Yes!", "Yes!"), ('"Sure…"', '"Sure…"'), ("It is 3.", ""), ("And so", "")],
)
async def test_only_the_end_of_a_sentence_comes_out_when_the_model_pauses(
    text: str, late: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(words_module, "LATE_S", 0.0)
    called = asyncio.Event()
    words = WholeWords(called.set)
    await taken(words, text)
    for _ in range(3):
        await asyncio.sleep(0)
    assert called.is_set() == bool(late)
    assert await taken(words, "") == ([late] if late else [])
    assert await taken(words, "") == []


async def test_what_comes_before_the_empty_token_is_not_cut() -> None:
    called = asyncio.Event()
    words = WholeWords(called.set)
    assert await taken(words, "Dr.") == []
    words._is_late()
    assert called.is_set()
    assert await taken(words, " Sil") == []
    assert await taken(words, "") == []
    assert await taken(words, "va is") == ["Dr. Silva "]


async def test_an_interruption_forgets_what_waits() -> None:
    words = WholeWords(lambda: None)
    assert [piece async for piece in words.aggregate("half")] == []
    assert words.text.text == "half"
    await words.handle_interruption()
    assert await words.flush() is None
