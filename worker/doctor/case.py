"""What every check is given."""

import ssl
import time
from dataclasses import dataclass, field
from typing import Final

from shared.agents import Agents
from shared.agents_file import load_agents
from shared.errors import SettingsError
from shared.settings import Settings


@dataclass(frozen=True, slots=True)
class Case:
    """A deployment, as its settings say it is.

    Attributes:
        agents: those of the agents file; of a wrong one, the built-in agent.
        named: telephone numbers given on the command line.
        router: where the router listens, behind whatever stands in front of it; empty: on this machine.
        tls: the authorities to believe; those of `SSL_CERT_FILE`, if that is set.
    """

    conf: Settings
    agents: Agents
    named: tuple[str, ...] = ()
    router: str = ""
    tls: ssl.SSLContext = field(default_factory=ssl.create_default_context)

    @property
    def numbers(self) -> tuple[str, ...]:
        """The telephone numbers of this deployment, as far as anybody has named them."""
        return self.named or tuple(self.agents.by_number)


def agents_of(conf: Settings) -> Agents:
    """Read the agents; what is wrong with their file is for the check that reads it to say."""
    try:
        return load_agents(conf.agents_file)
    except SettingsError:
        return load_agents(None)


class Stopwatch:
    """Measures from its making on."""

    def __init__(self) -> None:
        self._began: Final = time.monotonic()

    @property
    def ms(self) -> float:
        """Milliseconds so far."""
        return (time.monotonic() - self._began) * 1000
