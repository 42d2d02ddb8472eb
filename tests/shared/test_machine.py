"""The one function that looks up what a state becomes."""

from enum import StrEnum

import pytest

from shared.errors import IllegalTransition, OffhookError
from shared.machine import advance


class Lamp(StrEnum):
    """Two states."""

    OFF = "off"
    ON = "on"


class Touch(StrEnum):
    """Two events, one of which no state takes."""

    PRESS = "press"
    SMASH = "smash"


TABLE = {Lamp.OFF: {Touch.PRESS: Lamp.ON}, Lamp.ON: {Touch.PRESS: Lamp.OFF}}


def test_a_legal_event_leads_to_the_state_in_the_table() -> None:
    assert advance(TABLE, Lamp.OFF, Touch.PRESS) is Lamp.ON
    assert advance(TABLE, Lamp.ON, Touch.PRESS) is Lamp.OFF


def test_an_illegal_event_raises_and_names_both() -> None:
    with pytest.raises(IllegalTransition, match="Lamp off does not take smash"):
        advance(TABLE, Lamp.OFF, Touch.SMASH)


def test_a_state_missing_from_the_table_takes_nothing() -> None:
    with pytest.raises(OffhookError):
        advance({}, Lamp.OFF, Touch.PRESS)
