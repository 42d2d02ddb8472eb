"""JSON schemas as models are told them: each parameter by itself, without references to definitions elsewhere. Pure."""

from collections.abc import Mapping
from typing import Any, Final

DEFINITIONS: Final = "#/$defs/"


def inline(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Put each definition where it is referred to, since a provider is given the parameters and not the definitions.

    Only a type that refers to itself cannot be written so: its references stay, and so do the definitions they need.
    """
    definitions: Mapping[str, Any] = schema.get("$defs", {})
    left: set[str] = set()
    whole = {key: _inlined(value, definitions, (), left) for key, value in schema.items() if key != "$defs"}
    return {**whole, "$defs": dict(definitions)} if left else whole


def _inlined(value: Any, definitions: Mapping[str, Any], within: tuple[str, ...], left: set[str]) -> Any:
    if isinstance(value, list):
        return [_inlined(each, definitions, within, left) for each in value]
    if not isinstance(value, dict):
        return value
    reference = value.get("$ref")
    name = reference.removeprefix(DEFINITIONS) if isinstance(reference, str) else ""
    if name in definitions and reference != name:
        if name in within:
            left.add(name)
            return value
        found = _inlined(definitions[name], definitions, (*within, name), left)
        beside = {key: _inlined(each, definitions, within, left) for key, each in value.items() if key != "$ref"}
        if not isinstance(found, dict):
            return found
        return {key: each for key, each in found.items() if key != "title"} | beside
    return {key: _inlined(each, definitions, within, left) for key, each in value.items()}
