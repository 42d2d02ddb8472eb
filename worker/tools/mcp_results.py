"""What the answer of an MCP server is to a model: text as text, objects as objects, and pictures as the word for it. Pure."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from worker.tools.registry import Outcome, ToolError


def outcome(result: Any) -> Outcome:
    """Read a `mcp.types.CallToolResult`; `running.fit` shortens it.

    Raises:
        ToolError: the server says that it did not work; the message is what it says.
    """
    words = text_of(result.content)
    if result.is_error:
        raise ToolError(words or "The tool did not work and did not say why.")
    if isinstance(result.structured_content, Mapping):
        return Outcome(dict(result.structured_content))
    if result.structured_content is not None:
        return Outcome({"result": result.structured_content})
    read = _object(words)
    return Outcome({"result": words} if read is None else read)


def text_of(content: Iterable[Any]) -> str:
    """Write the parts of an answer as text; of what is no text, what it is."""
    return "\n".join(filter(None, (_words(part) for part in content)))


def _words(part: Any) -> str:
    match part.type:
        case "text":
            return str(part.text)
        case "image" | "audio":
            return f"[{part.type}, {part.mime_type}]"
        case "resource_link":
            return f"[{part.title or part.name}: {part.uri}]"
        case "resource":
            text = getattr(part.resource, "text", None)
            return f"[file: {part.resource.uri}]" if text is None else str(text)
        case _:
            return f"[{part.type}]"


def _object(words: str) -> dict[str, Any] | None:
    """Read text that is a JSON object as one, so that it is not written as a string within an object."""
    if not words.startswith("{"):
        return None
    try:
        read = json.loads(words)
    except (ValueError, RecursionError):
        return None
    return read if isinstance(read, dict) else None
