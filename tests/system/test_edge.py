"""The edge with calls up: whole conversations through TLS, and what callers notice of reloads and of a router that is away."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.caddy import Caddy
from tests.stack import Plan, Stack
from tests.system.talk import ask, greeted, recording

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.standins.carrier import Carrier

pytestmark = pytest.mark.system

CALLER = "+5511987654321"


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan(supabase=False)


@pytest.fixture(scope="module")
def edge(stack: Stack) -> Iterator[Caddy]:
    with Caddy(stack.router_url) as made:
        yield made


def through(edge: Caddy, stack: Stack, **changes: object) -> Carrier:
    """Make a carrier that reaches the installation as Twilio does."""
    return stack.carrier(target=edge.url, ca_file=edge.ca_file, **changes)


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_a_conversation_is_held_through_tls(stack: Stack, edge: Caddy, method: str) -> None:
    async with through(edge, stack, method=method) as carrier:
        call = await carrier.dial(from_=CALLER)
        await greeted(call)
        await ask(call, "interrupt", "said:")
        await ask(call, "what-time", "UTC.")
        await call.say(recording("goodbye"))
        record = await call.ended()
    assert record.ended_by == "twiml"
    assert record.stream.close_code == 1000
    assert record.verbs[-1] == "Hangup"
    assert set(record.codes) <= {31921}, record.notices
