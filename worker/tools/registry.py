"""The tools a worker has: listed once before any call, given to the model by the agent's profile.

A tool is a schema and an async function of a `ToolCall`; it knows nothing of Pipecat. What a tool may do to its call is the
`Session` it is given.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from shared.agents import Agent


class Session(Protocol):
    """What a tool may know of its call and do to it."""

    @property
    def agent(self) -> Agent:
        """The profile this call is served with."""

    async def hang_up(self) -> None:
        """Let what the agent is saying be heard (or the goodbye clip, when it says nothing), then end the call."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One request of the model."""

    id: str
    arguments: Mapping[str, Any]
    session: Session


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the model is told, and whether it should answer to it."""

    result: Mapping[str, Any]
    answer: bool = True


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool as the model sees it. `parameters` are JSON schema properties; `timeout_s` bounds one run.

    A worker may die while a tool runs. Its call is then never run again, unless `repeatable` says that this does no harm;
    `lookup` tells by the call's id what became of it (None: it does not know). Without either the model is told that the
    outcome is unknown.
    """

    name: str
    description: str
    run: Callable[[ToolCall], Awaitable[Outcome]]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    timeout_s: float = 10.0
    repeatable: bool = False
    lookup: Callable[[ToolCall], Awaitable[Outcome | None]] | None = None


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
