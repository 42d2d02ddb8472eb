"""The rest of an answer whose stream broke: joined to what was given of it, without repeating that. Pure."""

from typing import Final

NOTE: Final = "Your answer was cut off after these words. Go on from exactly there, and repeat nothing of it."
"""What a model is told behind its own words when it is asked for the rest; an instruction, not something the caller said."""


class Continuation:
    """Takes the pieces of a new answer and gives what is to be said of them, `given` being what was said already.

    A model may begin its answer anew instead of going on: as long as it says what was said, nothing is given out.
    """

    def __init__(self, given: str) -> None:
        self._given = given
        self._held = ""
        self._joined = not given

    def take(self, text: str) -> str:
        """Take a piece; give what is new and can be said now."""
        if self._joined:
            return text
        self._held += text
        held, given = self._held.lstrip(), self._given.strip()
        if len(held) < len(given) and given.startswith(held):
            return ""
        if held.startswith(given):
            self._held, self._joined = "", True
            return held[len(given) :]
        return self.rest()

    def rest(self) -> str:
        """Give what was held back: the answer is at its end, or was not a repetition."""
        held, self._held = self._held, ""
        apart = not self._joined and held[:1].isalnum() and not self._given[-1:].isspace()
        self._joined = True
        return f" {held}" if apart else held
