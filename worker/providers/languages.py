"""What a profile's language means to a provider and to the model. Pure."""

from typing import Final

NAMES: Final = {
    "de": "German",
    "en": "English",
    "es": "Spanish",
    "fr": "French",
    "it": "Italian",
    "ja": "Japanese",
    "nl": "Dutch",
    "pt": "Portuguese",
    "pt-br": "Brazilian Portuguese",
}
"""How a prompt names a language; any other is named by its code, which models know as well."""

CARTESIA_TURNS: Final = "ink-2"
"""How the names of Cartesia's models begin that hear English only, and end turns themselves."""

CARTESIA_OTHERS: Final = "ink-whisper"
"""What hears every other language there."""


def cartesia_model(model: str, language: str) -> str:
    """Give the model that hears a language: the one that was chosen, if it can.

    Source: Cartesia docs, "Ink 2" (languages: en).
    """
    return CARTESIA_OTHERS if model.startswith(CARTESIA_TURNS) and base_language(language) != "en" else model


def language_name(language: str) -> str:
    """Give the name of a language for a prompt."""
    code = language.lower()
    return NAMES.get(code) or NAMES.get(base_language(code)) or language


def speaks(recorded: str, language: str) -> bool:
    """Say whether a recording in one language fits another, regions aside; one that does not say its language fits any."""
    return base_language(recorded) in {base_language(language), ""}


def base_language(language: str) -> str:
    """Give the ISO 639-1 code without its region: `pt-BR` is `pt`.

    Source: Cartesia docs, STT and TTS "language" (two-letter codes).
    """
    return language.split("-", maxsplit=1)[0].lower()
