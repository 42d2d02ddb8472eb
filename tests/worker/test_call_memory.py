"""What a successor makes of a journal: one test for each state a call can lose its worker in."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.journal import MAX_TEXT_CHARS, entry
from shared.messages import Entry, EntryKind, Message
from worker.call.memory import Asked, Memory, remember, result_messages
from worker.call.playout import Mark
from worker.call.scribe import Scribe

HELLO = "Hello, how can I help you?"
ASKED = Asked("call_1", "book_table", {"guests": 4})


class Pages(list[Entry]):
    """A journal, and the scribe that writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.scribe = Scribe(self._write)

    def _write(self, message: Message) -> None:
        assert isinstance(message, Entry)
        self.append(message)

    @property
    def memory(self) -> Memory:
        """What a successor would know now."""
        return remember(self)

    def greeted(self) -> "Pages":
        """Greet, heard to the end."""
        self.scribe.greeting(HELLO, "0:1")
        self.scribe.greeted()
        self.scribe.heard(HELLO, "0:1")
        return self

    def user(self, text: str) -> "Pages":
        """Let the caller speak: what is being said is interrupted, as it is when a voice is noticed."""
        self.scribe.interrupted("")
        self.scribe.user_said(text)
        return self

    def succeeded(self) -> None:
        """Lose the worker: another one goes on with the journal, and takes back what broke off."""
        memory = self.memory
        self.scribe = Scribe(self._write)
        self.scribe.recall(memory.demands)
        if memory.owed:
            self.scribe.cleared()

    def answered(self, *sentences: str, resume: int = 0, first: int = 2) -> "Pages":
        """Answer, heard to the end."""
        self.scribe.speech_begins()
        names = [f"{resume}:{first + number}" for number in range(len(sentences))]
        for name, sentence in zip(names, sentences, strict=True):
            self.scribe.said(sentence, name)
        self.scribe.spoken()
        for name, sentence in zip(names, sentences, strict=True):
            self.scribe.heard(sentence, name)
        return self


def said(role: str, content: str) -> dict[str, str]:
    """Write a message."""
    return {"role": role, "content": content}


# --- the greeting -----------------------------------------------------------------------------------------------------


def test_an_empty_journal_is_nothing() -> None:
    assert not remember([])
    assert remember([]) == Memory()


def test_a_greeting_under_way_is_remembered_with_its_mark_and_nothing_is_owed() -> None:
    pages = Pages()
    pages.scribe.greeting(HELLO, "0:1")
    memory = pages.memory
    assert memory
    assert memory.messages == (said("assistant", HELLO),)
    assert not memory.owed
    assert memory.pending == (Mark("0:1", HELLO),)
    assert memory.greeting is not None
    assert (memory.greeting.words, memory.greeting.mark, memory.greeting.sent) == (HELLO, "0:1", False)
    assert memory.greeting.at == pages[0].at
    assert not memory.talked


def test_a_greeting_that_was_sent_whole_is_left_to_be_played() -> None:
    pages = Pages()
    pages.scribe.greeting(HELLO, "0:1")
    pages.scribe.greeted()
    assert pages.memory.greeting is not None
    assert pages.memory.greeting.sent
    assert pages.memory.pending == (Mark("0:1", HELLO),)


def test_of_a_long_greeting_it_is_known_how_much_was_sent() -> None:
    pages = Pages()
    pages.scribe.greeting(HELLO, "0:1")
    pages.scribe.greeting_sent(41_600)
    pages.scribe.greeting_sent(43_200)
    greeting = pages.memory.greeting
    assert greeting is not None
    assert (greeting.size, greeting.sent) == (43_200, False)


def test_a_greeting_that_was_heard_is_said_once() -> None:
    memory = Pages().greeted().memory
    assert memory.messages == (said("assistant", HELLO),)
    assert memory.pending == ()
    assert not memory.owed


def test_of_a_greeting_that_was_interrupted_the_heard_part_is_left() -> None:
    pages = Pages()
    pages.scribe.greeting(HELLO, "0:1")
    pages.scribe.interrupted("Hello, how…")
    assert list(pages.memory.messages) == [said("assistant", "Hello, how…")]
    assert pages.memory.greeting is None
    assert pages.memory.pending == ()
    pages.scribe.user_said("A table, please.")
    assert list(pages.memory.messages) == [said("assistant", "Hello, how…"), said("user", "A table, please.")]


