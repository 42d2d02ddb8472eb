"""Agent profiles: which called number gets which prompt, voice, language, greeting and tools.

Read once at start from `AGENTS_FILE` (TOML). Any worker can serve any agent: what differs is set at reservation.
"""

import tomllib
from pathlib import Path
from typing import Final, Literal, get_args

import msgspec

from shared.errors import SettingsError

DEFAULT_AGENT: Final = "default"

ToolStage = Literal["critical", "essential", "full"]
"""How much of its tools the model sees: each stage holds the former ones."""

STAGES: Final[tuple[ToolStage, ...]] = get_args(ToolStage)


class Agent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the agent speaks and what it knows.

    `language` is an ISO 639-1 code, with or without a region (`en`, `pt-BR`). `greeting` is what the greeting clip says,
    or what the voice says when there is no clip; `greeting_clip` names a clip of `audio_assets/manifest.toml` or a file,
    empty for the setting `GREETING_AUDIO_CLIP`. `voice` is the provider's voice id, empty for the setting.
    `still_there` is what a silent caller is asked, empty for the usual question in the agent's language.
    `looking` is what a caller hears whose tool takes long, empty for the usual words.
    `tools` names what the model may ever have, empty for everything there is; `stage` how much of it in the beginning.
    `mcp` names the MCP servers of the file that it may use.
    `timezone` is where its business is (IANA name). `hours` are the opening hours by weekday (`mon` ... `sun`), each a list
    of `09:00-12:30`; empty: always open. `closed` are days on which it is not (`2026-12-25`). Appointments are made in its
    `calendar`, in steps of `slot_minutes`.
    `own_record_only`: tools touch only the record of the number that calls.
    `overflow_number` is dialled when the hold line gives up on a caller, empty for `OVERFLOW_NUMBER`; `transfer_number` is
    whom a caller is connected to who asks for a person. Both E.164.
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
    looking: str = ""
    tools: tuple[str, ...] = ()
    stage: ToolStage = "full"
    mcp: tuple[str, ...] = ()
    timezone: str = "UTC"
    hours: dict[str, tuple[str, ...]] = {}
    closed: tuple[str, ...] = ()
    slot_minutes: int = 30
    calendar: str = "main"
    own_record_only: bool = False
    overflow_number: str = ""
    transfer_number: str = ""
    numbers: tuple[str, ...] = ()


class McpServer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An MCP server whose tools agents may use: `[mcp.<name>]` of the agents file.

    Either `command` (with `args` and `env`; spoken to over stdio) or `url` (streamable HTTP, with `headers`).
    `timeout_s` bounds one call of a tool.
    """

    name: str = ""
    command: str = ""
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    url: str = ""
    headers: dict[str, str] = {}
    timeout_s: float = 10.0
    stage: ToolStage = "full"


class Agents(msgspec.Struct, frozen=True):
    """All profiles of an installation."""

    default: Agent
    by_number: dict[str, Agent] = {}
    mcp: tuple[McpServer, ...] = ()

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
