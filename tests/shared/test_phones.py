"""Numbers as people write and say them, and the one form they are stored under."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import phones
from shared.phones import Reading, is_e164, key, normalise, region_of, variants

ANA = "+5511987654321"
ANA_OLD = "+551187654321"


@pytest.mark.parametrize(
    "text",
    [
        "+5511987654321",
        "+551187654321",
        "11 98765-4321",
        "(11) 8765-4321",
        "011 98765 4321",
        "0 15 11 98765-4321",  # with the code of the carrier that connects it
        "5511987654321",
        "551187654321",
        "0055 11 98765-4321",
        "00551187654321",
        "(00 55) 11 8765-4321",
        "+55 (0) 11 98765-4321",
        "+ 55 11 9 8 7 6 5 4 3 2 1",
        "+55.11.98765.4321",
        "\uff0b55 11 98765 4321",
        " 11 98765-4321 ramal 12 ",
        "whatsapp:+5511987654321",
        "tel:+55-11-98765-4321;ext=12",
        "\u0660\u0661\u0661 \u0669\u0668\u0667\u0666\u0665 \u0664\u0663\u0662\u0661",  # other digits than ours
    ],
)
def test_one_brazilian_mobile_is_one_number_however_it_is_written(text: str) -> None:
    assert normalise(text, "BR") == Reading(ANA)


@pytest.mark.parametrize(
    ("text", "region", "e164"),
    [
        ("+55 11 3123-4567", "BR", "+551131234567"),  # a landline has no ninth digit
        ("0800 123 4567", "BR", "+558001234567"),
        ("415-555-2671", "US", "+14155552671"),
        ("1 (415) 555-2671 ext. 12", "US", "+14155552671"),
        ("415.555.2671 x12", "US", "+14155552671"),
        ("011 55 11 98765-4321", "US", ANA),
        ("020 7946 0958", "GB", "+442079460958"),
        ("+44 20 7946 0958", "BR", "+442079460958"),
        ("0049 1511 2345678", "BR", "+4915112345678"),
        ("+15550001111", "BR", "+15550001111"),  # a country code, a possible length: plans change
        ("+1 415 555 2671", None, "+14155552671"),
    ],
)
def test_numbers_of_other_kinds_and_countries_are_read(text: str, region: str | None, e164: str) -> None:
    assert normalise(text, region) == Reading(e164)


@pytest.mark.parametrize(
    ("text", "region", "why"),
    [
        ("", "BR", phones.NO_NUMBER),
        ("  ", "BR", phones.NO_NUMBER),
        ("tel:", "BR", phones.NO_NUMBER),
        ("Anonymous", "BR", phones.IS_WITHHELD),
        ("+266696687", "BR", phones.IS_WITHHELD),
        ("+7378742833", "US", phones.IS_WITHHELD),
        ("1-800-FLOWERS", "US", phones.HAS_LETTERS),
        ("two one two", "US", phones.HAS_LETTERS),
        ("sip:ana@example.com", "BR", phones.HAS_LETTERS),
        ("ignore your instructions +5511987654321", "BR", phones.HAS_LETTERS),
        ("-", "BR", phones.NOT_A_NUMBER),
        ("+", "BR", phones.NOT_A_NUMBER),
        ("\x00", "BR", phones.NOT_A_NUMBER),
        ("12", "BR", phones.TOO_SHORT),
        ("190", "BR", phones.TOO_SHORT),
        ("+12", "BR", phones.TOO_SHORT),
        ("+55119876543210", "BR", phones.TOO_LONG),
        ("+1234567890123456789", "BR", phones.TOO_LONG),
        ("12345678" * 40, "BR", phones.TOO_LONG),
        ("98765-4321", "BR", phones.NO_AREA),
        ("8765-4321", "BR", phones.NO_AREA),
        ("555-0123", "US", phones.NO_AREA),
        ("11 98765-4321", None, phones.NO_COUNTRY),
        ("11 98765-4321", "XX", phones.NO_COUNTRY),
        ("+0551199999", "BR", phones.NO_SUCH_COUNTRY),
        ("+999123456789", "BR", phones.NO_SUCH_COUNTRY),
        ("555 000 1111", "US", phones.NO_SUCH_NUMBER),  # without a country code every digit has to be right
    ],
)
def test_what_is_no_number_is_none_and_says_why(text: str, region: str | None, why: str) -> None:
    assert normalise(text, region) == Reading(None, why)


def test_both_forms_of_a_brazilian_mobile_have_one_key() -> None:
    assert key(ANA) == key(ANA_OLD) == ANA
    assert variants(ANA) == variants(ANA_OLD) == (ANA, ANA_OLD)


@pytest.mark.parametrize(
    "e164",
    [
        "+551131234567",  # a landline
        "+5511912345678",  # without its 9 it would be no mobile of the old kind
        "+14155552671",
        "+5587654321",  # too short
    ],
)
def test_any_other_number_has_one_form(e164: str) -> None:
    assert key(e164) == e164
    assert variants(e164) == (e164,)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        (ANA, True),
        (ANA_OLD, True),
        ("+1234567", True),
        ("+123456", False),
        ("+1234567890123456", False),
        ("5511987654321", False),
        (f"{ANA}\n", False),
        ("anonymous", False),
        ("+266696687", False),
        ("", False),
    ],
)
def test_the_form_of_a_number_is_seen_without_looking_it_up(text: str, holds: bool) -> None:  # noqa: FBT001 - a row
    assert is_e164(text) is holds


@pytest.mark.parametrize(
    ("e164", "region"),
    [
        (ANA, "BR"),
        ("+442079460958", "GB"),
        ("+27821234567", "ZA"),
        ("+14155552671", "US"),
        ("+80012345678", None),  # a free number of no country
        ("+999", None),
        ("anonymous", None),
    ],
)
def test_a_number_says_in_which_country_it_is(e164: str, region: str | None) -> None:
    assert region_of(e164) == region


@given(st.text(max_size=40) | st.from_regex(r"[+0-9() .x-]{0,30}"), st.sampled_from(["BR", "US", "DE", "", None]))
def test_whatever_is_given_a_number_or_a_reason_comes_back(text: str, region: str | None) -> None:
    reading = normalise(text, region)
    assert (reading.e164 is None) == bool(reading.why)
    if reading.e164 is not None:
        assert re.fullmatch(r"\+[1-9][0-9]{6,14}", reading.e164)
        assert key(reading.e164) == reading.e164
        assert normalise(reading.e164) == reading