def test_a_greeting_by_the_voice_has_no_mark_of_its_own() -> None:
    pages = Pages()
    pages.scribe.greeting(HELLO, "")
    pages.scribe.speech_begins()
    pages.scribe.said("Hello,", "0:1")
    memory = pages.memory
    assert memory.greeting is not None
    assert (memory.greeting.mark, memory.greeting.sent) == ("", False)
    pages.scribe.said("how can I help you?", "0:2")
    pages.scribe.spoken()
    memory = pages.memory
    assert memory.greeting is not None
    assert memory.greeting.sent
    assert memory.messages == (said("assistant", HELLO),)
    assert [mark.name for mark in memory.pending] == ["0:1", "0:2"]


def test_a_greeting_is_over_when_the_caller_has_spoken() -> None:
    pages = Pages().greeted()
    pages.scribe.user_said("A table, please.")
    assert pages.memory.greeting is None


# --- listening, thinking, speaking ------------------------------------------------------------------------------------


def test_listening_after_a_heard_answer_owes_nothing() -> None:
    memory = Pages().greeted().user("A table, please.").answered("For how many?").memory
    assert memory.messages == (
        said("assistant", HELLO), said("user", "A table, please."), said("assistant", "For how many?"),
    )  # fmt: skip
    assert not memory.owed
    assert not memory.broke_off
    assert memory.demands == 1
    assert memory.talked


def test_thinking_owes_the_answer() -> None:
    memory = Pages().greeted().user("A table, please.").memory
    assert memory.owed
    assert not memory.broke_off
    assert memory.messages[-1] == said("user", "A table, please.")
    assert not memory.talked


def test_speaking_keeps_what_was_heard_and_owes_the_rest() -> None:
    pages = Pages().greeted().user("A table, please.")
    pages.scribe.speech_begins()
    pages.scribe.said("Gladly.", "0:2")
    pages.scribe.said("For how many?", "0:3")
    pages.scribe.heard("Gladly.", "0:2")
    memory = pages.memory
    assert memory.messages[-1] == said("assistant", "Gladly.")
    assert memory.owed
    assert memory.broke_off
    assert memory.pending == ()
    assert memory.talked


def test_speaking_with_nothing_heard_is_answered_anew() -> None:
    pages = Pages().greeted().user("A table, please.")
    pages.scribe.speech_begins()
    pages.scribe.said("Gladly.", "0:2")
    memory = pages.memory
    assert memory.messages[-1] == said("user", "A table, please.")
    assert memory.owed
    assert not memory.broke_off


def test_an_answer_sent_whole_is_left_to_be_played_and_its_marks_may_still_come() -> None:
    pages = Pages().greeted().user("A table, please.")
    pages.scribe.speech_begins()
    pages.scribe.said("Gladly.", "0:2")
    pages.scribe.said("For how many?", "0:3")
    pages.scribe.heard("Gladly.", "0:2")
    pages.scribe.spoken()
    memory = pages.memory
    assert memory.messages[-1] == said("assistant", "Gladly. For how many?")
    assert not memory.owed
    assert memory.pending == (Mark("0:3", "For how many?"),)


def test_a_mark_that_proves_several_sentences_does_not_repeat_any() -> None:
    pages = Pages().greeted().user("A table, please.")
    pages.scribe.speech_begins()
    pages.scribe.said("Gladly.", "0:2")
    pages.scribe.said("For how many?", "0:3")
    pages.scribe.heard("Gladly. For how many?", "0:3")
    assert pages.memory.messages[-1] == said("assistant", "Gladly. For how many?")


def test_a_barge_in_keeps_what_was_heard_and_owes_nothing() -> None:
    pages = Pages().greeted().user("A table, please.")
    pages.scribe.speech_begins()
    pages.scribe.said("Gladly.", "0:2")
    pages.scribe.said("For how many?", "0:3")
    pages.scribe.heard("Gladly.", "0:2")
    pages.scribe.interrupted("")
    assert pages.memory.messages[-1] == said("assistant", "Gladly.")
    assert not pages.memory.owed
    pages.scribe.user_said("No, wait.")
    memory = pages.memory
    assert memory.messages[-1] == said("user", "No, wait.")
    assert memory.owed
    assert memory.demands == 2


