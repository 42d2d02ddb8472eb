"""What tools of MCP servers are called, whatever the servers call them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp_types import Tool, ToolAnnotations

from shared.agents import McpServer
from shared.framing import MAX_MESSAGE_BYTES, encode
from shared.tool_messages import Offered
from worker.tools.mcp_names import MAX_DESCRIPTION, listed, name_for, packed
from worker.tools.registry import MOST_TOOLS

VALID = re.compile(r"^[A-Za-z0-9_-]{1,64}$")
SHOP = McpServer(name="shop", command="shop", timeout_s=7.0, stage="essential")


def tool(name: str, description: str = "What it does.", **more: Any) -> Tool:
    return Tool(name=name, description=description, input_schema={"type": "object", "properties": {}}, **more)


def test_a_tool_is_called_by_its_server_and_its_name() -> None:
    assert name_for("shop", "find-item", ("shop",), ()) == "shop_find-item"


@pytest.mark.parametrize("name", ["what's up?", "preço.médio", "", "a" * 200, "\N{TELEPHONE RECEIVER}"])
def test_a_name_that_a_model_may_not_use_is_made_valid(name: str) -> None:
    assert VALID.match(name_for("shop", name, ("shop",), ()))


def test_names_that_become_the_same_are_told_apart() -> None:
    assert name_for("shop", "a.b", ("shop",), ()) != name_for("shop", "a:b", ("shop",), ())


def test_two_servers_cannot_have_one_name() -> None:
    servers = ("crm", "crm_mail")
    assert name_for("crm", "mail_send", servers, ()) != name_for("crm_mail", "send", servers, ())


def test_a_tool_of_ours_keeps_its_name() -> None:
    assert name_for("get", "current_time", ("get",), {"get_current_time"}) != "get_current_time"


@given(
    tools=st.lists(
        st.tuples(st.sampled_from(["a", "a_b", "a_b_c", "get"]), st.text("ab_.é", max_size=8) | st.text(max_size=80)),
        unique=True,
        max_size=12,
    )
)
def test_names_are_valid_and_nobody_elses(tools: list[tuple[str, str]]) -> None:
    taken = {"get_a", "get_b"}
    names = [name_for(server, name, ("a", "a_b", "a_b_c", "get"), taken) for server, name in tools]
    assert all(VALID.match(name) for name in names)
    assert len({*names, *taken}) == len(names) + len(taken)


def test_an_offer_says_what_the_server_says_and_what_the_agents_file_says() -> None:
    hints = ToolAnnotations(read_only_hint=True, idempotent_hint=True)
    own, (offer,), remarks = listed(SHOP, [tool("find", "d" * 5000, annotations=hints)], ("shop",), ())
    assert own == {"shop_find": "find"}
    assert (offer.name, offer.stage, offer.timeout_s) == ("shop_find", "essential", 7.0)
    assert (offer.read_only, offer.idempotent, remarks) == (True, True, ())
    assert len(offer.description) == MAX_DESCRIPTION


def test_a_tool_that_says_nothing_of_itself_is_taken_for_a_write() -> None:
    _, (offer,), _ = listed(SHOP, [tool("find")], ("shop",), ())
    assert (offer.read_only, offer.idempotent) == (False, False)


def test_a_schema_that_fits_no_message_is_left_out_and_said() -> None:
    large = Tool(name="large", description="", input_schema={"type": "object", "title": "x" * MAX_MESSAGE_BYTES})
    own, offers, remarks = listed(SHOP, [large, tool("find")], ("shop",), ())
    assert [offer.name for offer in offers] == list(own) == ["shop_find"]
    assert remarks == ("shop_large is left out: its schema does not fit a message",)


def test_no_more_tools_are_offered_than_a_model_takes() -> None:
    _, offers, remarks = listed(SHOP, [tool(f"t{number}") for number in range(MOST_TOOLS + 2)], ("shop",), ())
    assert len(offers) == MOST_TOOLS
    assert len(remarks) == 2


def test_a_tool_that_is_listed_twice_is_offered_once() -> None:
    _, offers, remarks = listed(SHOP, [tool("find"), tool("find")], ("shop",), ())
    assert len(offers) == len(remarks) == 1


def test_many_tools_travel_in_as_many_messages_as_they_need() -> None:
    schema = {"type": "object", "title": "x" * 9_000}
    tools = [Tool(name=f"t{number}", description="", input_schema=schema) for number in range(20)]
    _, offers, _ = listed(SHOP, tools, ("shop",), ())
    messages = packed("shop", offers)
    assert len(messages) > 1
    assert all(len(encode(message)) <= MAX_MESSAGE_BYTES for message in messages)
    assert [message.first for message in messages] == [True] + [False] * (len(messages) - 1)
    assert [each for message in messages for each in message.tools] == list(offers)


def test_a_server_without_tools_takes_its_former_ones_back() -> None:
    (message,) = packed("shop", ())
    assert message == Offered(server="shop", tools=(), first=True)
