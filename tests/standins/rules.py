"""The rule-based model: answers a conversation the way an obedient assistant would, always the same way. Pure.

It knows just what tests, benches and the demo ask of it: tool results are spoken, a farewell ends the call, the time
is asked of its tool, a question is answered from the customer record or from what the caller said before, and
anything else is repeated, so that the test knows which words arrived. An answer that was cut off is gone on with when an
instruction stands behind it.

Where its instructions speak of appointments it books and cancels them: a wish to book asks for the free times of the day
that was named, and the first of them is booked; a time written in full is booked at once. Where it has too few tools for
that it asks for more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

Message = Mapping[str, Any]

RECORD = re.compile(r"<customer_record>(.*?)</customer_record>", re.DOTALL)
WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
FAREWELLS = {"goodbye", "bye", "tchau", "adeus"}
TIMES = {"time", "hora", "horas"}
QUESTIONS = {"what", "what's", "which", "when", "who", "tell", "remember", "qual", "quando", "quem", "diga", "lembra"}
DESK = "appointments"  # what instructions speak of where appointments are made
BOOKING = {"book", "marcar", "agendar"}
CANCELLING = {"cancel", "cancelar", "desmarcar"}
FACTS = {"facts", "fatos"}
HOURS = "hours"
OPENING = "_opening_hours"  # how a tool of an MCP server is called that knows them
DAYS = {
    "monday": "monday", "tuesday": "tuesday", "wednesday": "wednesday", "thursday": "thursday", "friday": "friday",
    "saturday": "saturday", "sunday": "sunday", "today": "today", "tomorrow": "tomorrow", "segunda": "monday",
    "terça": "tuesday", "quarta": "wednesday", "quinta": "thursday", "sexta": "friday", "sábado": "saturday",
    "domingo": "sunday", "hoje": "today", "amanhã": "tomorrow",
}  # fmt: skip
WRITTEN_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d")
RECALLING = ("do you remember", "what did i say", "você lembra", "você se lembra", "o que eu disse")
# Words of a question that say nothing about what is asked for.
_EMPTY_TEXT = """
a about an are before did do does for have i in is it me my now of on please said say tell the this to was what what's
when which who you your agora com da de disse do e é esta está eu favor foi lembra me meu minha o por qual quando que
quem se são seu sua um uma você remember
"""
EMPTY = frozenset(_EMPTY_TEXT.split())
PORTUGUESE_KEYS = {"name": "nome", "reference_code": "código de referência", "phone": "telefone", "balance": "saldo"}
NOT_SPOKEN = {"id", "customer_id", "created_at", "updated_at", "locale"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model says, and the one tool it calls after that, if any."""

    text: str = ""
    tool: str | None = None
    arguments: Mapping[str, object] = field(default_factory=dict)


