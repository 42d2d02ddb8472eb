"""Agents files of any content: one that is wrong is refused in lines that name it, and nothing else ever happens."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.agents import Agent, Agents, McpServer
from shared.agents_file import load_agents, sources
from shared.errors import SettingsError
from tests.effort import effort

EXAMPLE = (Path(__file__).resolve().parents[2] / "deploy" / "agents.example.toml").read_text(encoding="utf-8")
FIELDS = (*Agent.__struct_fields__, *McpServer.__struct_fields__, "prompt_file", "mon", "other")


def judged(content: bytes) -> Agents | None:
    """Load a file of this content; None when it was refused as it should be."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "agents.toml"
        path.write_bytes(content)
        assert sources(path)[0] == path
        try:
            return load_agents(path)
        except SettingsError as error:
            lines = str(error).splitlines()
            assert lines
            assert all(line.startswith(f"AGENTS_FILE: {path}: ") for line in lines)
            assert all(line.isprintable() for line in lines)
            return None


def literal(value: Any) -> str:
    """Write a value as TOML has it."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return '"' + "".join(f"\\U{ord(each):08x}" for each in value) + '"'
        case list():
            return f"[{', '.join(map(literal, value))}]"
        case dict():
            return "{" + ", ".join(f"{literal(key)} = {literal(item)}" for key, item in value.items()) + "}"
        case _:
            return str(value)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.sampled_from(
    ["{{customer.name}}", "{{", "{{x}}", "+15550001111", "09:00-10:00", "2026-02-31", "UTC", "../x", "\0", "en", "a\nb"]
)
values = st.recursive(
    st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
tables = st.dictionaries(st.sampled_from(FIELDS), values, max_size=6)


@effort(150)
@given(agents=st.dictionaries(texts, tables | values, max_size=3), servers=st.dictionaries(texts, tables, max_size=2))
def test_fields_of_any_value_are_taken_or_named(agents: dict[str, Any], servers: dict[str, Any]) -> None:
    loaded = judged(f"agents = {literal(agents)}\nmcp = {literal(servers)}\n".encode())
    if loaded is not None:
        assert set(agents) >= {agent.name for agent in loaded.by_number.values()}


@effort(100)
@given(at=st.integers(0, len(EXAMPLE)), length=st.integers(0, 30), by=texts)
def test_an_example_somebody_has_damaged_is_taken_or_named(at: int, length: int, by: str) -> None:
    judged((EXAMPLE[:at] + by + EXAMPLE[at + length :]).encode())


@effort(100)
@given(st.binary(max_size=60))
def test_bytes_of_any_kind_are_no_agents_file(content: bytes) -> None:
    assert judged(content) is None


@pytest.mark.parametrize(
    "content",
    [
        b"agents = " + b"[" * 5_000,
        b"agents = " + b"{a=" * 5_000,
        b"[agents.default]\nslot_minutes = " + b"9" * 5_000,
        b"[agents.default]\nslot_minutes = 0x" + b"f" * 500,
        b"[agents.default]\nslot_minutes = 1e999",
        b"[agents.default]\nclosed = [2026-02-31]",
        b"[agents.default]\nclosed = [2026-02-01T00:00:00Z]",
        b"[agents.default]\nhours = [1979-05-27]",
        b"[agents.default]\nprompt_file = '/dev/zero'",
        b"[agents.default]\nprompt_file = '.'",
        b'[agents.default]\nprompt_file = "a\\u0000b"',
        b"[agents.default]\n" * 2,
        b"a." * 3_000 + b"b = 1",
        b"\x00",
    ],
    ids=range(14),
)
def test_what_breaks_parsers_is_refused_as_anything_else(content: bytes) -> None:
    assert judged(content) is None
