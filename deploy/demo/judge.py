"""Whether a conversation was a conversation, by what the caller heard. Pure.

The ear is a small recogniser: it writes the time as one number (16:05 is "1605"), and "bye bye" for "goodbye". What
must be heard is therefore loose in form and strict in substance: the planted words are in no prompt and differ in every call.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

COLOURS: Final = ("purple", "yellow", "orange", "golden", "scarlet")
THINGS: Final = ("elephant", "tiger", "mountain", "river", "window", "castle", "kitchen")
"""Words that survive the voice, a telephone line and the ear, nearly always."""

ADRIFT_MIN: Final = 3
"""Minutes between the agent's clock at its answer and ours when it is judged."""

WORD: Final = re.compile(r"[^\W\d_]+")
NUMBER: Final = re.compile(r"\d[\d\s:.,-]*")


@dataclass(frozen=True, slots=True)
class Expected:
    """What this call must bring to the caller's ear."""

    code: str  # the planted words; empty when there are none
    now: datetime  # in the agent's time zone


def problems(heard: Mapping[str, str], expected: Expected) -> list[str]:
    """List what was not heard, by recording that should have brought it; empty when all was."""
    found: list[str] = []
    if not {"wait", "moment"} & _words(heard["interrupt"]):
        found.append(_line("the interruption was not understood", heard["interrupt"]))
    if not tells_time(heard["what-time"], expected.now):
        found.append(_line("the time was not heard", heard["what-time"]))
    planted = set(expected.code.split())
    if planted and not planted & _words(heard["my-code"]):  # either of two: a word in a hundred is heard as another
        found.append(_line(f"the record's words ({expected.code}) were not heard", heard["my-code"]))
    if not {"bye", "goodbye"} & _words(heard["goodbye"]):
        found.append(_line("no goodbye was heard", heard["goodbye"]))
    return found


def tells_time(heard: str, now: datetime) -> bool:
    """Whether the time (within a few minutes), or at least today's weekday, which only the same tool tells, was heard."""
    near = [now + timedelta(minutes=minute) for minute in range(-ADRIFT_MIN, ADRIFT_MIN + 1)]
    numbers = {_digits(match) for match in NUMBER.findall(heard)}
    if {_digits(moment.strftime("%H%M")) for moment in near} & numbers:
        return True
    return bool({moment.strftime("%A").lower() for moment in near} & _words(heard))


def _line(what: str, heard: str) -> str:
    return f"{what}, heard instead: {heard!r}" if heard else f"{what}: the agent said nothing"


def _words(text: str) -> set[str]:
    return {word.lower() for word in WORD.findall(text)}


def _digits(text: str) -> str:
    return re.sub(r"\D", "", text).lstrip("0")