def test_an_answer_under_way_does_not_answer_what_was_said_after_it_began() -> None:
    """A speech answers what stood in the journal when it began."""
    pages = Pages().greeted().user("A table, please.")
    pages.scribe.speech_begins()
    pages.scribe.tool_started("call_1", "book_table", {})
    pages.scribe.tool_ended("call_1", {"table": 7}, answer=True)
    pages.scribe.said("One moment.", "0:2")
    pages.scribe.spoken()
    assert pages.memory.owed
    pages.answered("You have table 7.", first=3)
    assert not pages.memory.owed


# --- tools ------------------------------------------------------------------------------------------------------------


def test_a_tool_in_flight_is_unresolved_and_an_answer_is_owed() -> None:
    pages = Pages().greeted().user("A table, please.")
    pages.scribe.tool_started("call_1", "book_table", {"guests": 4})
    memory = pages.memory
    assert memory.unresolved == (ASKED,)
    assert memory.owed
    assert memory.messages[-1] == said("user", "A table, please.")


def test_words_before_a_tool_are_kept_when_they_were_heard() -> None:
    pages = Pages().greeted().user("A table, please.").answered("Let me see.")
    pages.scribe.tool_started("call_1", "book_table", {"guests": 4})
    memory = pages.memory
    assert memory.messages[-1] == said("assistant", "Let me see.")
    assert memory.owed


def test_a_tool_that_is_done_and_not_answered_to_has_its_result_in_the_conversation() -> None:
    pages = Pages().greeted().user("A table, please.")
    pages.scribe.tool_started("call_1", "book_table", {"guests": 4})
    pages.scribe.tool_ended("call_1", {"table": 7}, answer=True)
    memory = pages.memory
    assert memory.owed
    assert memory.unresolved == ()
    assert memory.results == {ASKED.same: {"table": 7}}
    call, result = memory.messages[-2:]
    assert (call, result) == result_messages(ASKED, {"table": 7})
    assert result["tool_call_id"] == call["tool_calls"][0]["id"] == "call_1"
    assert json.loads(result["content"]) == {"table": 7}


def test_a_tool_whose_result_was_told_owes_nothing_and_is_forgotten_when_the_caller_speaks() -> None:
    pages = Pages().greeted().user("A table, please.")
    pages.scribe.tool_started("call_1", "book_table", {"guests": 4})
    pages.scribe.tool_ended("call_1", {"table": 7}, answer=True)
    pages.answered("You have table 7.")
    assert not pages.memory.owed
    assert pages.memory.results
    pages.user("Another one, please.")
    assert pages.memory.results == {}
    assert [message["role"] for message in pages.memory.messages] == [
        "assistant", "user", "assistant", "tool", "assistant", "user",
    ]  # fmt: skip


def test_of_two_tools_the_one_that_is_done_is_told_and_the_other_is_unresolved() -> None:
    pages = Pages().greeted().user("A table and a taxi, please.")
    pages.scribe.tool_started("call_1", "book_table", {"guests": 4})
    pages.scribe.tool_started("call_2", "call_taxi", {})
    pages.scribe.tool_ended("call_2", {"taxi": "soon"}, answer=True)
    memory = pages.memory
    assert memory.unresolved == (ASKED,)
    assert memory.messages[-1]["tool_call_id"] == "call_2"
    assert memory.owed


def test_a_tool_that_needs_no_answer_owes_none() -> None:
    pages = Pages().greeted().user("Goodbye.").answered("Goodbye.")
    pages.scribe.tool_started("call_1", "end_call", {})
    pages.scribe.tool_ended("call_1", {"status": "over"}, answer=False)
    assert not pages.memory.owed


def test_a_tool_that_the_caller_cancelled_is_not_taken_up_again() -> None:
    """Its result says so, whichever of the two entries comes first."""
    pages = Pages().greeted().user("Goodbye.").answered("Goodbye.")
    pages.scribe.tool_started("call_1", "end_call", {})
    pages.scribe.interrupted("")
    pages.scribe.tool_ended("call_1", {"status": "cancelled"}, answer=False)
    assert pages.memory.unresolved == ()
    assert not pages.memory.owed


def test_a_tool_entry_that_was_cut_is_left_out() -> None:
    pages = Pages().greeted().user("A table, please.")
    pages.scribe.tool_started("call_1", "note", {"text": "x" * MAX_TEXT_CHARS})
    assert pages.memory.unresolved == ()
    pages.scribe.tool_ended("call_1", {"ok": True}, answer=True)
    memory = pages.memory
    assert memory.owed, "the user still waits"
    assert [message["role"] for message in memory.messages] == ["assistant", "user"], "no result without its call"


