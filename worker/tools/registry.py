"""The tools there are: listed once before any call, given to the model by the agent's profile and stage.

A tool is a schema and an async function of a `ToolCall`; it knows nothing of Pipecat, of processes or of MCP. Most run in the
worker of the call (`place="worker"`); those that need the database or the messenger run in the pool's tool host, so that no
worker holds a key to either. What a tool may do to its call is the `Session` it is given.
"""

import functools
import hashlib
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from pydantic import BaseModel

from shared.agents import STAGES, Agent, ToolStage
from shared.calls import IncomingCall
from worker.tools.schemas import inline, with_items
from worker.tools.services import Services

Place = Literal["worker", "host"]
Need = Literal["database", "messenger"]
"""What a tool of the host cannot work without: it is not offered where that is missing."""


class Session(Protocol):
    """What a tool may know of its call and do to it. Only tools that run in the worker have one."""

    @property
    def agent(self) -> Agent:
        """The profile this call is served with."""

    async def hang_up(self) -> None:
        """Let what the agent is saying be heard (or the goodbye clip, when it says nothing), then end the call."""

    async def transfer(self) -> None:
        """Let what the agent is saying be heard, then have the carrier connect the caller to the agent's `transfer_number`."""

    def widen(self, stage: ToolStage) -> tuple[str, ...]:
        """Let the model see the tools of a further stage from its next answer on; gives the names of the new ones."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One request of the model.

    Attributes:
        id: the model's name for it. The same again, of the same call, is the same request (`key`).
        arguments: an instance of the tool's `arguments`, or what the model wrote where the tool has only a schema.
        agent: the profile the call is served with.
        call: who calls whom; None where there is no call (an MCP client).
        session: what may be done to the call, for tools that run in its worker.
        services: database and messenger, for tools that run in the host.
    """

    id: str
    arguments: Any
    agent: Agent = field(default_factory=Agent)
    call: IncomingCall | None = None
    session: Session | None = None
    services: Services = field(default_factory=Services)

    @property
    def key(self) -> str:
        """What is stored with a row that this request writes, so that it is written once.

        With a digest of the arguments: some models name every call of a conversation alike.
        """
        return f"{self.call.call_sid if self.call is not None else 'mcp'}:{self.id}:{digest(self.arguments)}"


def digest(arguments: Any) -> str:
    """Give eight characters that stand for arguments, a pydantic model or what JSON can say."""
    written = arguments.model_dump(mode="json") if isinstance(arguments, BaseModel) else arguments
    text = json.dumps(written, sort_keys=True, default=str)
    return hashlib.blake2s(text.encode(errors="replace"), digest_size=4).hexdigest()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the model is told, and whether it should answer to it."""

    result: Mapping[str, Any]
    answer: bool = True


class ToolError(Exception):
    """A tool did not do what was asked for; the message is a sentence for the model, which may repeat it to the caller."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool as the model sees it, and how it is run.

    Attributes:
        arguments: the pydantic model of its arguments; the descriptions of the fields are the model's. None for a tool whose
            `parameters` are a JSON schema somebody else wrote and checks (MCP).
        stage: from which stage on the model sees it.
        writes: it changes something. It then goes on when the caller speaks meanwhile, and its result is not lost.
        repeatable: running it again does no harm, also under another id.
        idempotent: running it again *under the same id* does no harm: it gives what came of it the first time.
        timeout_s: bounds one run.
        quick: it never takes long enough for words to the caller.
        lookup: tells, by the call's id, what became of a run whose worker died meanwhile; None when it does not know. A tool
            that is none of repeatable, idempotent and looked up is never run again: the model is told that nobody knows.
        offered: says whether an agent has a use for it at a stage, whatever the agent's own list says; None where that decides.
        server: the MCP server it is of; empty for any other.
    """

    name: str
    description: str
    run: Callable[[ToolCall], Awaitable[Outcome]]
    arguments: type[BaseModel] | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    stage: ToolStage = "full"
    place: Place = "worker"
    needs: frozenset[Need] = frozenset()
    writes: bool = False
    repeatable: bool = False
    idempotent: bool = False
    timeout_s: float = 10.0
    quick: bool = False
    lookup: Callable[[ToolCall], Awaitable[Outcome | None]] | None = None
    offered: Callable[[Agent, ToolStage], bool] | None = None
    server: str = ""

    def schema(self) -> dict[str, Any]:
        """Give the JSON schema of the arguments, without what says nothing to a model. Not to be changed."""
        return _told(self.parameters) if self.arguments is None else _told_of(self.arguments)


@functools.cache
def _told_of(arguments: type[BaseModel]) -> dict[str, Any]:
    """Write the schema of a model once: the zygote does, for every worker it forks."""
    return _told(arguments.model_json_schema())


def _told(schema: Mapping[str, Any]) -> dict[str, Any]:
    written = inline(schema)
    properties = {name: with_items(_plain(each)) for name, each in written.get("properties", {}).items()}
    kept = {key: written[key] for key in ("required", "$defs", "additionalProperties") if key in written}
    return {"type": "object", "properties": properties} | kept


def _plain(field_schema: Any) -> Any:
    """Leave out titles, and of an optional field that it may be null: the model leaves it out."""
    if not isinstance(field_schema, dict):
        return field_schema
    kept = {key: value for key, value in field_schema.items() if key != "title"}
    choices = [each for each in kept.get("anyOf", ()) if each != {"type": "null"}]
    if len(choices) == 1 and len(kept["anyOf"]) > 1 and kept.get("default", 0) is None:
        del kept["anyOf"], kept["default"]
        kept = {**choices[0], **kept}
    return kept


MOST_TOOLS: Final = 128
"""Source: OpenAI API reference, chat completions, `tools`."""


def by_name(tools: Iterable[Tool]) -> dict[str, Tool]:
    """List tools by name.

    Raises:
        ValueError: two tools have the same name.
    """
    listed: dict[str, Tool] = {}
    for tool in tools:
        if tool.name in listed:
            msg = f"two tools are called {tool.name}"
            raise ValueError(msg)
        listed[tool.name] = tool
    return listed


def visible(tools: Iterable[Tool], agent: Agent, stage: ToolStage) -> list[Tool]:
    """Choose what the model sees of an agent's tools at a stage, in the order they are listed in."""
    depth = STAGES.index(stage)
    return [
        tool
        for tool in tools
        if _listed(tool, agent)
        and STAGES.index(tool.stage) <= depth
        and (tool.offered is None or tool.offered(agent, stage))
    ]


def of_server(name: str, server: str) -> bool:
    """Tell whether a name is one that a tool of an MCP server has (`worker.tools.mcp_names`)."""
    return name.startswith(f"{server}_")


def _listed(tool: Tool, agent: Agent) -> bool:
    """Tell whether an agent's list leaves a tool in. Of an MCP server it chooses only when it names tools of that one."""
    if not agent.tools or tool.name in agent.tools:
        return True
    if tool.server:
        return not any(of_server(name, tool.server) for name in agent.tools)
    return tool.offered is not None
