"""Opening hours as they are written."""

import pytest

from shared.hours import DAY_MINUTES, Opening, read_day, read_opening, read_week


def test_an_opening_is_minutes_since_midnight() -> None:
    assert read_opening("09:00-12:30") == Opening(540, 750)
    assert read_opening("00:00-24:00") == Opening(0, DAY_MINUTES)


@pytest.mark.parametrize(
    "text",
    ["", "9-12", "9:00-12:00", "09:00", "09:00-12:60", "25:00-26:00", "09:00 - 12:00", "09:00-12:00\n", "12:00-12:00",
     "18:00-02:00", "24:00-24:00", "00:00-24:01", "-1:00-02:00"],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        read_opening(text)


def test_the_openings_of_a_day_are_in_order_and_do_not_overlap() -> None:
    assert read_day(["09:00-12:00", "12:00-13:00"]) == (Opening(540, 720), Opening(720, 780))
    for spans in (["09:00-12:00", "11:59-13:00"], ["13:00-14:00", "09:00-12:00"], ["09:00-10:00", "09:00-10:00"]):
        with pytest.raises(ValueError, match="must begin after the one before it has ended"):
            read_day(spans)


def test_a_day_that_is_not_named_is_closed() -> None:
    week = read_week({"mon": ["09:00-10:00"], "sun": ["10:00-11:00"]})
    assert week == ((Opening(540, 600),), (), (), (), (), (), (Opening(600, 660),))