def answer(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> Answer:
    """Answer the last message that is not an instruction."""
    names = {tool["function"]["name"] for tool in tools if tool.get("type") == "function"}
    instructions = "\n".join(content(one) for one in messages if one.get("role") in ("system", "developer"))
    said = [one for one in messages if one.get("role") not in ("system", "developer")]
    portuguese = "portugu" in instructions.lower()
    if not said:
        return Answer("Olá." if portuguese else "Hello.")
    if said[-1].get("role") == "assistant" and messages[-1].get("role") in ("system", "developer"):
        place = max(index for index, one in enumerate(messages) if one is said[-1])
        return _rest(messages[:place], content(said[-1]), tools)
    users = [content(one) for one in said if one.get("role") == "user"]
    ran = _tool_of(said, said[-1].get("tool_call_id")) if said[-1].get("role") == "tool" else None
    if ran == "list_free_slots" and (booking := _first_free(users, content(said[-1]))):
        return booking
    if said[-1].get("role") == "tool" and ran != "more_tools":
        return _spoken_result(ran, content(said[-1]), portuguese=portuguese)
    return _reply(users, names, instructions, portuguese=portuguese)


def _rest(messages: Sequence[Message], begun: str, tools: Sequence[Mapping[str, Any]]) -> Answer:
    """Go on with an answer that was cut off, as an instruction behind it asks."""
    whole = answer(messages, tools)
    return replace(whole, text=whole.text.removeprefix(begun).strip())


def content(message: Message) -> str:
    """Return the text of a message, whichever of the two forms it has."""
    value = message.get("content")
    if isinstance(value, list):
        return " ".join(str(part["text"]) for part in value if part.get("type") == "text")
    return value if isinstance(value, str) else ""


def _reply(users: list[str], tools: set[str], instructions: str, *, portuguese: bool) -> Answer:
    text = users[-1].strip() if users else ""
    words = _words(text)
    if words & FAREWELLS:
        return Answer("Tchau." if portuguese else "Goodbye.", "end_call" if "end_call" in tools else None)
    if words & TIMES and "get_current_time" in tools:
        return Answer(tool="get_current_time")
    if DESK in instructions.lower() and (wish := _wish(text, tools)):
        return wish
    if HOURS in words and (hours := next((name for name in sorted(tools) if name.endswith(OPENING)), None)):
        return Answer(tool=hours, arguments={"day": "monday"})
    if words & QUESTIONS or "?" in text:
        known = _from_record(text, instructions, portuguese=portuguese) or _recalled(
            users[:-1], text, portuguese=portuguese
        )
        if known:
            return Answer(known)
    return Answer(f"Você disse: {text}" if portuguese else f"You said: {text}")


def _words(text: str) -> set[str]:
    return {word.lower() for word in WORD.findall(text)}


def _wish(text: str, tools: set[str]) -> Answer | None:
    """Choose the tool for what a caller wants of a desk; None when nothing of that is wanted or can be done."""
    words = _words(text)
    day = next((DAYS[word.lower()] for word in WORD.findall(text) if word.lower() in DAYS), None)
    time = WRITTEN_TIME.search(text)
    if words & BOOKING:
        wish = Answer(tool="list_free_slots", arguments={"day": day} if day else {})
        wish = Answer(tool="book_appointment", arguments={"starts_at": time[0]}) if time else wish
    elif words & CANCELLING:
        wish = Answer(tool="cancel_calendar_event")
    elif words & FACTS:
        wish = Answer(tool="get_customer_facts")
    else:
        return None
    if wish.tool in tools:
        return wish
    return Answer(tool="more_tools", arguments={"stage": "full"}) if "more_tools" in tools else None


def _first_free(users: list[str], result: str) -> Answer | None:
    """Book the first time that was suggested, if that is what the caller wants and it is on the day they named."""
    wish = _wish(users[-1] if users else "", {"list_free_slots"})
    free = _object(result).get("free")
    if wish is None or not free:
        return None
    day = str(wish.arguments.get("day", ""))
    if day not in ("", "today", "tomorrow") and not free[0]["day"].lower().startswith(day):
        return None
    return Answer(tool="book_appointment", arguments={"starts_at": f"{free[0]['date']}T{free[0]['suggest'][0]}"})


def _spoken_result(name: str | None, result: str, *, portuguese: bool) -> Answer:
    """Speak the result of the tool that ran last."""
    if name == "end_call":
        return Answer()  # it has said its goodbye
    match _object(result):
        case {"error": str(sentence)}:
            return Answer(sentence)
        case {"status": str(status), "appointment": {"when": str(when)}}:
            return Answer(f"{status.capitalize()}: {when}.")
        case {"note": str(note), "free": list()}:
            return Answer(note)
        case {"facts": dict() as facts}:
            result = json.dumps(facts)
    try:
        values = _values(json.loads(result))
    except ValueError:
        values = [result]
    spoken = ", ".join(values)
    if name == "get_current_time":
        return Answer(f"São {spoken}." if portuguese else f"It is {spoken}.")
    return Answer(f"O resultado é {spoken}." if portuguese else f"The result is {spoken}.")


def _object(text: str) -> dict[str, Any]:
    try:
        read = json.loads(text)
    except ValueError:
        return {}
    return read if isinstance(read, dict) else {}


def _tool_of(said: Sequence[Message], call_id: object) -> str | None:
    for message in said:
        for call in message.get("tool_calls") or ():
            if call.get("id") == call_id:
                name: str = call["function"]["name"]
                return name
    return None


def _values(result: object) -> list[str]:
    match result:
        case dict():
            return [value for inner in result.values() for value in _values(inner)]
        case list():
            return [value for inner in result for value in _values(inner)]
        case None | bool() | "":
            return []
        case _:
            return [str(result)]


def _from_record(question: str, instructions: str, *, portuguese: bool) -> str | None:
    """Answer from the customer record: the entry with the longest name whose words all occur in the question."""
    asked = _words(question)
    best: tuple[int, str, str] | None = None
    for key, value in _entries(instructions):
        label = PORTUGUESE_KEYS.get(key, key.replace("_", " ")) if portuguese else key.replace("_", " ")
        wanted = _words(label) - EMPTY
        if wanted and wanted <= asked and (best is None or len(wanted) > best[0]):
            best = (len(wanted), label, value)
    if best is None:
        return None
    if best[1] == "appointment":
        name = dict(_entries(instructions)).get("name", "")
        return f"{name}, your appointment is {best[2]}.".removeprefix(", ")
    return f"Seu {best[1]} é {best[2]}." if portuguese else f"Your {best[1]} is {best[2]}."


def _entries(instructions: str) -> list[tuple[str, str]]:
    """List what the record in the instructions says about the customer, the latest record first."""
    entries: list[tuple[str, str]] = []
    for block in reversed(RECORD.findall(instructions)):
        begin, end = block.find("{"), block.rfind("}")
        try:
            record = json.loads(block[begin : end + 1])
        except ValueError:
            continue
        for part in (record.get("facts"), record.get("customer"), record):
            if isinstance(part, dict):
                entries += [
                    (key, str(value))
                    for key, value in part.items()
                    if key not in NOT_SPOKEN and isinstance(value, str | int | float)
                ]
        following = record.get("next")
        if following:
            entries.append(("appointment", ", ".join(_values(following[0]))))
    return entries


def _recalled(earlier: list[str], question: str, *, portuguese: bool) -> str | None:
    """Quote what the caller said before, when that is asked for or speaks of the same things."""
    topic = _words(question) - EMPTY
    for text in reversed(earlier):
        if topic and topic <= _words(text) and "?" not in text:
            return f"Você me disse: {text.strip()}" if portuguese else f"You told me: {text.strip()}"
    if earlier and any(phrase in question.lower() for phrase in RECALLING):
        return f"Você me disse: {earlier[-1].strip()}" if portuguese else f"You told me: {earlier[-1].strip()}"
    return None
