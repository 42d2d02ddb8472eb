"""How the vendor's prompt cache behaves: which part of a prompt it need not read again. Pure.

Requests go to a machine by a hash of their first 256 tokens together with `prompt_cache_key`; a machine takes about 15 of them a
minute, further ones go to another, which knows nothing. There a prompt is known as far as it is the same from its beginning on,
from 1024 tokens in steps of 128. What nobody asks for during some minutes is forgotten.

Source: developers.openai.com, "Prompt caching" (structure, requirements, routing, retention).
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CHARACTERS_PER_TOKEN = 4  # the vendor's own rule of thumb
LEAST_TOKENS = 1024
STEP_TOKENS = 128
ROUTING_TOKENS = 256
MACHINE_PER_MINUTE = 15


@dataclass
class Machine:
    """The beginnings one machine has read (their hashes), and when it was asked (seconds)."""

    beginnings: set[int] = field(default_factory=set)
    asked_at: deque[float] = field(default_factory=deque)

    def free(self, now: float) -> bool:
        """Say whether it takes another request in this minute."""
        while self.asked_at and now - self.asked_at[0] >= 60:
            self.asked_at.popleft()
        return len(self.asked_at) < MACHINE_PER_MINUTE

    def read(self, prompt: str, now: float) -> int:
        """Read a prompt; give how many tokens of it were known."""
        self.asked_at.append(now)
        tokens = range(LEAST_TOKENS, len(prompt) // CHARACTERS_PER_TOKEN + 1, STEP_TOKENS)
        beginnings = {hash(prompt[: count * CHARACTERS_PER_TOKEN]): count for count in tokens}
        known = max((count for each, count in beginnings.items() if each in self.beginnings), default=0)
        self.beginnings.update(beginnings)
        return known


class PromptCache:
    """All machines. `idle_s` is how long a machine keeps what nobody asks for."""

    def __init__(self) -> None:
        self._machines: defaultdict[tuple[str, str], list[Machine]] = defaultdict(list)

    def read(self, prompt: str, key: str, now: float, idle_s: float) -> int:
        """Have a prompt read; give how many of its tokens were cached."""
        machines = self._machines[key, prompt[: ROUTING_TOKENS * CHARACTERS_PER_TOKEN]]
        for machine in machines:
            if machine.asked_at and now - machine.asked_at[-1] > idle_s:
                machine.beginnings.clear()
        chosen = next((machine for machine in machines if machine.free(now)), None)
        if chosen is None:
            machines.append(chosen := Machine())
        return chosen.read(prompt, now)


def written(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> str:
    """Write a prompt in the order the model reads it: tools, system instruction, conversation."""
    return "\n".join(json.dumps(one, ensure_ascii=False) for one in (*tools, *messages))
