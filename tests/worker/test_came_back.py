"""What a worker makes of the journal of a call that was cut off and is back on another stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from shared.journal import entry
from worker.call.memory import Memory, remember
from worker.call.scribe import Scribe

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.messages import Entry


class Talk:
    """A conversation, written down as a worker does."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.scribe = self._scribe()
        self._marks = 0

    def _scribe(self) -> Scribe:
        def tell(message: Any) -> None:
            self.entries.append(message)

        return Scribe(tell)

    def greet(self, *, heard: bool) -> None:
        """Greet with a recording."""
        self.scribe.greeting("Hello, this is the clinic.", "0:1")
        self.scribe.greeted()
        if heard:
            self.scribe.heard("Hello, this is the clinic.", "0:1")
        self._marks = 1

    def answer(self, *sentences: str, heard: int, sent: bool = True) -> None:
        """Answer; of its sentences so many are heard."""
        self.scribe.speech_begins()
        marks = []
        for sentence in sentences:
            self._marks += 1
            marks.append(f"0:{self._marks}")
            self.scribe.said(sentence, marks[-1])
        for sentence, mark in list(zip(sentences, marks, strict=True))[:heard]:
            self.scribe.heard(sentence, mark)
        if sent:
            self.scribe.spoken()

    def come_back(self) -> Memory:
        """Be cut off and come back: another worker reads the journal and counts its marks from the beginning."""
        self.entries.append(entry("came_back", ""))
        memory = remember(self.entries)
        self.scribe = self._scribe()
        self.scribe.recall(memory.demands)
        self._marks = 0
        return memory


@pytest.fixture
def talk() -> Talk:
    return Talk()


def said(memory: Memory) -> list[str]:
    return [message["content"] for message in memory.messages]


@pytest.mark.parametrize("heard", [True, False])
def test_a_greeting_is_given_once(talk: Talk, *, heard: bool) -> None:
    talk.greet(heard=heard)
    memory = talk.come_back()
    assert memory, "or the caller would be greeted again"
    assert memory.greeting is None
    assert said(memory) == ["Hello, this is the clinic."]
    assert (memory.owed, memory.came_back, memory.pending) == (True, True, ())


def test_a_caller_who_came_back_before_any_word_is_not_greeted_twice(talk: Talk) -> None:
    talk.scribe.greeting("", "")
    memory = talk.come_back()
    assert memory
    assert memory.came_back


def test_a_conversation_at_rest_is_taken_up_with_a_word(talk: Talk) -> None:
    talk.greet(heard=True)
    talk.scribe.user_said("My colour is purple.")
    talk.answer("Noted.", "Anything else?", heard=2)
    memory = talk.come_back()
    assert said(memory) == ["Hello, this is the clinic.", "My colour is purple.", "Noted. Anything else?"]
    assert (memory.owed, memory.came_back, memory.broke_off) == (True, True, False)


def test_a_question_without_an_answer_is_answered_and_nothing_else(talk: Talk) -> None:
    talk.greet(heard=True)
    talk.scribe.user_said("When are you open?")
    memory = talk.come_back()
    assert said(memory)[-1] == "When are you open?"
    assert (memory.owed, memory.came_back, memory.broke_off) == (True, False, False)


@pytest.mark.parametrize("sent", [True, False])
def test_what_was_sent_and_not_heard_is_said_again(talk: Talk, *, sent: bool) -> None:
    """The stream took with it what the carrier had still to play: unlike at a resume, it will never be heard."""
    talk.greet(heard=True)
    talk.scribe.user_said("When are you open?")
    talk.answer("We open at nine.", "We close at six.", heard=1, sent=sent)
    memory = talk.come_back()
    assert said(memory)[-2:] == ["When are you open?", "We open at nine."]
    assert (memory.owed, memory.came_back, memory.broke_off) == (True, False, True)


def test_a_tool_under_way_is_unresolved_and_the_results_of_others_are_known(talk: Talk) -> None:
    talk.scribe.user_said("Book it, and tell me the time.")
    talk.scribe.tool_started("t1", "time", {})
    talk.scribe.tool_ended("t1", {"time": "nine"}, answer=True)
    talk.scribe.tool_started("t2", "book", {"day": "Friday"})
    memory = talk.come_back()
    assert [asked.id for asked in memory.unresolved] == ["t2"]
    assert len(memory.results) == 1
    assert (memory.owed, memory.came_back) == (True, False)


def test_marks_of_the_former_stream_and_of_this_one_are_not_confused(talk: Talk) -> None:
    """Both workers count their marks from the same number."""
    talk.greet(heard=True)
    talk.scribe.user_said("One.")
    talk.answer("First.", "Lost.", heard=1)
    talk.come_back()
    talk.answer("Lost, said again.", heard=1)
    talk.scribe.user_said("Two.")
    talk.answer("Second.", heard=1)
    memory = remember(talk.entries)
    assert said(memory)[1:] == ["One.", "First. Lost, said again.", "Two.", "Second."]
    assert not memory.owed
    assert not memory.came_back


def test_words_about_coming_back_are_owed_until_they_are_spoken(talk: Talk) -> None:
    """A worker that dies while it says them has a successor who says them."""
    talk.greet(heard=True)
    talk.come_back()
    assert remember(talk.entries).came_back
    talk.answer("Where were we?", heard=0)
    memory = remember(talk.entries)
    assert not memory.owed
    assert [mark.text for mark in memory.pending] == ["Where were we?"]


@pytest.mark.parametrize(
    "silence", [lambda talk: talk.scribe.interrupted(""), lambda talk: talk.scribe.user_said("Hey")]
)
def test_a_caller_who_speaks_first_is_answered_instead(talk: Talk, silence: Callable[[Talk], None]) -> None:
    talk.greet(heard=True)
    talk.come_back()
    silence(talk)
    assert not remember(talk.entries).came_back


def test_a_call_that_comes_back_twice_remembers_both_times(talk: Talk) -> None:
    talk.greet(heard=True)
    talk.scribe.user_said("One.")
    talk.answer("First.", heard=1)
    talk.come_back()
    talk.answer("Where were we?", heard=1)
    talk.scribe.user_said("Two.")
    memory = talk.come_back()
    assert said(memory)[1:] == ["One.", "First.", "Where were we?", "Two."]
    assert (memory.owed, memory.came_back) == (True, False)
