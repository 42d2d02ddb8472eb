"""What tools cost: the tokens of their descriptions, which are part of every request to the model.

Counted over the JSON as it is sent in `tools`, with the model's own vocabulary (it is inside a wheel: nothing is fetched). The
vendor writes the descriptions in a form of its own before the model reads them, so that its count differs slightly. A stage is
counted as a whole, which is not exactly the sum of its tools: what separates one from the next may be part of a token.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import bpe_openai  # type: ignore[import-untyped]  # the wheel has no marker

from shared.agents import STAGES, Agent, ToolStage
from shared.settings import Settings
from worker.tools.registry import Need, Tool, visible

USUAL_VOCABULARY: Final = "o200k_base"
"""Of all models of OpenAI since gpt-4o; taken for a model that the library does not know."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """How a model's tokens are counted; `known` says whether the library knows the model, or it was guessed."""

    name: str
    known: bool
    encoding: bpe_openai.Encoding

    @classmethod
    def of(cls, model: str) -> "Vocabulary":
        """Find the vocabulary of a model; dated names are those of the undated ones."""
        for name in (model, model.partition("-20")[0]):
            try:
                found = bpe_openai.encoding_name_for_model(name)
            except KeyError:
                continue
            return cls(found, known=True, encoding=bpe_openai.get_encoding(found))
        return cls(USUAL_VOCABULARY, known=False, encoding=bpe_openai.get_encoding(USUAL_VOCABULARY))

    def count(self, written: Any) -> int:
        """Count the tokens of something as JSON, as the vendor's client sends it."""
        return len(self.encoding.encode_ordinary(json.dumps(written, ensure_ascii=False, separators=(",", ":"))))


@dataclass(frozen=True, slots=True)
class Cost:
    """What an agent's tools cost: each, and everything that is seen at a stage."""

    agent: Agent
    tools: Mapping[str, int]
    stages: Mapping[ToolStage, int]
    seen: Mapping[ToolStage, tuple[Tool, ...]]


def function(tool: Tool) -> dict[str, Any]:
    """Write a tool as it stands in a request. Source: OpenAI API reference, chat completions, `tools`."""
    schema = tool.schema()
    parameters = {
        "type": "object",
        "properties": schema["properties"],
        "required": schema.get("required", []),
    }
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": parameters},
    }


def cost(tools: Iterable[Tool], agent: Agent, vocabulary: Vocabulary) -> Cost:
    """Count what an agent's tools cost."""
    every = list(tools)
    seen = {stage: tuple(visible(every, agent, stage)) for stage in STAGES}
    shown = {tool.name: tool for stage in STAGES for tool in seen[stage]}
    return Cost(
        agent=agent,
        tools={name: vocabulary.count(function(tool)) for name, tool in shown.items()},
        stages={
            stage: vocabulary.count([function(tool) for tool in seen[stage]]) if seen[stage] else 0 for stage in STAGES
        },
        seen=seen,
    )


def there(tools: Iterable[Tool], configured: Settings) -> list[Tool]:
    """Choose the tools that have what they need in this installation."""
    needs: set[Need] = set()
    if configured.supabase_url:
        needs.add("database")
    if configured.whatsapp_from:
        needs.add("messenger")
    return [tool for tool in tools if tool.needs <= needs]
