"""Who is in the database of a demo: a few customers that are always there, and callers with planted words. Times are UTC.

A customer is written as the Supabase stand-in takes it.
"""

import json
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from secrets import SystemRandom
from typing import Any, Final

from deploy.demo.judge import COLOURS, THINGS
from deploy.demo.trouble import Trouble

DEADLINE_S: Final = 10.0
PREFIX: Final = "+551199999"
"""Of callers; four digits follow."""

REGULARS: Final = (
    ("+5511988880001", "Ana Souza", (2, 15)),
    ("+5511988880002", "Bruno Lima", (3, 10)),
    ("+5511988880003", "Carla Reis", None),
    ("+12125550123", "Dana Cole", (7, 14)),
)
"""Number, name, and when the next appointment is: in how many days, at which hour."""


def regulars(now: datetime) -> list[dict[str, Any]]:
    """Give the customers that are always there."""
    return [
        {"phone": phone, "name": name, "locale": "en", "appointments": [{"starts_at": _at(now, *when)}] if when else []}
        for phone, name, when in REGULARS
    ]


def callers(count: int) -> list[str]:
    """Draw numbers to call from: others each time, so that two who call at the same time do not change each other's records."""
    return [f"{PREFIX}{number}" for number in SystemRandom().sample(range(1000, 10000), count)]


def codes(phones: Sequence[str]) -> dict[str, str]:
    """Draw the words that are planted in each caller's record; of few callers, no two have a word in common."""
    chance = SystemRandom()
    drawn: list[str] = []
    while len(drawn) < len(phones):
        things = chance.sample(THINGS, len(COLOURS))
        drawn += [
            f"{colour} {thing}" for colour, thing in zip(chance.sample(COLOURS, len(COLOURS)), things, strict=True)
        ]
    return dict(zip(phones, drawn, strict=False))


def planted(words: Mapping[str, str]) -> list[dict[str, Any]]:
    """Give the records of callers with planted words, by caller."""
    return [
        {"phone": phone, "name": "Ana Souza", "locale": "en", "facts": {"reference_code": code}}
        for phone, code in words.items()
    ]


def add(url: str, customers: Iterable[Mapping[str, Any]]) -> bool:
    """Add customers to the Supabase stand-in at an address; False when what is there is no stand-in. Blocks.

    Raises:
        Trouble: nobody answers.
    """
    body = json.dumps({"add_customers": list(customers)}).encode()
    request = urllib.request.Request(f"{url}/_control", body)  # noqa: S310 - settings take only http and https
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE_S):  # noqa: S310
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return False
    except OSError as error:
        raise Trouble(
            f"SUPABASE_URL: {url} does not answer", "call from where it can be reached, or leave it out"
        ) from error


def _at(now: datetime, days: int, hour: int) -> str:
    day = now + timedelta(days=days)
    return day.replace(hour=hour, minute=0, second=0, microsecond=0).isoformat()
