"""Answers of MCP servers, as a model reads them."""

from __future__ import annotations

from typing import Any

import pytest
from mcp_types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)

from worker.tools.mcp_results import outcome
from worker.tools.registry import ToolError


def text(words: str) -> TextContent:
    return TextContent(type="text", text=words)


def read(*content: Any, **more: Any) -> Any:
    return outcome(CallToolResult(content=list(content), **more)).result


def test_text_is_the_result() -> None:
    assert read(text("open until five"), text("on weekdays")) == {"result": "open until five\non weekdays"}


def test_text_that_is_an_object_is_read_as_one() -> None:
    assert read(text('{"open": true}')) == {"open": True}


@pytest.mark.parametrize("words", ['{"open": tru', "[1, 2]", "{" * 100_000, ""])
def test_text_that_is_no_object_stays_text(words: str) -> None:
    assert read(text(words)) == {"result": words}


def test_structure_goes_before_its_copy_in_text() -> None:
    assert read(text('{"open": 1}'), structured_content={"open": True}) == {"open": True}


@pytest.mark.parametrize("value", [[1, 2], "word", 7, False])
def test_structure_that_is_no_object_is_put_into_one(value: Any) -> None:
    assert read(structured_content=value) == {"result": value}


def test_of_what_cannot_be_said_it_says_what_it_is() -> None:
    said = read(
        ImageContent(type="image", data="AA==", mime_type="image/png"),
        AudioContent(type="audio", data="AA==", mime_type="audio/wav"),
        ResourceLink(type="resource_link", name="price list", uri="https://example.test/prices"),
        EmbeddedResource(type="resource", resource=TextResourceContents(uri="file:///a", text="ten euros")),
        EmbeddedResource(type="resource", resource=BlobResourceContents(uri="file:///b", blob="AA==")),
    )
    assert said["result"].splitlines() == [
        "[image, image/png]",
        "[audio, audio/wav]",
        "[price list: https://example.test/prices]",
        "ten euros",
        "[file: file:///b]",
    ]


def test_an_error_of_the_tool_is_a_sentence_for_the_model() -> None:
    with pytest.raises(ToolError, match=r"^the shelf is empty$"):
        read(text("the shelf is empty"), is_error=True)


def test_an_error_without_words_is_one_too() -> None:
    with pytest.raises(ToolError, match="did not say why"):
        read(is_error=True)