def test_a_result_that_was_cut_is_told_as_far_as_it_goes() -> None:
    pages = Pages().greeted().user("Read it to me.")
    pages.scribe.tool_started("call_1", "read", {})
    pages.scribe.tool_ended("call_1", {"text": "x" * MAX_TEXT_CHARS}, answer=True)
    content = json.loads(pages.memory.messages[-1]["content"])
    assert content["result"].startswith('{"text": "xxx')


@pytest.mark.parametrize("text", ["", "[]", "7", '{"arguments": {}}', '{"name": "a", "arguments": [1]}', "{"])
def test_a_tool_entry_that_makes_no_sense_is_left_out(text: str) -> None:
    assert remember([entry("tool", text, "call_1")]).unresolved == ()


# --- deaths in a row --------------------------------------------------------------------------------------------------


def test_after_two_deaths_in_one_answer_everything_that_was_heard_of_it_stands() -> None:
    pages = Pages().greeted().user("A table, please.")
    pages.scribe.speech_begins()
    pages.scribe.said("Gladly.", "0:2")
    pages.scribe.heard("Gladly.", "0:2")
    pages.succeeded()
    pages.scribe.speech_begins()
    pages.scribe.said("For how many?", "1:1")
    pages.scribe.said("And when?", "1:2")
    pages.scribe.heard("For how many?", "1:1")
    second = pages.memory
    assert second.owed
    assert second.broke_off
    assert second.messages[-1] == said("assistant", "Gladly. For how many?")
    pages.succeeded()
    pages.answered("And when?", resume=2, first=1)
    assert not pages.memory.owed
    assert pages.memory.messages[-1] == said("assistant", "Gladly. For how many? And when?")


def test_a_successor_that_goes_on_counts_its_demands_from_where_they_stood() -> None:
    pages = Pages().greeted().user("One.").answered("One it is.")
    pages.succeeded()
    pages.user("Two.")
    assert pages.memory.owed
    pages.answered("Two it is.", resume=1, first=1)
    assert not pages.memory.owed


def test_a_mark_of_a_predecessor_that_comes_back_later_is_no_second_message() -> None:
    pages = Pages().greeted().user("One.")
    pages.scribe.speech_begins()
    pages.scribe.said("One it is.", "0:2")
    pages.scribe.spoken()
    pages.succeeded()
    pages.scribe.heard("One it is.", "0:2")
    assert pages.memory.messages[-1] == said("assistant", "One it is.")
    assert pages.memory.pending == ()


# --- the agent halts --------------------------------------------------------------------------------------------------


def test_a_greeting_that_halts_is_gone_on_with_from_where_it_was_heard() -> None:
    pages = Pages()
    pages.scribe.greeting(HELLO, "0:1")
    pages.scribe.greeted()
    pages.scribe.halted(12_000)
    greeting = pages.memory.greeting
    assert greeting is not None
    assert (greeting.halted, greeting.sent) == (12_000, False)
    assert not pages.memory.owed
    pages.scribe.proceeded({greeting.mark: "0:9"}, 8_000)
    after = pages.memory.greeting
    assert after is not None
    assert (after.halted, after.mark, after.sent) == (None, "0:9", True)
    assert after.at == pytest.approx(pages[-1].at - 1.0), "as if it had begun so long before"
    assert [mark.name for mark in pages.memory.pending] == ["0:9"]


def test_a_greeting_of_the_voice_that_halts_begins_again() -> None:
    pages = Pages()
    pages.scribe.greeting("Good day.", "")
    pages.scribe.said("Good day.", "0:1")
    pages.scribe.spoken()
    pages.scribe.halted(None)
    greeting = pages.memory.greeting
    assert greeting is not None
    assert not greeting.sent


def test_an_answer_that_was_sent_whole_is_owed_while_it_halts_and_no_more_when_it_proceeds() -> None:
    pages = Pages().greeted().user("Two.")
    pages.scribe.speech_begins()
    pages.scribe.said("Two it is.", "0:2")
    pages.scribe.spoken()
    pages.scribe.halted(None)
    owed = [pages.memory.owed]
    pages.scribe.proceeded({"0:2": "0:3"}, None)
    assert [*owed, pages.memory.owed] == [True, False]
    pages.scribe.heard("Two it is.", "0:3")
    assert pages.memory.messages[-1] == said("assistant", "Two it is.")


# --- whatever happens -------------------------------------------------------------------------------------------------

