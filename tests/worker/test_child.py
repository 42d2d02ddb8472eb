"""What a worker does with the pool's messages, in whatever order they arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from shared.agents import Agent
from shared.calls import CallSid, IncomingCall, TraceId
from shared.messages import Customer, Entry, Message, Prepare
from shared.workers import WorkerId
from worker.call.child import Loaded, _Child

if TYPE_CHECKING:
    from worker.call.pipeline import AgentPipeline
    from worker.call.serving import Serving

CALL = IncomingCall(
    call_sid=CallSid("CA" + "0" * 32), caller="+5511987654321", called="+15550001111", trace_id=TraceId("0" * 32)
)


class Diary:
    """An agent, a session and a pool in one: notes what is asked of them, in order."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.told: list[Message] = []
        self.has_clip = True

    def use(self, agent: Agent) -> None:
        """Choose the greeting."""
        self.done.append(f"use {agent.name}")

    def prepare(self, agent: Agent, _session: object) -> None:
        """Become the agent, whose prompt replaces what stood there."""
        self.done.append(f"become {agent.name}")

    async def open_ear(self, _agent: Agent) -> None:
        """Fail, so that nothing follows: the messages are what is tested."""
        raise ConnectionError

    def add_customer(self, text: str) -> None:
        """Append the record."""
        self.done.append("customer Ana" if "Ana" in text else "customer")

    def open_gate(self) -> None:
        """Let answers go."""
        self.done.append("gate")

    def send(self, message: Message) -> bool:
        """Tell the pool."""
        self.told.append(message)
        return True


@pytest.fixture
async def diary() -> Diary:
    return Diary()


@pytest.fixture
async def child(diary: Diary) -> _Child:
    child = _Child(cast("Loaded", None), WorkerId("0-1"))
    child._pipeline, child._serving = cast("AgentPipeline", diary), cast("Serving", diary)
    child._channel = cast("Any", diary)
    return child


PREPARE = Prepare(call=CALL, agent=Agent(name="desk"), reserved_at=0.0)
ANA = Customer(outcome="found", record={"name": "Ana"})


@pytest.mark.parametrize(
    "messages", [(PREPARE, ANA), (ANA, PREPARE), (ANA, PREPARE, PREPARE)], ids=["late", "early", "twice"]
)
async def test_the_record_is_added_once_there_is_an_agent(
    child: _Child, diary: Diary, messages: tuple[Message, ...]
) -> None:
    for message in messages:
        child._received(message, [])
    assert diary.done == ["use desk", "become desk", "customer Ana", "gate"]
    assert [one.kind for one in diary.told if isinstance(one, Entry)] == ["customer"]
