"""What a journal makes of a call: transcript, counts and timings, for any journal."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.callrecord import (
    Counts,
    call_document,
    counts,
    decode,
    encode,
    record_of,
    timings,
    turn_documents,
)
from shared.calls import CallSid, EndReason, IncomingCall, TraceId
from shared.messages import Entry, EntryKind
from shared.transcript import transcript
from worker.call.memory import remember
from worker.call.scribe import Scribe

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.callrecord import CallRecord
    from shared.messages import Message

CALL = IncomingCall(
    call_sid=CallSid("CA1"), caller="+5511987654321", called="+551130000000", trace_id=TraceId("a" * 32), attempt=1
)


def entries(write: Callable[[Scribe], None]) -> list[Entry]:
    """Give what a scribe wrote."""
    written: list[Message] = []
    write(Scribe(written.append))
    return [entry for entry in written if isinstance(entry, Entry)]


def lines(journal: list[Entry]) -> list[tuple[str, str, str | None, bool]]:
    """Give a transcript in short."""
    return [(turn.speaker, turn.text, turn.heard, turn.cut_off) for turn in transcript(journal)]


def answer(scribe: Scribe, *sentences: str, first: int = 1) -> None:
    """Say sentences to their end."""
    scribe.speech_begins()
    for number, sentence in enumerate(sentences, first):
        scribe.said(sentence, f"0:{number}")
    scribe.spoken()


def test_a_conversation_reads_as_it_was() -> None:
    def write(scribe: Scribe) -> None:
        scribe.greeting("Hello, how can I help?", "0:1")
        scribe.greeted()
        scribe.heard("Hello, how can I help?", "0:1")
        scribe.user_said("What time is it?")
        scribe.tool_started("call_1", "get_current_time", {"timezone": "UTC"})
        scribe.tool_ended("call_1", {"time": "noon"}, answer=True)
        answer(scribe, "It is noon.", "Anything else?", first=2)
        scribe.heard("It is noon.", "0:2")
        scribe.heard("Anything else?", "0:3")

    journal = entries(write)
    assert lines(journal) == [
        ("agent", "Hello, how can I help?", "Hello, how can I help?", False),
        ("caller", "What time is it?", None, False),
        ("tool", "get_current_time", None, False),
        ("agent", "It is noon. Anything else?", "It is noon. Anything else?", False),
    ]
    tool = transcript(journal)[2].tool
    assert tool is not None
    assert (tool.id, tool.arguments, tool.result) == ("call_1", {"timezone": "UTC"}, {"time": "noon"})
    assert tool.duration_s is not None
    assert counts(journal) == Counts(turns=1, tool_calls=1)


def test_of_an_answer_the_caller_spoke_over_only_what_was_heard_counts_as_heard() -> None:
    """One sentence came back, one was sent and taken back, one broke off in the middle."""

    def write(scribe: Scribe) -> None:
        scribe.user_said("Tell me everything.")
        scribe.speech_begins()
        for number, sentence in enumerate(("First.", "Second."), 1):
            scribe.said(sentence, f"0:{number}")
        scribe.heard("First.", "0:1")
        scribe.cut("Third is a long one.", "Third is")
        scribe.interrupted("")
        scribe.user_said("Stop.")

    assert lines(entries(write)) == [
        ("caller", "Tell me everything.", None, False),
        ("agent", "First. Second. Third is a long one.", "First. Third is", True),
        ("caller", "Stop.", None, False),
    ]


def test_a_greeting_the_caller_spoke_over_was_heard_as_far_as_it_was_played() -> None:
    def write(scribe: Scribe) -> None:
        scribe.greeting("Hello, how can I help?", "0:2", ago_s=0.1)
        scribe.consented("This call may be recorded.", ago_s=1.5)
        scribe.interrupted("Hello, how…")

    assert lines(entries(write)) == [
        ("agent", "This call may be recorded.", "This call may be recorded.", False),
        ("agent", "Hello, how can I help?", "Hello, how…", True),
    ]


def test_a_mark_that_comes_late_belongs_to_the_turn_it_was_said_in() -> None:
    def write(scribe: Scribe) -> None:
        scribe.user_said("One.")
        answer(scribe, "First.")
        scribe.user_said("Two.")
        answer(scribe, "Second.", first=2)
        scribe.heard("First.", "0:1")
        scribe.heard("Second.", "0:2")

    assert [turn.heard for turn in transcript(entries(write))] == [None, "First.", None, "Second."]


def test_what_the_carrier_got_again_is_said_once_and_heard_under_its_new_mark() -> None:
    def write(scribe: Scribe) -> None:
        scribe.user_said("Go on.")
        scribe.said("One.", "0:1")
        scribe.said("Two.", "0:2")
        scribe.halted(None)
        scribe.proceeded({"0:1": "0:3", "0:2": "0:4"}, None)
        scribe.heard("One.", "0:3")
        scribe.halted(None)
        scribe.proceeded({"0:4": "0:5"}, None)
        scribe.heard("Two.", "0:5")

    turn = transcript(entries(write))[1]
    assert (turn.text, turn.heard, turn.cut_off) == ("One. Two.", "One. Two.", False)


def test_what_a_successor_says_again_is_there_once() -> None:
    def write(scribe: Scribe) -> None:
        scribe.user_said("Hours?")
        scribe.speech_begins()
        scribe.said("From nine.", "0:1")
        scribe.heard("From nine.", "0:1")
        scribe.said("To five.", "0:2")
        scribe.cleared()
        answer(scribe, "To five.", first=3)
        scribe.heard("To five.", "0:3")

    assert lines(entries(write)) == [
        ("caller", "Hours?", None, False),
        ("agent", "From nine.", "From nine.", False),
        ("agent", "To five.", "To five.", False),
    ]


def test_what_broke_with_the_line_was_said_and_not_proven_heard() -> None:
    def write(scribe: Scribe) -> None:
        scribe.user_said("Hours?")
        answer(scribe, "From nine.")

    journal = [*entries(write), Entry(kind="came_back", text="", at=2.0)]
    journal += entries(lambda scribe: scribe.heard("From nine.", "0:1"))  # of another stream: it proves nothing
    assert lines(journal) == [("caller", "Hours?", None, False), ("agent", "From nine.", "", False)]


def test_a_tool_whose_end_nobody_saw_has_no_result() -> None:
    [turn] = transcript(entries(lambda scribe: scribe.tool_started("call_1", "book", {"day": "Friday"})))
    assert turn.tool is not None
    assert (turn.tool.result, turn.tool.duration_s) == (None, None)


def test_what_was_used_is_added_up_over_all_workers() -> None:
    def write(scribe: Scribe) -> None:
        scribe.used(completions=1, prompt_tokens=100, completion_tokens=20, cached_tokens=64)
        scribe.used(tts_characters=40)
        scribe.used(resumes=1)
        scribe.used(completions=1)  # interrupted: the provider says nothing of it
        scribe.used(stt_seconds=10.0)
        scribe.used(stt_seconds=2.5)

    journal = [*entries(write), Entry(kind="used", text="{", at=0.0), Entry(kind="used", text='{"x": 1}', at=0.0)]
    assert counts(journal) == Counts(
        completions=2,
        prompt_tokens=100,
        cached_tokens=64,
        completion_tokens=20,
        tts_characters=40,
        stt_seconds=12.5,
        resumes=1,
    )


def test_what_happens_once_was_timed_once_and_every_turn_by_its_stages() -> None:
    def write(scribe: Scribe) -> None:
        for name, seconds in (("greeting_start", 0.001), ("greeting_start", 9.0), ("turn_llm", 0.3), ("turn_llm", 0.4)):
            scribe.timed(name, seconds)

    journal = [*entries(write), Entry(kind="timing", text="soon", at=0.0, key="turn_llm")]
    assert timings(journal) == {"greeting_start_s": 0.001, "turns": {"llm_s": [0.3, 0.4]}}


def record(journal: list[Entry]) -> CallRecord:
    return record_of(CALL, "default", EndReason.CALLER_HANGUP, journal, (1000.0, 1060.0))


def test_a_record_begins_where_its_first_stream_did() -> None:
    """A call that was cut off has a journal older than its present stream."""
    made = record([Entry(kind="user", text="Hello.", at=900.5)])
    document = call_document(made, "CA1.ogg")
    assert document["started_at"] == "1970-01-01T00:15:00.500+00:00"
    assert document["ended_at"] == "1970-01-01T00:17:40.000+00:00"
    assert (document["attempts"], document["resumes"], document["recording"]) == (2, 0, "CA1.ogg")
    assert call_document(record([]))["recording"] is None


def test_what_postgresql_does_not_take_is_left_out() -> None:
    [turn, tool] = turn_documents(
        record(
            [
                Entry(kind="user", text="a\x00b", at=1.0),
                Entry(kind="tool", text='{"name": "t", "arguments": {"x\\u0000": ["\\ud800"]}}', at=2.0, key="1"),
            ]
        )
    )
    assert turn["text"] == "ab"
    assert tool["tool"] is None or "\\u0000" not in json.dumps(tool["tool"])


@pytest.mark.parametrize("text", ["", "{}", "null", '{"call_sid": 1}'])
def test_what_is_no_record_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"JSON|Expected|missing|truncated|Input"):
        decode(text)


MARKS = st.sampled_from([f"0:{number}" for number in range(1, 6)])
WORDS = st.sampled_from(["One.", "Two.", "Three.", ""])
ENTRIES = st.lists(
    st.builds(
        Entry,
        kind=st.sampled_from(get_args(EntryKind)),
        text=WORDS | st.sampled_from(['{"said": "Four.", "heard": "Fo"}', '{"name": "t", "arguments": {}}', "7", "{"]),
        at=st.floats(0, 1e9),
        key=MARKS | st.sampled_from(["", "1", "call_1", "turn_llm"]),
    ),
    max_size=30,
)


@given(ENTRIES)
def test_any_journal_is_a_transcript_and_a_record_survives_redis(journal: list[Entry]) -> None:
    turns = transcript(journal)
    assert [turn.position for turn in turns] == list(range(len(turns)))
    assert [turn.text for turn in turns if turn.speaker == "caller"] == [
        entry.text for entry in journal if entry.kind == "user"
    ]
    assert sum(turn.tool is not None for turn in turns) == sum(entry.kind == "tool" for entry in journal)
    assert all(turn.text for turn in turns if turn.speaker == "agent")
    assert all((turn.heard is None) == (turn.speaker != "agent") for turn in turns)
    counts(journal)
    timings(journal)
    made = record(journal)
    assert decode(encode(made)) == made


SPOKEN = st.lists(st.tuples(st.sampled_from(["user", "answer", "barge_in"]), st.integers(0, 3)), max_size=8)


@given(SPOKEN)
def test_the_transcript_and_a_successors_memory_are_one_reading(story: list[tuple[str, int]]) -> None:
    """Whatever the memory says the caller heard, or is about to hear, stands in the transcript in the same order."""

    def write(scribe: Scribe) -> None:
        mark = 0
        for number, (what, heard) in enumerate(story):
            if what == "user":
                scribe.user_said(f"question {number}")
                continue
            marks = [mark + 1, mark + 2, mark + 3]
            mark += 3
            scribe.speech_begins()
            for each in marks:
                scribe.said(f"sentence {each}", f"0:{each}")
            for each in marks[:heard]:
                scribe.heard(f"sentence {each}", f"0:{each}")
            if what == "barge_in":
                scribe.interrupted("")
            else:
                scribe.spoken()

    journal = entries(write)
    turns = transcript(journal)
    messages = remember(journal).messages
    assert [m["content"] for m in messages if m["role"] == "user"] == [t.text for t in turns if t.speaker == "caller"]
    said = " ".join(turn.text for turn in turns if turn.speaker == "agent")
    heard = [turn.heard for turn in turns if turn.speaker == "agent" and turn.heard]
    known = " ".join(m["content"] for m in messages if m["role"] == "assistant")
    assert [word for word in known.split() if word.isdecimal() and word not in said.split()] == []
    assert [part for part in " ".join(heard).split() if part not in known.split()] == []
