"""Words with which a listener says "go on": no interruption while the agent speaks, an answer when it is silent. Pure."""

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

from worker.providers.languages import base_language

_SOUNDS: Final = "m|mm|mhm|mm hm|mm hmm|m hm|hm|hmm|uh huh|uhhuh|uh|um|ah|oh|ok|okay"
"""What listeners say in most languages, as ears write it."""

_WORDS: Final = {
    "de": "genau|gut|aha|ach so|alles klar|na gut|verstehe",
    "en": "yeah|right|alright|all right|i see|got it|good|great|cool|er|aha",
    "es": "ajá|aja|ajam|vale|ya|bueno|bien|eso|entiendo|muy bien|está bien",
    "fr": "ouais|bien|très bien|voilà|je vois|entendu|euh|hein",
    "it": "va bene|bene|capito|ecco",
    "nl": "oké|oke|goed|juist",
    "pt": "aham|uhum|hum|hã|é|tá|tá bom|tá certo|tudo bem|tudo certo|certo|entendi|sei|isso|beleza|pois é|bom",
}

"""A plain "yes" is none of them: it is an answer wherever it is said. Who wants it to be one names it."""

_LONG: Final = re.compile(r"(.)\1{2,}")
_SIGNS: Final = re.compile(r"[^\w']+")


def _words(text: str) -> tuple[str, ...]:
    """Write a text as its bare words; a sound drawn out is a short one: `Mm-hmmm.` is `mm hm`."""
    bare = unicodedata.normalize("NFC", text).casefold().replace("\u2019", "'")
    return tuple(_LONG.sub(r"\1", bare_word) for bare_word in _SIGNS.sub(" ", bare).split())


class Backchannels:
    """Those of a language, or an agent's own where it names some."""

    def __init__(self, language: str = "en", own: Iterable[str] = ()) -> None:
        usual = f"{_SOUNDS}|{_WORDS.get(base_language(language), '')}".split("|")
        self._phrases = {_words(each) for each in tuple(own) or usual} - {()}
        self._longest = max(map(len, self._phrases), default=0)

    def other_words(self, text: str) -> int:
        """Count the words of a text that are not backchannels; phrases are found longest first."""
        words = _words(text)
        count = place = 0
        while place < len(words):
            sizes = range(min(self._longest, len(words) - place), 0, -1)
            found = next((size for size in sizes if words[place : place + size] in self._phrases), 0)
            count += not found
            place += found or 1
        return count


def spoken(text: str) -> bool:
    """Say whether there is any word in a text."""
    return bool(_words(text))
