"""Reads and checks the agents file (`AGENTS_FILE`, TOML): one table `[agents.<name>]` each, and `[mcp.<name>]` for servers.

Everything wrong with it is said at once, one line each, naming the agent and the field. What only a running installation
knows is checked elsewhere: greeting clips by the pool, names of tools where tools are loaded.
"""

import datetime as dt
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from shared.agents import DEFAULT_AGENT, Agent, Agents, McpServer
from shared.agents_rules import NAME, Problem, agent_problems, meant, server_problems, short, together
from shared.errors import SettingsError, system_words
from shared.turns import Turns

MAX_FILE_BYTES: Final = 1 << 20
"""Of the agents file and of each prompt file: far above any real one."""


class _Profile(Agent, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An agent as the file has it."""

    prompt_file: str = ""


def load_agents(path: Path | None, *, prompts: bool = True) -> Agents:
    """Read the agents file; with no file the built-in default agent takes every number.

    `[agents.default]` may be left out. Without `prompts` no prompt file is read, for who needs no prompt.

    Raises:
        SettingsError: one line per problem, naming `AGENTS_FILE`, the agent and the field.
    """
    if path is None:
        return Agents(default=Agent())
    problems: list[str] = []
    reading = _Reading(path, problems, with_prompts=prompts)
    agents = reading.agents(_parsed(path))
    if problems:
        raise SettingsError("\n".join(f"AGENTS_FILE: {path}: {' '.join(problem.split())}" for problem in problems))
    return agents


def sources(path: Path) -> list[Path]:
    """List the files that the agents are read from, as far as they can be known: a broken file names no other."""
    try:
        profiles = _parsed(path).get("agents")
    except SettingsError:
        return [path]
    tables = profiles.values() if isinstance(profiles, dict) else ()
    named = [table.get("prompt_file") for table in tables if isinstance(table, dict)]
    return [path, *(path.parent / name for name in named if isinstance(name, str) and name and "\0" not in name)]


def _parsed(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(_text(path))
    except (ValueError, RecursionError) as error:  # numbers of 5,000 digits and brackets nested as deep
        said = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise SettingsError(f"AGENTS_FILE: {path}: {' '.join(said.split())}") from error


def _text(path: Path) -> str:
    """Read a file.

    Raises:
        ValueError: it cannot be read, is too large or no UTF-8; says which.
    """
    if path.exists() and not path.is_file():
        raise ValueError("is no file")  # a pipe would keep us waiting
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ValueError(system_words(error)) from error
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"is larger than {MAX_FILE_BYTES} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 at byte {error.start}") from error


class _Reading:
    """One reading of a file; what is wrong is added to `problems`, and something is read all the same."""

    def __init__(self, path: Path, problems: list[str], *, with_prompts: bool) -> None:
        self._path = path
        self._problems = problems
        self._with_prompts = with_prompts

    def agents(self, content: Mapping[str, Any]) -> Agents:
        """Make the agents of what the file holds."""
        unknown = sorted(content.keys() - {"agents", "mcp"})
        for name in unknown:
            self._problems.append(f"{short(name)}: there is no such table{meant(name, ('agents', 'mcp'))}")
        if "agents" not in content and not unknown:
            self._problems.append("there is no table [agents.<name>]")
        servers = {
            name: self._server(name, table) for name, table in self._tables(content.get("mcp", {}), "mcp").items()
        }
        agents = {
            name: self._agent(name, table) for name, table in self._tables(content.get("agents", {}), "agent").items()
        }
        by_number = self._by_number(agents)
        for name, agent in agents.items():
            self._note(f"agent {name}", together(agent, by_number, servers))
        default = agents.get(DEFAULT_AGENT, Agent())
        return Agents(default=default, by_number=by_number, mcp=tuple(servers.values()))

    def _tables(self, content: Any, kind: str) -> dict[str, dict[str, Any]]:
        """Give the tables of a kind by name, without those that are none."""
        if not isinstance(content, dict):
            self._problems.append(
                f"{kind}: must be tables [{kind}s.<name>]" if kind == "agent" else f"{kind}: must be tables"
            )
            return {}
        for name, table in content.items():
            if not isinstance(table, dict):
                self._problems.append(f"{kind} {short(name)}: must be a table")
            elif NAME.fullmatch(name) is None:
                self._problems.append(f"{kind} {short(name)}: a name is of letters, digits, - and _")
        return {name: table for name, table in content.items() if isinstance(table, dict) and NAME.fullmatch(name)}

    def _by_number(self, agents: Mapping[str, Agent]) -> dict[str, Agent]:
        by_number: dict[str, Agent] = {}
        for name, agent in agents.items():
            if not agent.numbers and name != DEFAULT_AGENT:
                self._problems.append(f"agent {name}: numbers: missing, so nobody could call it")
            for number in agent.numbers:
                other = by_number.setdefault(number, agent)
                if other is not agent:
                    self._problems.append(f"agent {name}: numbers: {number} belongs to both {other.name} and {name}")
        return by_number

    def _agent(self, name: str, table: Mapping[str, Any]) -> Agent:
        who = f"agent {name}"
        profile = self._read(who, table, _Profile)
        fields = {field: getattr(profile, field) for field in Agent.__struct_fields__} | {"name": name}
        if profile.prompt_file:
            if "prompt" in table:
                self._problems.append(f"{who}: prompt_file: there is a prompt as well; keep one of them")
            elif self._with_prompts:
                fields["prompt"] = self._prompt(who, profile.prompt_file)
        agent = Agent(**fields)
        self._note(who, agent_problems(agent))
        return agent

    def _prompt(self, who: str, name: str) -> str:
        try:
            return _text(self._path.parent / name).strip()
        except ValueError as error:
            self._problems.append(f"{who}: prompt_file: {short(name)}: {error}")
            return "-"

    def _server(self, name: str, table: Mapping[str, Any]) -> McpServer:
        server: McpServer = msgspec.structs.replace(self._read(f"mcp {name}", table, McpServer), name=name)
        self._note(f"mcp {name}", server_problems(server))
        return server

    def _read(self, who: str, table: Mapping[str, Any], kind: type[Any]) -> Any:
        """Read the fields of a table one by one, so that each wrong one is named; it then has its default."""
        known = {field.name: field.type for field in msgspec.structs.fields(kind) if field.name != "name"}
        values: dict[str, Any] = {}
        for field, value in table.items():
            if field not in known:
                words = (
                    "is what the table is called" if field == "name" else f"there is no such field{meant(field, known)}"
                )
                self._problems.append(f"{who}: {short(field)}: {words}")
                continue
            if isinstance(value, dict) and known[field] is Turns:
                values[field] = self._read(f"{who}: {field}", value, Turns)
                continue
            try:
                values[field] = msgspec.convert(_without_dates(value), known[field])
            except (msgspec.ValidationError, RecursionError) as error:
                self._problems.append(f"{who}: {field}: {error}")
        return kind(**values)

    def _note(self, who: str, problems: Iterator[Problem]) -> None:
        self._problems += [f"{who}: {field}: {words}" for field, words in problems]


def _without_dates(value: Any) -> Any:
    """Write the dates in a list as text: TOML has a type for them, and `closed = [2026-12-25]` is the natural way."""
    if isinstance(value, list):
        return [each.isoformat() if type(each) is dt.date else each for each in value]
    return value