KINDS: tuple[EntryKind, ...] = (
    "user", "greeting", "sent", "agent", "heard", "spoken", "interrupted", "cleared", "halted", "proceeded", "tool",
    "result", "customer", "came_back",
)  # fmt: skip
texts = st.one_of(
    st.sampled_from(
        [
            "",
            "Yes.",
            "4000",
            '{"0:1": "1:1"}',
            '{"name": "book", "arguments": {}}',
            '{"name": "book"}',
            "[1]",
            '{"table": 7}',
            "{",
        ]
    ),
    st.text(max_size=20),
)
keys = st.one_of(st.sampled_from(["", "0:1", "0:2", "1:1", "call_1", "0", "1", "2", "²"]), st.text(max_size=5))


@settings(deadline=None)
@given(st.lists(st.builds(entry, st.sampled_from(KINDS), texts, keys), max_size=30))
def test_no_journal_raises_and_every_result_has_its_call(entries: list[Entry]) -> None:
    memory = remember(entries)
    open_calls: set[str] = set()
    for message in memory.messages:
        match message["role"]:
            case "assistant" if "tool_calls" in message:
                open_calls |= {call["id"] for call in message["tool_calls"]}
            case "tool":
                assert message["tool_call_id"] in open_calls
            case role:
                assert role in {"user", "assistant"}
                assert isinstance(message["content"], str)
    assert memory.owed or not (memory.unresolved or memory.broke_off)
    assert not (memory.owed and memory.pending)


class _Call:
    """A call as it may go, step by step, and what its journal must say of it."""

    def __init__(self) -> None:
        self.pages = Pages()
        self.turns: list[tuple[str, list[str]]] = []  # what the caller said, and what was heard of the answer
        self.unheard: list[tuple[str, str]] = []
        self.owed = False
        self.halted = False
        self.marks = 0

    def step(self, action: str) -> None:
        """Do one thing that can happen now; what cannot is passed over."""
        scribe = self.pages.scribe
        match action:
            case "user":
                scribe.interrupted("")
                scribe.user_said(f"turn {len(self.turns)}")
                self.turns.append((f"turn {len(self.turns)}", []))
                self.unheard, self.owed, self.halted = [], True, False
                scribe.speech_begins()
            case "say" if self.owed and not self.halted:
                self.marks += 1
                self.unheard.append((f"0:{self.marks}", f"sentence {self.marks}."))
                scribe.said(self.unheard[-1][1], self.unheard[-1][0])
            case "hear" if self.unheard and not self.halted:
                name, text = self.unheard.pop(0)
                self.turns[-1][1].append(text)
                scribe.heard(text, name)
            case "done" if self.owed:
                scribe.spoken()
                self.owed = False
            case "barge in":
                scribe.interrupted("")
                self.unheard, self.owed, self.halted = [], False, False
            case "halt" if not self.halted:
                self.halted = True
                scribe.halted(None)
            case "proceed" if self.halted:
                self.halted = False
                names = {name: f"{name}0" for name, _ in self.unheard}
                self.unheard = [(names[name], text) for name, text in self.unheard]
                scribe.proceeded(names, None)
            case "die":
                self.pages.succeeded()
                self.owed, self.halted = self.owes, False
                if self.owed:
                    self.unheard = []  # taken back, and said again
                    self.pages.scribe.speech_begins()
            case _:
                pass

    @property
    def owes(self) -> bool:
        """Whether a successor would have to say something: also what the carrier has dropped for now."""
        return self.owed or (self.halted and bool(self.unheard))

    def expected(self) -> list[dict[str, Any]]:
        """The conversation as the caller knows it; what was sent whole counts as said."""
        messages = []
        for number, (user, heard) in enumerate(self.turns):
            messages.append(said("user", user))
            last = number == len(self.turns) - 1
            sentences = heard + ([text for _, text in self.unheard] if last and not self.owes else [])
            if sentences:
                messages.append(said("assistant", " ".join(sentences)))
        return messages


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(["user", "say", "say", "hear", "hear", "done", "barge in", "die", "halt", "proceed"]),
        max_size=40,
    )
)
def test_a_successor_knows_at_any_moment_what_the_caller_knows(actions: list[str]) -> None:
    call = _Call()
    for action in actions:
        call.step(action)
        memory = call.pages.memory
        assert list(memory.messages) == call.expected(), action
        assert memory.owed is call.owes
        assert [mark.name for mark in memory.pending] == ([] if call.owes else [name for name, _ in call.unheard])
