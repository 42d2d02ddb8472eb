"""The rule-based model, rule by rule."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.standins.rules import Answer, answer

RECORD = {
    "customer": {"id": 1, "name": "Ana Souza", "locale": "pt-BR"},
    "facts": {"reference_code": "X7QK", "code": "wrong one", "favourite_colour": "green"},
    "next": [{"starts_at": "2031-05-04T10:00:00Z", "status": "booked"}],
}
ENGLISH = {"role": "system", "content": f"Be brief.\n<customer_record>\n{json.dumps(RECORD)}\n</customer_record>"}
PORTUGUESE = {**ENGLISH, "content": "Speak Portuguese. " + ENGLISH["content"]}
TOOLS = [{"type": "function", "function": {"name": name}} for name in ("get_current_time", "end_call")]


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def result_of(name: str, result: object) -> list[dict[str, Any]]:
    """A tool call and its result, as the messages have them."""
    call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": "{}"}}
    return [
        user("please"),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {
            "role": "tool",
            "tool_call_id": "call_1",
            "content": result if isinstance(result, str) else json.dumps(result),
        },
    ]


@pytest.mark.parametrize(
    ("system", "text", "expected"),
    [
        (ENGLISH, "What time is it please?", Answer(tool="get_current_time")),
        (PORTUGUESE, "Que horas são, por favor?", Answer(tool="get_current_time")),
        (ENGLISH, "Thanks, goodbye.", Answer("Goodbye.", "end_call")),
        (PORTUGUESE, "Obrigado, tchau.", Answer("Tchau.", "end_call")),
        (ENGLISH, "What is my reference code?", Answer("Your reference code is X7QK.")),
        (ENGLISH, "what is my name", Answer("Your name is Ana Souza.")),
        (
            ENGLISH,
            "When is my next appointment?",
            Answer("Ana Souza, your appointment is 2031-05-04T10:00:00Z, booked."),
        ),
        (PORTUGUESE, "Qual é o meu código de referência?", Answer("Seu código de referência é X7QK.")),
        (ENGLISH, "My name is Bob.", Answer("You said: My name is Bob.")),
        (ENGLISH, "What are your opening hours?", Answer("You said: What are your opening hours?")),
        (ENGLISH, "I would like to book.", Answer("You said: I would like to book.")),
        (PORTUGUESE, "Quero marcar.", Answer("Você disse: Quero marcar.")),
    ],
)
def test_one_sentence_has_one_answer(system: dict[str, Any], text: str, expected: Answer) -> None:
    assert answer([system, user(text)], TOOLS) == expected


def test_without_the_tools_a_farewell_and_the_time_are_only_words() -> None:
    assert answer([ENGLISH, user("bye")], []) == Answer("Goodbye.")
    assert answer([ENGLISH, user("it is time")], []) == Answer("You said: it is time")


DESK = {"role": "system", "content": "You make appointments with your tools."}
DESK_TOOLS = [
    {"type": "function", "function": {"name": name}}
    for name in ("end_call", "list_free_slots", "book_appointment", "cancel_calendar_event", "get_customer_facts")
]
FEW_TOOLS = [{"type": "function", "function": {"name": name}} for name in ("end_call", "more_tools")]
FREE = {
    "free": [{"date": "2031-05-23", "day": "Friday 23 May 2031", "suggest": ["09:00", "12:00"]}],
    "note": "Suggest few.",
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "I would like to book an appointment for Friday.",
            Answer(tool="list_free_slots", arguments={"day": "friday"}),
        ),
        ("Quero marcar para amanhã.", Answer(tool="list_free_slots", arguments={"day": "tomorrow"})),
        ("Please book something.", Answer(tool="list_free_slots")),
        ("Book 2031-05-23T09:00 please.", Answer(tool="book_appointment", arguments={"starts_at": "2031-05-23T09:00"})),
        ("I want to cancel my appointment.", Answer(tool="cancel_calendar_event")),
        ("Tell me my facts.", Answer(tool="get_customer_facts")),
        ("What are your opening hours?", Answer("You said: What are your opening hours?")),
    ],
)
def test_a_desk_uses_its_tools_for_what_a_caller_wants(text: str, expected: Answer) -> None:
    assert answer([DESK, user(text)], DESK_TOOLS) == expected
    assert answer([ENGLISH, user(text)], DESK_TOOLS).tool is None, "its instructions say nothing of appointments"
    assert answer([DESK, user(text)], []).tool is None


def test_a_desk_with_too_few_tools_asks_for_more_and_then_goes_on() -> None:
    wish = user("I want to cancel my appointment.")
    assert answer([DESK, wish], FEW_TOOLS) == Answer(tool="more_tools", arguments={"stage": "full"})
    ran = result_of("more_tools", {"stage": "full", "tools": {}})
    assert answer([DESK, wish, *ran[1:]], DESK_TOOLS) == Answer(tool="cancel_calendar_event")
    assert answer([DESK, wish, *ran[1:]], []) == Answer("You said: I want to cancel my appointment.")


@pytest.mark.parametrize(
    ("text", "result", "expected"),
    [
        ("Book me in for Friday.", FREE, Answer(tool="book_appointment", arguments={"starts_at": "2031-05-23T09:00"})),
        ("Book anything.", FREE, Answer(tool="book_appointment", arguments={"starts_at": "2031-05-23T09:00"})),
        (
            "Book me in for Monday.",
            {**FREE, "note": "Nothing is free on Monday."},
            Answer("Nothing is free on Monday."),
        ),
        ("Is Friday free?", FREE, Answer("Suggest few.")),
        ("Book Friday.", {"error": "It is closed."}, Answer("It is closed.")),
    ],
)
def test_the_first_free_time_of_the_day_that_was_named_is_booked(
    text: str, result: dict[str, Any], expected: Answer
) -> None:
    assert answer([DESK, user(text), *result_of("list_free_slots", result)[1:]], DESK_TOOLS) == expected


@pytest.mark.parametrize(
    ("name", "result", "expected"),
    [
        ("get_current_time", {"time": "16:10", "weekday": "Saturday", "note": None}, "It is 16:10, Saturday."),
        ("get_current_time", "ten past four", "It is ten past four."),
        ("book", {"ok": True, "slots": ["Monday", "Friday"], "price": 12.5}, "The result is Monday, Friday, 12.5."),
        ("end_call", {"ok": True}, ""),
        ("book_appointment", {"error": "That time is taken."}, "That time is taken."),
        (
            "book_appointment",
            {"status": "booked", "appointment": {"id": 3, "when": "Friday 23 May at 09:00"}, "note": "x"},
            "Booked: Friday 23 May at 09:00.",
        ),
        ("book", {"status": "unknown", "note": "Ask."}, "The result is unknown, Ask.."),
        ("get_customer_facts", {"facts": {"favourite_colour": "green"}, "note": "data"}, "The result is green."),
    ],
)
def test_a_tool_result_is_spoken(name: str, result: object, expected: str) -> None:
    assert answer([ENGLISH, *result_of(name, result)], TOOLS) == Answer(expected)


def test_instructions_that_come_last_do_not_hide_the_question() -> None:
    late = {"role": "developer", "content": ENGLISH["content"]}
    assert answer([user("What is my reference code?"), late], []) == Answer("Your reference code is X7QK.")


def test_what_was_said_before_is_remembered() -> None:
    said = [user("My favourite sport is chess."), {"role": "assistant", "content": "Noted."}, user("Yes.")]
    assert answer([*said, user("What is my favourite sport?")], []) == Answer(
        "You told me: My favourite sport is chess."
    )
    assert answer([*said, user("Do you remember what I said?")], []) == Answer("You told me: Yes.")
    assert answer([*said, user("What is my shoe size?")], []) == Answer("You said: What is my shoe size?")


def test_an_answer_that_was_cut_off_is_gone_on_with_when_an_instruction_asks_for_it() -> None:
    begun = [user("Good morning."), {"role": "assistant", "content": "You said: Good"}]
    assert answer([*begun, {"role": "system", "content": "Go on."}], []) == Answer("morning.")
    assert answer([*begun, user("Yes.")], []) == Answer("You said: Yes.")
    goodbye = [user("Goodbye."), {"role": "assistant", "content": "Good"}, {"role": "system", "content": "Go on."}]
    assert answer(goodbye, TOOLS) == Answer("bye.", "end_call")


def test_content_may_be_a_list_of_parts() -> None:
    parts = {"role": "user", "content": [{"type": "text", "text": "hello"}, {"type": "image_url"}]}
    assert answer([parts], []) == Answer("You said: hello")


def test_a_conversation_without_a_user_is_greeted() -> None:
    assert answer([ENGLISH], []) == Answer("Hello.")
    assert answer([PORTUGUESE], []) == Answer("Olá.")


def test_a_record_that_is_not_json_is_no_record() -> None:
    broken = {"role": "system", "content": "<customer_record>{oops}</customer_record>"}
    assert answer([broken, user("What is my name?")], []) == Answer("You said: What is my name?")
