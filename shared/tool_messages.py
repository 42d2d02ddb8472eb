"""Every message of the tool host, which runs the tools that need keys or MCP servers: with its pool, and with workers.

As in `messages`: one datagram each, at most 64 KiB, and a union for each direction.
"""

from typing import Any, Literal

import msgspec

from shared.agents import Agent, McpServer, ToolStage
from shared.calls import IncomingCall
from shared.messages import Message
from shared.workers import WorkerId

# --- pool -> tool host and back ---------------------------------------------------------------------------------------


class Attend(Message, frozen=True):
    """Pool to tool host, with the other end of a worker's `ToolLine`: serve this worker."""

    worker: WorkerId


class Serve(Message, frozen=True):
    """Pool to tool host, first, and whenever the agents file has changed: the MCP servers to be connected from now on."""

    servers: tuple[McpServer, ...]


class HostUp(Message, frozen=True):
    """Tool host to pool, once: it takes workers. Its servers may still be connecting."""


class ServerState(Message, frozen=True):
    """Tool host to pool, when an MCP server became usable (`why` is empty) or ceased to be."""

    server: str
    tools: int
    why: str = ""


ToHost = Attend | Serve
FromHost = HostUp | ServerState

# --- worker -> tool host and back ---------------------------------------------------------------------------------------


class RunTool(Message, frozen=True):
    """Worker to tool host: run a tool. Answered by ToolRan.

    `call_id` is the model's id of the tool call: asked again with the same one for the same call (by a successor), the host
    answers with what came of it the first time. `agent` comes without its prompt; `server` is empty for our own tools.
    """

    request: int
    tool: str
    call_id: str
    arguments: dict[str, Any]
    call: IncomingCall
    agent: Agent
    server: str = ""


class DropTool(Message, frozen=True):
    """Worker to tool host: nobody waits for this answer any more; a tool that only reads may be given up."""

    request: int


class OfferedTool(msgspec.Struct, frozen=True, kw_only=True):
    """A tool of an MCP server, as the model is to see it; `parameters` is a JSON schema of its arguments.

    `read_only` and `idempotent` are what the server says of it; one that says nothing is taken for a write.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    stage: ToolStage
    timeout_s: float
    read_only: bool = False
    idempotent: bool = False


class HostHas(Message, frozen=True):
    """Tool host to worker, first: which services it was given, and which MCP servers it may ever offer tools of."""

    services: tuple[Literal["database", "messenger"], ...]
    servers: tuple[str, ...]


class Offered(Message, frozen=True):
    """Tool host to worker: the tools of a server, in as many messages as they need; `first` replaces what was offered before."""

    server: str
    tools: tuple[OfferedTool, ...]
    first: bool = True


class ToolRan(Message, frozen=True):
    """Tool host to worker: what the model is to be told, and whether it should answer to it."""

    request: int
    result: dict[str, Any]
    answer: bool = True


FromWorkerToHost = RunTool | DropTool
FromHostToWorker = HostHas | Offered | ToolRan
