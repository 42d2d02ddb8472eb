"""What was asked of the voice against what came of it: a lost connection costs no word and repeats none."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.providers.spoken import Reading, Timed, Utterance, Void

WORD_S = 0.3
CHUNK_S = 0.1


def reading(text: str, *words: str) -> Reading:
    """Read a text of which these words were said."""
    read = Reading(text)
    for word in words:
        read.said(Timed(word, 0.0, 0.0))
    return read


@pytest.mark.parametrize(
    ("text", "words", "rest"),
    [
        ("One two. Three.", "", "One two. Three."),
        ("One two. Three.", "One", "two. Three."),
        ("One two.  Three. ", "One two.", "Three. "),
        ("One two.", "one two", ""),
        ("Yes - no.", "Yes", "- no."),
        ("Yes !", "Yes", ""),
        ('He said: "No." (Yes.)', "He said: No", "(Yes.)"),
        ("Great! 😀", "Great!", ""),
        ("It costs 3.5 euros", "It costs 3.5", "euros"),
        ("It costs 3.5 euros", "It costs 3 5", "euros"),
        ("A well-known don't", "A well known", "don't"),
        ("An apple", "An app", "apple"),  # another word, though it begins like it
        ("こんにちは。元気ですか", "こ ん に ち は 。", "元気ですか"),
        ("Straße frei", "STRASSE", "frei"),
        ('One <break time="1s" /> two', "One", '<break time="1s" /> two'),
        ('One <break time="1s" /> two', "One two", ""),
        ("<spell>AB1</spell> <speed ratio='1'/> now", "<spell>AB1</spell>", "<speed ratio='1'/> now"),
        ("It costs $5 now. And more.", "It costs five", "$5 now. And more."),
        ("It costs $5 now. And more.", "It costs five dollars now.", "And more."),
        ("It costs $5 now. And more.", "It costs five dollars exactly", "$5 now. And more."),
        ("Call 911 now or or or", "Call nine one one now or", "or or"),
        ("No word is passed over", "No is", "word is passed over"),
        ("An extra word", "An uh extra", "word"),
        ("नमस्ते दुनिया जी", "नमस्ते दुनिया", "जी"),
    ],
)
def test_what_is_left_begins_with_the_first_word_that_was_not_said(text: str, words: str, rest: str) -> None:
    assert reading(text, *words.split()).rest == rest


def test_strange_words_are_forgotten_when_the_next_one_is_found() -> None:
    read = reading("It costs $5 now.", "It", "costs", "five", "dollars")
    assert [word.text for word in read.strange] == ["five", "dollars"]
    read.said(Timed("now.", 0.0, 0.0))
    assert (read.strange, read.rest) == ([], "")


def test_a_word_is_given_when_its_sound_is_whole() -> None:
    utterance = Utterance()
    utterance.ask("One two.")
    utterance.timed(["One", "two."], [0.0, 0.3], [0.3, 0.6])
    utterance.sound(0.29)
    assert utterance.whole() == []
    utterance.sound(0.1)
    assert [word.text for word in utterance.whole()] == ["One"]
    assert utterance.owed
    assert [word.text for word in utterance.text_done()] == ["two."]
    assert (utterance.unsaid, utterance.owed) == ("", False)


@pytest.mark.parametrize("pieces", [["One two."], ["One ", "two."], ["O", "ne two", "."]])
def test_the_sound_of_half_a_word_is_void_when_the_connection_is_lost(pieces: list[str]) -> None:
    utterance = Utterance()
    for piece in pieces:
        utterance.ask(piece)
    utterance.timed(["One", "two."], [0.0, 0.3], [0.3, 0.6])
    utterance.sound(0.4)
    utterance.whole()
    assert utterance.lost() == Void(0.3, 0.4)
    assert utterance.unsaid == "two."


def test_a_strange_word_is_void_and_said_again() -> None:
    utterance = Utterance()
    utterance.ask("It costs $5 now.")
    utterance.timed(["It", "costs", "five", "dollars"], [0.0, 0.3, 0.6, 0.9], [0.3, 0.6, 0.9, 1.2])
    utterance.sound(1.0)
    utterance.whole()
    assert utterance.lost() == Void(0.6, 1.0)
    assert utterance.unsaid == "$5 now."


def test_without_word_times_the_text_is_said_again_from_where_an_input_was_done() -> None:
    utterance = Utterance()
    utterance.ask("One. ")
    utterance.ask("Two three. ")
    utterance.sound(0.3)
    utterance.text_done()
    utterance.sound(0.4)
    assert utterance.lost() == Void(0.3, 0.7)
    assert utterance.unsaid == "Two three. "


def test_a_context_that_the_provider_ended_has_nothing_left() -> None:
    utterance = Utterance()
    utterance.wire = "a-1"
    utterance.ask("One.")
    utterance.sound(0.3)
    utterance.flush()
    utterance.ended()
    assert (utterance.unsaid, utterance.wire, utterance.lost()) == ("", "", None)


@pytest.mark.parametrize("timed", [False, True])
def test_text_on_its_way_to_a_context_that_had_expired_is_unsaid(timed: bool) -> None:  # noqa: FBT001 - a parameter of the test
    utterance = Utterance()
    utterance.wire = "a-1"
    utterance.ask("One. ")
    if timed:
        utterance.timed(["One."], [0.0], [0.3])
    utterance.sound(0.3)
    utterance.whole()
    utterance.ask("Two.")
    utterance.flush()
    utterance.ended()
    assert (utterance.unsaid, utterance.wire) == ("Two.", "")
    assert utterance.flushed


def test_a_sample_that_was_cut_is_given_whole_and_never_on_another_connection() -> None:
    utterance = Utterance()
    assert [utterance.whole_samples(piece) for piece in (b"abc", b"d", b"", b"efg", b"hi")] == [
        b"ab", b"cd", b"", b"ef", b"gh",
    ]  # fmt: skip
    utterance.lost()
    assert utterance.whole_samples(b"jk") == b"jk"


@dataclass
class Provider:
    """Speaks 0.3 s a word in pieces of 0.1 s, and loses its connection after so many pieces."""

    utterance: Utterance
    sound: list[str] = field(default_factory=list)
    void: set[int] = field(default_factory=set)
    told: list[str] = field(default_factory=list)
    text: str = ""
    at_s: float = 0.0

    def asked(self, piece: str) -> None:
        """Take an input."""
        self.utterance.ask(piece)
        self.text += piece

    def speak(self, budget: int, *, times_first: bool, done: bool) -> int:
        """Generate all words that wait, as far as the budget of pieces goes; gives what is left of it."""
        words, self.text = self.text.split(), ""
        for word in words:
            for piece in range(3):
                if not budget:
                    return 0
                budget -= 1
                self.sound.append(word)
                if times_first and piece == 0:
                    self._times(word)
                self.utterance.sound(CHUNK_S)
                if not times_first and piece == 2:
                    self._times(word)
                self.told += [one.text for one in self.utterance.whole()]
            self.at_s += WORD_S
        if done:
            self.told += [one.text for one in self.utterance.text_done()]
        return budget

    def lose(self) -> None:
        """Lose the connection; what is unsaid is asked again as one input."""
        cut = self.utterance.lost()
        if cut is not None:
            self.void |= set(range(round(cut.start_s / CHUNK_S), round(cut.end_s / CHUNK_S)))
        self._new_context()

    def expire(self) -> None:
        """End the context, though it was not asked for."""
        self.told += [one.text for one in self.utterance.ended()]
        self._new_context()

    def _times(self, word: str) -> None:
        self.utterance.timed([word], [self.at_s], [self.at_s + WORD_S])

    def _new_context(self) -> None:
        self.at_s, self.text = 0.0, self.utterance.unsaid


@given(
    sentences=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    cuts=st.lists(st.integers(1, 9), max_size=20),
    events=st.lists(st.sampled_from(["speak", "lose", "expire"]), max_size=20),
    budgets=st.lists(st.integers(0, 12), max_size=20),
    times_first=st.booleans(),
)
def test_whatever_is_lost_every_word_is_heard_once_and_whole(
    sentences: list[int],
    cuts: list[int],
    events: list[str],
    budgets: list[int],
    times_first: bool,  # noqa: FBT001 - hypothesis gives them by name
) -> None:
    """The text comes in pieces of any length, which may split words only where the provider does not begin to speak."""
    numbers = iter(range(100))
    text = " ".join(" ".join(f"w{next(numbers)}" for _ in range(count)) + "." for count in sentences)
    provider = Provider(Utterance())
    rest = text
    for index, event in enumerate(events):
        size = cuts[index] if index < len(cuts) else 3
        piece, rest = rest[:size], rest[size:]
        provider.asked(piece)
        if piece and rest and not piece.endswith(" "):
            continue
        budget = budgets[index] if index < len(budgets) else 99
        match event:
            case "speak":
                if not provider.speak(budget, times_first=times_first, done=False):
                    provider.lose()
            case "lose":
                provider.lose()
            case _:
                provider.speak(999, times_first=times_first, done=False)
                provider.expire()
    provider.asked(rest)
    provider.utterance.flush()
    provider.speak(999, times_first=times_first, done=False)
    provider.told += [one.text for one in provider.utterance.ended()]
    assert provider.utterance.unsaid == ""
    heard = [piece for index, piece in enumerate(provider.sound) if index not in provider.void]
    assert heard == [word for word in text.split() for _ in range(3)]
    assert provider.told == text.split()


@given(texts=st.lists(st.integers(1, 5), min_size=1, max_size=4), losses=st.lists(st.integers(0, 12), max_size=6))
def test_a_provider_that_tells_when_each_input_is_done_loses_and_repeats_nothing_either(
    texts: list[int], losses: list[int]
) -> None:
    numbers = iter(range(100))
    provider, pending = Provider(Utterance()), list(losses)
    asked: list[str] = []
    for count in texts:
        words = [f"w{next(numbers)}." for _ in range(count)]
        asked += words
        provider.asked(" ".join(words) + " ")
        while not provider.speak(pending.pop(0) if pending else 999, times_first=True, done=True):
            provider.lose()
    heard = [piece for index, piece in enumerate(provider.sound) if index not in provider.void]
    assert heard == [word for word in asked for _ in range(3)]
    assert provider.told == asked
