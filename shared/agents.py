"""Agent profiles: which called number gets which prompt, voice, language, greeting and tools.

Read once at start from `AGENTS_FILE` (TOML). Any worker can serve any agent: what differs is set at reservation.
"""

import tomllib
from pathlib import Path
from typing import Final

import msgspec

from shared.errors import SettingsError

DEFAULT_AGENT: Final = "default"


class Agent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the agent speaks and what it knows.

    `language` is an ISO 639-1 code, with or without a region (`en`, `pt-BR`). `greeting` is what the greeting clip says,
    or what the voice says when there is no clip; `greeting_clip` names a clip of `audio_assets/manifest.toml` or a file,
    empty for the setting `GREETING_AUDIO_CLIP`. `voice` is the provider's voice id, empty for the setting.
    `still_there` is what a silent caller is asked, empty for the usual question in the agent's language.
    `timezone` is what "what time is it" means here (IANA name).
    """

    name: str = DEFAULT_AGENT
    prompt: str = (
        "You are a friendly receptionist on the telephone. Answer in one or two short spoken sentences, "
        "without lists, markup or emoji. When the caller says goodbye, call end_call."
    )
    language: str = "en"
    voice: str = ""
    greeting: str = ""
    greeting_clip: str = ""
    still_there: str = ""
    tools: tuple[str, ...] = ("get_current_time", "end_call")
    timezone: str = "UTC"
    numbers: tuple[str, ...] = ()


class Agents(msgspec.Struct, frozen=True):
    """All profiles of an installation."""

    default: Agent
    by_number: dict[str, Agent] = {}

    def serving(self, called: str) -> Agent:
        """Give the agent of a called number; the default one for any other."""
        return self.by_number.get(called, self.default)


class _File(msgspec.Struct, forbid_unknown_fields=True):
    agents: dict[str, Agent]


def load_agents(path: Path | None) -> Agents:
    """Read the agents file; with no file the built-in default agent takes every number.

    The file has one table `[agents.<name>]` each; `[agents.default]` may be left out.

    Raises:
        SettingsError: one line naming `AGENTS_FILE` and what is wrong.
    """
    if path is None:
        return Agents(default=Agent())
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        profiles = msgspec.convert(content, _File).agents
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        msg = f"AGENTS_FILE: {path}: {error}"
        raise SettingsError(msg) from error
    by_number: dict[str, Agent] = {}
    for name, profile in profiles.items():
        agent = msgspec.structs.replace(profile, name=name)
        for number in agent.numbers:
            if number in by_number:
                msg = f"AGENTS_FILE: {path}: {number} belongs to both {by_number[number].name} and {name}"
                raise SettingsError(msg)
            by_number[number] = agent
    default = profiles.get(DEFAULT_AGENT, Agent())
    return Agents(default=msgspec.structs.replace(default, name=DEFAULT_AGENT), by_number=by_number)
