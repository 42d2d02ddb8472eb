"""How hard property tests try: bounded and always the same by default, long and always new with `TEST_EFFORT=long`.

The default profile derives its examples from the tests themselves, so that a run on one machine is the run on every other;
what the long one finds is printed with the means to replay it.
"""

import os
from collections.abc import Sequence
from typing import Final, TypeVar

from hypothesis import HealthCheck, settings

T = TypeVar("T")

LONG: Final = os.environ.get("TEST_EFFORT") == "long"
FACTOR: Final = 20 if LONG else 1
"""A long run is for a quarter of an hour, a default one for seconds."""

EXAMPLES: Final = 40
"""Of a property that does not say how many it needs; what they miss, a long run (100 times the factor) is to find."""


def load() -> None:
    """Choose the profile for the whole session; machines are shared and slow, so no example is timed."""
    slow = [HealthCheck.too_slow]
    settings.register_profile(
        "same", max_examples=EXAMPLES, derandomize=True, deadline=None, suppress_health_check=slow
    )
    settings.register_profile(
        "long", max_examples=100 * FACTOR, deadline=None, suppress_health_check=slow, print_blob=True
    )
    settings.load_profile("long" if LONG else "same")


def effort(examples: int, steps: int = 50) -> settings:
    """Give the settings of a test that tries this many examples (of this many steps) by default."""
    return settings(max_examples=examples * FACTOR, stateful_step_count=steps)


def some(values: Sequence[T], count: int) -> Sequence[T]:
    """Give the values of a test that is done with each of them; a default run does it with `count`, evenly chosen."""
    if LONG or count >= len(values):
        return values
    last = len(values) - 1
    return [values[round(number * last / (count - 1)) if count > 1 else 0] for number in range(count)]
