"""JSON schemas as models are told them: each parameter by itself, without references to definitions elsewhere. Pure."""

from collections.abc import Mapping
from typing import Any, Final

DEFINITIONS: Final = "#/$defs/"

MOST_NODES: Final = 10_000
"""How much may be written out: definitions that use each other twice double with every step."""


def inline(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Put each definition where it is referred to, since a provider is given the parameters and not the definitions.

    Only a type that refers to itself, or grows beyond measure, cannot be written so: references to it stay, and so do the
    definitions.
    """
    definitions = schema.get("$defs")
    writer = _Writer(definitions if isinstance(definitions, Mapping) else {})
    whole = {key: writer.write(value, ()) for key, value in schema.items() if key != "$defs"}
    return {**whole, "$defs": dict(writer.definitions)} if writer.left else whole


def sound(schema: Mapping[str, Any]) -> bool:
    """Say whether a schema that somebody else wrote can be given to a model."""
    properties, required = schema.get("properties", {}), schema.get("required", [])
    return (
        isinstance(properties, Mapping)
        and all(isinstance(each, dict) and isinstance(each.get("anyOf", []), list) for each in properties.values())
        and isinstance(required, list)
        and all(isinstance(name, str) for name in required)
    )


def with_items(value: Any) -> Any:
    """Say of every list that its items may be anything where nothing is said of them: providers refuse to guess.

    Source: OpenAI, error "array schema missing items" (400), which costs the whole request.
    """
    if isinstance(value, list):
        return [with_items(each) for each in value]
    if not isinstance(value, dict):
        return value
    whole = {key: with_items(each) for key, each in value.items()}
    kinds = value.get("type")
    if (kinds == "array" or (isinstance(kinds, list) and "array" in kinds)) and "items" not in value:
        whole["items"] = {}
    return whole


class _Writer:
    """Writes a schema out. `left` says whether a reference had to stay."""

    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self.definitions = definitions
        self.left = False
        self._nodes = 0

    def write(self, value: Any, within: tuple[str, ...]) -> Any:
        """Write a part that stands within these definitions."""
        self._nodes += 1
        if isinstance(value, list):
            return [self.write(each, within) for each in value]
        if not isinstance(value, dict):
            return value
        name = self._named(value.get("$ref"))
        if name is None:
            return {key: self.write(each, within) for key, each in value.items()}
        if name in within or self._nodes > MOST_NODES:
            self.left = True
            return value
        found = self.write(self.definitions[name], (*within, name))
        if not isinstance(found, dict):
            return found
        beside = {key: self.write(each, within) for key, each in value.items() if key != "$ref"}
        return {key: each for key, each in found.items() if key != "title"} | beside

    def _named(self, reference: Any) -> str | None:
        """Give the name of the definition that is referred to; None when it is none of ours."""
        if not isinstance(reference, str) or not reference.startswith(DEFINITIONS):
            return None
        name = reference.removeprefix(DEFINITIONS)
        return name if name in self.definitions else None
