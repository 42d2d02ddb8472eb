"""Tools that act on their call or tell the time, and the list all are found in."""

import asyncio
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import pytest

from shared.agents import Agent, ToolStage
from tests.standins import pipecat_rig  # noqa: F401 - imports Pipecat without the warnings it gives itself
from worker.call.farewell import ECHO_WAIT_S, FAREWELL_WAIT_S
from worker.tools import running
from worker.tools.builtin import BUILT_IN
from worker.tools.builtin_names import NAMES
from worker.tools.registry import Outcome, Tool, ToolCall, by_name


@dataclass
class FakeSession:
    """A call that notes what a tool did to it."""

    agent: Agent = field(default_factory=Agent)
    hung_up: int = 0
    may_end: asyncio.Event = field(default_factory=asyncio.Event)

    async def transfer(self) -> None:
        """Connect nobody."""

    def widen(self, stage: ToolStage) -> tuple[str, ...]:
        """Have nothing more."""
        return (stage,)

    async def hang_up(self) -> None:
        """Note it, and take as long as the goodbye."""
        await self.may_end.wait()
        self.hung_up += 1


async def run(name: str, session: FakeSession, **arguments: Any) -> Outcome:
    """Run a built-in tool as the pipeline does."""
    tool = BUILT_IN[name]
    return await running.run(tool, ToolCall("call-1", arguments, session.agent, session=session), arguments)


async def test_the_time_is_told_where_the_business_is() -> None:
    outcome = await run("get_current_time", FakeSession(Agent(timezone="America/Sao_Paulo")))
    assert outcome.answer
    assert outcome.result["timezone"] == "America/Sao_Paulo"
    assert set(outcome.result) == {"time", "weekday", "date", "timezone"}
    hours, minutes = outcome.result["time"].split(":")
    assert 0 <= int(hours) < 24
    assert 0 <= int(minutes) < 60
    assert date.fromisoformat(outcome.result["date"]).strftime("%A") == outcome.result["weekday"]


async def test_the_time_of_another_place_is_told_when_it_is_asked_for() -> None:
    session = FakeSession()
    east, west = [
        (await run("get_current_time", session, timezone=zone)).result for zone in ("Etc/GMT-14", "Etc/GMT+12")
    ]
    assert (east["timezone"], west["timezone"]) == ("Etc/GMT-14", "Etc/GMT+12")
    assert east["date"] > west["date"]  # 26 hours apart


@pytest.mark.parametrize("zone", ["", None])
async def test_an_empty_zone_means_the_agents(zone: object) -> None:
    outcome = await run("get_current_time", FakeSession(Agent(timezone="Europe/Lisbon")), timezone=zone)
    assert outcome.result["timezone"] == "Europe/Lisbon"


@pytest.mark.parametrize(
    "zone", ["Mars/Olympus", "../../../etc/passwd", "/etc/localtime", "Europe", "a" * 300, "é", "\0", 5, ["UTC"], "."]
)
async def test_a_zone_that_does_not_exist_is_said_in_words(zone: object) -> None:
    outcome = await run("get_current_time", FakeSession(), timezone=zone)
    assert set(outcome.result) == {"error"}
    assert "timezone: " in outcome.result["error"] or str(zone) in outcome.result["error"]
    assert outcome.answer


async def test_ending_the_call_waits_for_the_goodbye_and_asks_for_no_further_answer() -> None:
    session = FakeSession()
    ending = asyncio.create_task(run("end_call", session))
    await asyncio.sleep(0)
    assert not ending.done()
    session.may_end.set()
    outcome = await ending
    assert session.hung_up == 1
    assert not outcome.answer
    assert "error" not in outcome.result


async def test_an_interruption_of_the_goodbye_leaves_the_call_up() -> None:
    session = FakeSession()
    ending = asyncio.create_task(run("end_call", session))
    await asyncio.sleep(0)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert session.hung_up == 0


def test_every_built_in_tool_is_listed_under_its_name_and_described() -> None:
    assert set(BUILT_IN) == NAMES == {
        "get_current_time", "end_call", "transfer_call", "more_tools", "get_customer_by_phone", "create_customer",
        "update_customer_status", "get_customer_facts", "add_customer_fact", "list_free_slots", "book_appointment",
        "reschedule_appointment", "cancel_calendar_event", "send_whatsapp_message",
    }  # fmt: skip
    for name, tool in BUILT_IN.items():
        assert tool.name == name
        assert tool.description
        assert tool.timeout_s > 0
        schema = tool.schema()
        assert set(schema.get("required", ())) <= set(schema["properties"])


def test_the_time_for_a_goodbye_is_longer_than_a_goodbye_may_take() -> None:
    assert BUILT_IN["end_call"].timeout_s > FAREWELL_WAIT_S + ECHO_WAIT_S


async def _nothing(_: ToolCall) -> Outcome:
    return Outcome({})


def test_two_tools_of_one_name_are_refused() -> None:
    tool = Tool(name="weather", description="", run=_nothing)
    assert by_name([tool]) == {"weather": tool}
    assert by_name([]) == {}
    with pytest.raises(ValueError, match="two tools are called weather"):
        by_name([tool, Tool(name="time", description="", run=_nothing), tool])
