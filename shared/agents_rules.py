"""What an agent or an MCP server of the agents file must be like. Pure, but for the time zones of the machine."""

import datetime as dt
import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import msgspec

from shared import hours, variables
from shared.agents import Agent, McpServer
from shared.processes import SPEECH_PROVIDERS
from shared.turns import Turns

MAX_AGENT_BYTES: Final = 48 * 1024
"""As JSON: a profile travels in messages of at most 64 KiB, beside the call."""

E164: Final = re.compile(r"\+[1-9][0-9]{6,14}", re.ASCII)
NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
LANGUAGE: Final = re.compile(r"[a-z]{2}(-[A-Z]{2})?", re.ASCII)
CALENDAR: Final = re.compile(r"[\w .-]{1,64}")
MODEL: Final = re.compile(r"[!-~]+", re.ASCII)
DATE: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)

TURN_LIMITS: Final[Mapping[str, tuple[float, float]]] = {
    "start": (0.032, 2),
    "stop": (0.032, 5),
    "confidence": (0.05, 0.95),
    "min_volume": (0, 0.95),
    "patience": (0.2, 30),
    "min_words": (0, 20),
}
"""The least and the most. The voice detector looks every 32 ms."""

SLOT_MINUTES: Final = (5, 480)
MOST_TIMEOUT_S: Final = 120.0

MAX_SHOWN_CHARS: Final = 40

Problem = tuple[str, str]
"""The field, and what is wrong with it."""


def agent_problems(agent: Agent) -> Iterator[Problem]:
    """Say what is wrong with the fields of an agent, each by itself."""
    if not agent.prompt:
        yield "prompt", "is empty"
    for field in ("prompt", "greeting"):
        for words in variables.problems(getattr(agent, field)):
            yield field, words
    yield from _unlike("language", (agent.language,), LANGUAGE, "must be like en or pt-BR")
    yield from _unlike("numbers", agent.numbers, E164, "must be like +15551234567")
    for field in ("overflow_number", "transfer_number"):
        yield from _unlike(field, filter(None, (getattr(agent, field),)), E164, "must be like +15551234567")
    yield from _unlike("tools", agent.tools, NAME, "is no name of a tool")
    yield from _unlike("calendar", (agent.calendar,), CALENDAR, "must be 1 to 64 letters, digits, spaces, _ . or -")
    if not SLOT_MINUTES[0] <= agent.slot_minutes <= SLOT_MINUTES[1]:
        yield "slot_minutes", f"must be {SLOT_MINUTES[0]} to {SLOT_MINUTES[1]}"
    if not _is_zone(agent.timezone):
        yield "timezone", f"there is no time zone called {short(agent.timezone)}"
    for field in ("stt", "tts"):
        if getattr(agent, field) and getattr(agent, field) not in SPEECH_PROVIDERS:
            yield field, f"{short(getattr(agent, field))} is none of {', '.join(SPEECH_PROVIDERS)}"
    yield from _unlike("model", filter(None, (agent.model,)), MODEL, "is no name of a model")
    yield from _turn_problems(agent.turns)
    yield from _hours_problems(agent)
    size = len(msgspec.json.encode(agent))
    if size > MAX_AGENT_BYTES:
        yield "prompt", f"makes the agent {size} bytes long; at most {MAX_AGENT_BYTES} fit into a message"


def _turn_problems(turns: Turns) -> Iterator[Problem]:
    for field, (least, most) in TURN_LIMITS.items():
        value = getattr(turns, field)
        if not least <= value <= most:  # nan is neither
            yield f"turns: {field}", f"must be {least:g} to {most:g}"
    if turns.patience < turns.stop:
        yield "turns: patience", "must not be below turns.stop"


def _hours_problems(agent: Agent) -> Iterator[Problem]:
    for day, spans in agent.hours.items():
        if day not in hours.WEEKDAYS:
            yield "hours", f"{short(day)} is none of {', '.join(hours.WEEKDAYS)}"
            continue
        try:
            hours.read_day(spans)
        except ValueError as error:
            yield f"hours: {day}", str(error)
    for day in agent.closed:
        try:
            dt.date.fromisoformat(day if DATE.fullmatch(day) else "")
        except ValueError:
            yield "closed", f"{short(day)} is no date like 2026-12-25"


def together(agent: Agent, by_number: Mapping[str, Agent], servers: Mapping[str, McpServer]) -> Iterator[Problem]:
    """Say what does not fit the rest of the file."""
    for name in agent.mcp:
        if name not in servers:
            yield "mcp", f"there is no [mcp.{short(name)}]{meant(name, servers)}"
    if agent.overflow_number in by_number:
        yield (
            "overflow_number",
            f"{agent.overflow_number} is answered here: the caller would come back to the same line",
        )
    if agent.transfer_number in agent.numbers:
        yield "transfer_number", f"{agent.transfer_number} is the agent's own"


def server_problems(server: McpServer) -> Iterator[Problem]:
    """Say what is wrong with the fields of an MCP server."""
    if bool(server.command) == bool(server.url):
        yield "command", "there must be one of command and url"
    parts = _url(server.url)
    if server.url and (parts is None or parts.scheme not in {"http", "https"} or not parts.hostname):
        yield "url", "must be an http(s) URL"
    for field, needs in (("args", "command"), ("env", "command"), ("headers", "url")):
        if getattr(server, field) and not getattr(server, needs):
            yield field, f"has a meaning only with {needs}"
    if not 0 < server.timeout_s <= MOST_TIMEOUT_S:  # nan is neither
        yield "timeout_s", f"must be above 0 and at most {MOST_TIMEOUT_S:.0f}"


def _url(text: str) -> Any:
    try:
        return urlsplit(text)
    except ValueError:
        return None


def _unlike(field: str, values: Iterable[str], form: re.Pattern[str], words: str) -> Iterator[Problem]:
    for value in values:
        if form.fullmatch(value) is None:
            yield field, f"{short(value)} {words}"


def _is_zone(name: str) -> bool:
    try:
        return bool(name) and ZoneInfo(name) is not None
    except (LookupError, ValueError, OSError):  # `Europe` is a folder
        return False


def meant(name: str, known: Iterable[str]) -> str:
    """Name the known word that may have been meant, for the end of a sentence; empty when none is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; {close[0]}?" if close else ""


def short(text: str) -> str:
    """Quote what the file holds, cut: it may be anything."""
    return ascii(text) if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]!a}…"
