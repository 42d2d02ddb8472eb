"""What of a request is the same in all calls of an agent, and under which key the provider keeps it. Pure.

A provider that has read the beginning of a request before need not read it again. The order in which it reads is: tools, system
instruction, conversation. So the agent's tools come in a fixed order, its prompt is the first part of the instruction, and what
is known of the caller stands behind it. A variable in a prompt stays where its author has put it: what follows the first
`{{customer.name}}` is shared with nobody. `{{agent}}` is the same in every call and ends nothing.

Source: OpenAI docs, "Prompt caching": from 1024 tokens on; requests are sent to machines by a hash of their beginning together
with `prompt_cache_key`, of which one machine takes about 15 a minute. A key may have 64 characters.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from shared.agents import Agent
from shared.variables import Values, render
from worker.providers.languages import language_name

LEAST_CACHED_TOKENS: Final = 1024
CHARACTERS_PER_TOKEN: Final = 4
"""The vendor's own rule of thumb; counting takes a vocabulary of 30 MB."""

VENDOR: Final = "openai.com"
"""Whose machines know `prompt_cache_key`; other servers may refuse a request that has it."""

_VARIABLE: Final = re.compile(r"\{\{(?!\s*agent\s*(?:\||\}\}))[^{}\n]*\}\}")
_NO_NAME: Final = re.compile(r"[^A-Za-z0-9_-]+")
_NAME_CHARS: Final = 24
_DIGEST_CHARS: Final = 12


def prompt(agent: Agent, values: Values) -> str:
    """Write the first part of the system instruction: identical between calls of an agent whose prompt has no variables."""
    return f"{render(agent.prompt, values, quoted=True)}\n\nSpeak {language_name(agent.language)}."


def static_part(agent: Agent) -> str:
    """Give what every call's instruction begins with: the prompt as far as its first variable."""
    first = _VARIABLE.search(agent.prompt)
    known = Values(agent=agent.name, zone=agent.timezone)
    return prompt(agent, known) if first is None else render(agent.prompt[: first.start()], known, quoted=True)


def cache_key(agent: Agent, place: str, seat: int) -> str:
    """Give the key of an agent's calls on a seat of a pool.

    Calls at the same time have different seats, so that no key gets more requests than one conversation makes (4 to 10 a
    minute); calls one after the other have the same, the lowest one, so that it stays warm. `place` names the pool. A changed
    prompt is another key: it would only drive the former one out of its machine.
    """
    digest = hashlib.sha256("\0".join((place, agent.name, static_part(agent))).encode(errors="replace")).hexdigest()
    return f"{_NO_NAME.sub('-', agent.name)[:_NAME_CHARS]}-{digest[:_DIGEST_CHARS]}-{seat}"


def takes_key(wanted: str, base_url: str) -> bool:
    """Say whether the key is sent: `always`, `never`, or `auto` for the vendor's own machines only."""
    host = urlsplit(base_url).hostname or ""
    return wanted == "always" or (wanted == "auto" and (host == VENDOR or host.endswith(f".{VENDOR}")))


def guessed_tokens(text: str, tools: Sequence[Mapping[str, Any]]) -> int:
    """Guess how many tokens the beginning of a request has."""
    return (len(text) + (len(json.dumps(tools, ensure_ascii=False)) if tools else 0)) // CHARACTERS_PER_TOKEN
