"""What a tool of an MCP server is called and shown as: names a model may use, and words that fit a message. Pure.

A name depends on the agents file and the tool alone, not on which servers are connected, in which order or since when:
otherwise a call resumed after a restart of the tool host would ask for something else.
"""

import hashlib
import re
from collections.abc import Collection, Iterable
from typing import Any, Final

import msgspec

from shared.agents import McpServer
from shared.framing import MAX_MESSAGE_BYTES
from shared.tool_messages import Offered, OfferedTool
from worker.tools.registry import MOST_TOOLS
from worker.tools.schemas import sound

MAX_NAME: Final = 64
"""Source: OpenAI API reference, chat completions, `tools[].function.name`: a-z, A-Z, 0-9, underscores and dashes, at most 64."""

MAX_DESCRIPTION: Final = 1_024
"""Source: OpenAI API reference, chat completions, `tools[].function.description`."""

ROOM: Final = 1_024
"""Of a message's 64 KiB, for what stands around the tools."""

_NOT_IN_A_NAME: Final = re.compile(r"[^A-Za-z0-9_-]")
_MARK: Final = 8
"""Hexadecimal digits that tell names apart which would otherwise be the same."""


def name_for(server: str, tool: str, servers: Collection[str], taken: Collection[str]) -> str:
    """Name a tool `<server>_<tool>`; with a mark of its own where that is no valid name or could be another tool's.

    `servers` are all servers there are: `crm_mail` + `send` and `crm` + `mail_send` would be one name. `taken` are our own tools.
    """
    plain = f"{server}_{tool}"
    valid = _NOT_IN_A_NAME.sub("_", plain)
    doubtful = any(plain.startswith(f"{other}_") for other in servers if len(other) > len(server))
    if valid == plain and len(valid) <= MAX_NAME and not doubtful and valid not in taken:
        return valid
    mark = hashlib.sha256(f"{server}\n{tool}".encode(errors="replace")).hexdigest()[:_MARK]
    return f"{valid[: MAX_NAME - _MARK - 1]}_{mark}"


def listed(
    server: McpServer, tools: Iterable[Any], servers: Collection[str], taken: Collection[str]
) -> tuple[dict[str, str], tuple[OfferedTool, ...], tuple[str, ...]]:
    """Make what is offered of what a server lists (`mcp.types.Tool`).

    Gives the server's own names by ours, the offers, and a line for each tool that is left out or has another name.
    """
    own: dict[str, str] = {}
    offers: list[OfferedTool] = []
    remarks: list[str] = []
    for tool in tools:
        name = name_for(server.name, tool.name, servers, taken)
        offer = _offer(server, name, tool)
        if name in own:
            remarks.append(f"{name} is listed twice")
        elif len(offers) >= MOST_TOOLS:
            remarks.append(f"{name} is left out: a model takes {MOST_TOOLS} tools")
        elif not sound(offer.parameters):
            remarks.append(f"{name} is left out: its schema is none")
        elif not _fits(offer):
            remarks.append(f"{name} is left out: its schema does not fit a message")
        else:
            if name != f"{server.name}_{tool.name}":
                remarks.append(f"{tool.name[:MAX_NAME]} is called {name}")
            own[name] = tool.name
            offers.append(offer)
    return own, tuple(offers), tuple(remarks)


def packed(server: str, offers: Iterable[OfferedTool]) -> list[Offered]:
    """Put a server's tools into as few messages as they fit; one without tools where there are none."""
    parts: list[list[OfferedTool]] = [[]]
    room = MAX_MESSAGE_BYTES - ROOM
    for offer in offers:
        size = len(msgspec.json.encode(offer)) + 1
        if size > room and parts[-1]:
            parts.append([])
            room = MAX_MESSAGE_BYTES - ROOM
        parts[-1].append(offer)
        room -= size
    return [Offered(server=server, tools=tuple(part), first=number == 0) for number, part in enumerate(parts)]


def _offer(server: McpServer, name: str, tool: Any) -> OfferedTool:
    hints = tool.annotations
    return OfferedTool(
        name=name,
        description=(tool.description or tool.title or tool.name)[:MAX_DESCRIPTION],
        # some servers write null where they have nothing to say
        parameters={key: value for key, value in tool.input_schema.items() if value is not None},
        stage=server.stage,
        timeout_s=server.timeout_s,
        read_only=bool(hints is not None and hints.read_only_hint),
        idempotent=bool(hints is not None and hints.idempotent_hint),
    )


def _fits(offer: OfferedTool) -> bool:
    try:
        return len(msgspec.json.encode(offer)) < MAX_MESSAGE_BYTES - ROOM
    except (TypeError, ValueError, RecursionError):
        return False
