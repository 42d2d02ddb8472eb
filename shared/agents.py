"""Agent profiles: which called number gets which prompt, voice, language, greeting and tools. Values; pure.

`shared.agents_file` reads them. Any worker can serve any agent: what differs is set at reservation.
"""

from typing import Final, Literal, get_args

import msgspec

from shared.calls import EndReason
from shared.turns import Turns

DEFAULT_AGENT: Final = "default"

ToolStage = Literal["critical", "essential", "full"]
"""How much of its tools the model sees: each stage holds the former ones."""

STAGES: Final[tuple[ToolStage, ...]] = get_args(ToolStage)


class Agent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the agent speaks and what it knows.

    `prompt`, and a `greeting` that the voice speaks, may hold variables (`shared.variables`). `language` is an ISO 639-1 code,
    with or without a region (`en`, `pt-BR`). `greeting` is what the greeting clip says, or what the voice says when there is
    no clip; `greeting_clip` names a clip of `audio_assets/manifest.toml` or a file, empty for the setting
    `GREETING_AUDIO_CLIP`. `voice` is the provider's voice id, empty for the setting.
    `stt` and `tts` name who hears and who speaks (`SPEECH_PROVIDERS`), `model` is what it thinks with; empty for the settings.
    `still_there` is what a silent caller is asked, empty for the usual question in the agent's language.
    `looking` is what a caller hears whose tool takes long, empty for the usual words.
    `turns` is how it takes turns with its caller (`shared.turns`).
    `tools` names what the model may ever have, empty for everything there is; `stage` how much of it in the beginning.
    What is offered by a rule of its own needs no name there: `transfer_call` (with a `transfer_number`), `more_tools` (before
    the last stage), and the tools of the MCP servers in `mcp`, of each all unless `tools` names some of them.
    `mcp` names the MCP servers of the file that it may use.
    `timezone` is where its business is (IANA name); without one its appointments are in UTC. `hours` are the opening hours by
    weekday (`mon` ... `sun`), each a list of `09:00-12:30`; empty: always open. `closed` are days on which it is not
    (`2026-12-25`). Appointments are made, moved and cancelled in its `calendar`, in steps of `slot_minutes`.
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
    stt: str = ""
    tts: str = ""
    model: str = ""
    turns: Turns = Turns()
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

    def dials(self, reason: EndReason) -> str:
        """Say whom a caller is to be connected to whose call ended for this reason; empty for nobody."""
        return self.transfer_number if reason is EndReason.TRANSFERRED else ""


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

    @property
    def all(self) -> tuple[Agent, ...]:
        """List the agents, the default one first, each once."""
        named = {agent.name: agent for agent in (self.default, *self.by_number.values())}
        return tuple(named.values())

    def serving(self, called: str) -> Agent:
        """Give the agent of a called number; the default one for any other."""
        return self.by_number.get(called, self.default)
