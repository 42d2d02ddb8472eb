"""Tools that agents name and nobody has."""

from shared.agents import Agent
from worker.tools.wanted import missing

NAMES = ("end_call", "book_appointment")


def test_a_tool_that_is_not_there_is_named_with_its_agent() -> None:
    agents = (Agent(name="a", tools=("end_call",)), Agent(name="b", tools=("end_cal", "teleport")))
    assert [problem.detail for problem in missing(agents, NAMES)] == [
        "agent b: tools: there is no end_cal; end_call?",
        "agent b: tools: there is no teleport",
    ]


def test_a_tool_of_an_mcp_server_is_not_judged_before_that_is_connected() -> None:
    agent = Agent(name="a", tools=("crm_find", "shop_find"), mcp=("crm",))
    assert [problem.detail for problem in missing((agent,), NAMES)] == ["agent a: tools: there is no shop_find"]


def test_an_agent_that_names_none_has_what_there_is() -> None:
    assert missing((Agent(),), ()) == ()
