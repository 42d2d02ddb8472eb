"""Telephone numbers: from what somebody said or typed to the one form that everything is stored under. Pure.

A number is E.164 (`+` and digits). Brazilian mobiles have had a ninth digit since 2016, and old records, and WhatsApp, have
them without: both are one customer, and the form with the ninth digit is the one that is stored. `phone_key` in
`deploy/supabase/migrations` says the same in SQL.
"""

import re
from dataclasses import dataclass
from typing import Final

import phonenumbers
from phonenumbers import NumberParseException, PhoneNumber, PhoneNumberFormat, ValidationResult

WITHHELD: Final = frozenset(
    {"anonymous", "blocked", "hidden", "private", "restricted", "unavailable", "unknown", "withheld"}
)
"""What a carrier writes where a number should be."""

_WITHHELD_IN_DIGITS: Final = frozenset(f"+{phonenumbers.convert_alpha_characters_in_number(word)}" for word in WITHHELD)
"""The same words typed on a keypad, as Twilio shows some of them: +266696687 is ANONYMOUS."""

_E164: Final = re.compile(r"\+[1-9][0-9]{6,14}")
_OLD_MOBILE: Final = re.compile(r"(\+55[1-9]{2})([6-9][0-9]{7})")
_MOBILE: Final = re.compile(r"(\+55[1-9]{2})9([6-9][0-9]{7})")
"""Source: Anatel, Resolução 553/2010: the ninth digit is a 9 before the eight of a mobile, which began with 6 to 9."""

_SCHEME: Final = re.compile(r"(tel|whatsapp|sms|callto):", re.IGNORECASE)
_EXTENSION: Final = re.compile(r"[\s,;]*(;ext=|ext(ension)?\b\.?|x|ramal\b|#)\s*:?\s*\d{1,7}\s*$", re.IGNORECASE)
_ABROAD: Final = re.compile(r"\(?00[\s\-().]*(?=[1-9])")
"""`00` for `+`, before a country code."""

_PLUS: Final = ("+", "\uff0b")
"""The second is the full-width one of East Asian keyboards."""

_BRAZIL: Final = 55
_SHORTEST_BRAZILIAN: Final = 10
"""Area code and eight digits."""

_NOWHERE: Final = frozenset({phonenumbers.UNKNOWN_REGION, phonenumbers.REGION_CODE_FOR_NON_GEO_ENTITY})

NO_NUMBER: Final = "no telephone number was given"
IS_WITHHELD: Final = "the number is withheld"
HAS_LETTERS: Final = "it has letters in it: only digits make a telephone number"
NOT_A_NUMBER: Final = "it is not a telephone number"
TOO_SHORT: Final = "it has too few digits"
TOO_LONG: Final = "it has too many digits"
NO_COUNTRY: Final = "the country code is missing: it begins with a plus sign"
NO_SUCH_COUNTRY: Final = "no country has this code"
NO_AREA: Final = "the area code is missing"
NO_SUCH_NUMBER: Final = "there is no such number in that country: a digit may be wrong"


@dataclass(frozen=True, slots=True)
class Reading:
    """What was made of a text: the number in E.164, or None and why not, as the end of a sentence."""

    e164: str | None
    why: str = ""


def normalise(text: str, region: str | None = None) -> Reading:
    """Read a number the way people write or say it; `region` (ISO 3166, `BR`) is where one without a country code is.

    With a country code it only has to be possible by its length, since numbering plans change; without one it has to exist,
    since a digit that was misheard shows there. An extension is left out. A Brazilian mobile gets its ninth digit.
    """
    written = _SCHEME.sub("", text.strip(), count=1).strip()
    if not written:
        return Reading(None, NO_NUMBER)
    if written.casefold() in WITHHELD or written in _WITHHELD_IN_DIGITS:
        return Reading(None, IS_WITHHELD)
    written = _EXTENSION.sub("", written)
    if _ABROAD.match(written):
        written = _ABROAD.sub("+", written, count=1)
    if any(letter.isalpha() for letter in written):
        return Reading(None, HAS_LETTERS)
    try:
        number = phonenumbers.parse(written, region or None)
    except NumberParseException as error:
        return Reading(None, _words(error, written))
    return _checked(number, international=written.lstrip("( ").startswith(_PLUS))


def is_e164(text: str) -> bool:
    """Say whether a text is a number in the form that is stored, by its form alone."""
    return _E164.fullmatch(text) is not None and text not in _WITHHELD_IN_DIGITS


def key(e164: str) -> str:
    """Give the form a number is unique under: a Brazilian mobile with its ninth digit, any other as it is."""
    old = _OLD_MOBILE.fullmatch(e164)
    return f"{old[1]}9{old[2]}" if old else e164


def variants(e164: str) -> tuple[str, ...]:
    """Give every form in which a number may have been stored, its `key` first."""
    unique = key(e164)
    new = _MOBILE.fullmatch(unique)
    return (unique, f"{new[1]}{new[2]}") if new else (unique,)


def region_of(e164: str) -> str | None:
    """Say in which country a number is (ISO 3166); None when it is no number, or of no country."""
    try:
        country_code = phonenumbers.parse(e164).country_code or 0
    except NumberParseException:
        return None
    region = phonenumbers.region_code_for_country_code(country_code)
    return None if region in _NOWHERE else region


def _checked(number: PhoneNumber, *, international: bool) -> Reading:
    """Give a number that was read its form, or say what is wrong with it."""
    number.extension = None
    e164 = key(phonenumbers.format_number(number, PhoneNumberFormat.E164))
    if phonenumbers.is_valid_number(phonenumbers.parse(e164)) and _E164.fullmatch(e164):
        return Reading(e164)
    digits = phonenumbers.national_significant_number(number)
    match phonenumbers.is_possible_number_with_reason(number):
        case ValidationResult.TOO_SHORT:
            return Reading(None, TOO_SHORT)
        case ValidationResult.TOO_LONG | ValidationResult.INVALID_LENGTH:
            return Reading(None, TOO_LONG)
        case ValidationResult.IS_POSSIBLE_LOCAL_ONLY:
            return Reading(None, NO_AREA)
    if number.country_code == _BRAZIL and len(digits) < _SHORTEST_BRAZILIAN:
        return Reading(None, NO_AREA)
    if not international or not _E164.fullmatch(e164):
        return Reading(None, NO_SUCH_NUMBER)
    return Reading(e164)


def _words(error: NumberParseException, written: str) -> str:
    """Say why a text could not be read."""
    match error.error_type:
        case NumberParseException.INVALID_COUNTRY_CODE:
            return NO_SUCH_COUNTRY if written.lstrip("( ").startswith(_PLUS) else NO_COUNTRY
        case NumberParseException.TOO_LONG:
            return TOO_LONG
        case NumberParseException.TOO_SHORT_NSN | NumberParseException.TOO_SHORT_AFTER_IDD:
            return TOO_SHORT
        case _:
            return TOO_SHORT if any(character.isdigit() for character in written) else NOT_A_NUMBER
