"""When a silent caller is asked whether they are still there, and in which words. Pure."""

from dataclasses import dataclass
from typing import Final

from shared.agents import Agent
from worker.providers.languages import base_language

STILL_THERE: Final = {
    "de": "Sind Sie noch da?",
    "en": "Are you still there?",
    "es": "¿Sigue ahí?",
    "fr": "Êtes-vous toujours là ?",
    "it": "È ancora in linea?",
    "nl": "Bent u er nog?",
    "pt": "Você ainda está aí?",
}

GOODBYE: Final = {
    "de": "Auf Wiederhören.",
    "en": "Goodbye.",
    "es": "Adiós.",
    "fr": "Au revoir.",
    "it": "Arrivederci.",
    "nl": "Tot ziens.",
    "pt": "Até logo.",
}


def still_there(agent: Agent) -> str:
    """Give the question: the agent's own, else one in its language, else the English one."""
    return agent.still_there or STILL_THERE.get(base_language(agent.language), STILL_THERE["en"])


def goodbye(agent: Agent) -> str:
    """Give the goodbye that the voice says where no recording fits; empty in a language we have no words in."""
    return GOODBYE.get(base_language(agent.language), "")


@dataclass(slots=True)
class Silence:
    """How often a silent caller was asked. A cough starts the wait anew but answers nothing: only words do."""

    asked: bool = False

    def over(self) -> bool:
        """Judge when the caller has been silent for the whole time: True to say goodbye, False to ask."""
        if self.asked:
            return True
        self.asked = True
        return False

    def broken(self) -> None:
        """Note that the caller said something, or pressed a key."""
        self.asked = False
