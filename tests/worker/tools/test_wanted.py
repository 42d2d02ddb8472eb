"""What is doubtful about agents: tools that they name and nobody has, and bookings of a business that is nowhere."""

import pytest

from shared.agents import Agent
from worker.tools.wanted import missing, unplaced

MEANT = "if UTC is meant, write Etc/UTC"
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


def test_an_agent_that_books_without_a_time_zone_is_named() -> None:
    usual, clinic = Agent(), Agent(name="a", hours={"mon": ("09:00-18:00",)}, tools=("book_appointment",))
    assert [problem.detail for problem in unplaced((usual, clinic))] == [
        f"agent default: timezone: there is none, so it books in UTC and at any hour of day and night; {MEANT}",
        f"agent a: timezone: there is none, so it books in UTC; {MEANT}",
    ]


@pytest.mark.parametrize(
    "agent", [Agent(timezone="America/Sao_Paulo"), Agent(timezone="Etc/UTC"), Agent(tools=("end_call", "shop_find"))]
)
def test_who_says_where_the_business_is_or_books_nothing_is_in_order(agent: Agent) -> None:
    assert unplaced((agent,)) == ()
