"""Schemas without references: what a provider is given has no definitions beside it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.tools.registry import Outcome, Tool, ToolCall
from worker.tools.schemas import inline, sound

NODE = {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}}


def test_a_definition_stands_where_it_was_referred_to_with_what_was_said_beside() -> None:
    schema = {
        "type": "object",
        "properties": {
            "size": {"$ref": "#/$defs/Size", "default": "small", "description": "How big."},
            "sizes": {"type": "array", "items": {"$ref": "#/$defs/Size"}},
        },
        "$defs": {"Size": {"title": "Size", "type": "string", "enum": ["small"]}},
    }
    size = {"type": "string", "enum": ["small"]}
    assert inline(schema) == {
        "type": "object",
        "properties": {
            "size": {**size, "default": "small", "description": "How big."},
            "sizes": {"type": "array", "items": size},
        },
    }


def test_definitions_within_definitions_are_written_out_too() -> None:
    schema = {"a": {"$ref": "#/$defs/A"}, "$defs": {"A": {"b": {"$ref": "#/$defs/B"}}, "B": {"type": "null"}}}
    assert inline(schema) == {"a": {"b": {"type": "null"}}}


def test_a_type_that_refers_to_itself_keeps_its_definition() -> None:
    written = inline({"properties": {"list": {"$ref": "#/$defs/Node"}}, "$defs": {"Node": NODE}})
    assert written["$defs"] == {"Node": NODE}
    assert written["properties"]["list"]["properties"]["next"] == {"$ref": "#/$defs/Node"}


def test_a_property_may_be_called_like_a_keyword_and_other_references_stay() -> None:
    schema: dict[str, Any] = {
        "properties": {"$ref": {"type": "string"}, "a": {"$ref": "#/$defs/Gone"}, "b": {"$ref": "other.json"}},
        "$defs": {"A": {}},
    }
    assert inline(schema) == {"properties": schema["properties"]}


JSON = st.recursive(
    st.none() | st.integers() | st.sampled_from(["#/$defs/A", "#/$defs/B", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["$ref", "$defs", "properties", "title", "a"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(JSON, JSON, JSON)
def test_whatever_somebody_else_wrote_comes_to_an_end(schema: Any, first: Any, second: Any) -> None:
    written = inline({"properties": schema, "$defs": {"A": first, "B": second}})
    assert "properties" in written
    json.dumps(written)


def test_definitions_that_double_with_every_step_are_not_written_out() -> None:
    definitions: dict[str, Any] = {
        f"D{step}": {"anyOf": [{"$ref": f"#/$defs/D{step + 1}"}, {"$ref": f"#/$defs/D{step + 1}"}]}
        for step in range(60)
    }
    written = inline({"properties": {"a": {"$ref": "#/$defs/D0"}}, "$defs": {**definitions, "D60": {"type": "string"}}})
    assert "D60" in written["$defs"]
    assert len(json.dumps(written)) < 2_000_000


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": []},
        {"properties": {"a": "text"}},
        {"properties": {"a": {"anyOf": None}}},
        {"properties": {}, "required": "a"},
        {"properties": {}, "required": [1]},
    ],
)
def test_a_schema_that_no_model_can_be_told_is_known(schema: dict[str, Any]) -> None:
    assert not sound(schema)


def test_a_schema_without_parameters_is_sound() -> None:
    assert sound({})
    assert sound({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]})


def test_of_a_list_something_is_said_of_its_items() -> None:
    told = Tool(
        "t", "", _nothing, parameters={"properties": {"a": {"type": "array"}, "b": {"type": ["array", "null"]}}}
    )
    assert told.schema()["properties"] == {
        "a": {"type": "array", "items": {}},
        "b": {"type": ["array", "null"], "items": {}},
    }


async def _nothing(_call: ToolCall) -> Outcome:
    return Outcome({})
