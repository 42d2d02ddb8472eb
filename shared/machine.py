"""State machines as data: a table of legal transitions and the one function that looks them up.

Two rules: a table is a literal, readable at a glance; nothing else in the project decides what a next state is.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

from shared.errors import IllegalTransition

S = TypeVar("S", bound=StrEnum)
E = TypeVar("E", bound=StrEnum)


def advance(table: Mapping[S, Mapping[E, S]], state: S, event: E) -> S:
    """Give the state that `event` leads to from `state`.

    Raises:
        IllegalTransition: the table has no such transition; the caller's state is unchanged.
    """
    try:
        return table[state][event]
    except KeyError:
        msg = f"{type(state).__name__} {state} does not take {event}"
        raise IllegalTransition(msg) from None
