"""The worker's line to the tool host, with a host made of its other end."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest

from shared.agents import Agent
from shared.calls import CallSid, IncomingCall, TraceId
from shared.channel import Channel
from shared.framing import WORKER_TO_HOST
from shared.messages import Message
from shared.tool_messages import DropTool, HostHas, Offered, OfferedTool, RunTool, ToolRan
from worker.call import toolline
from worker.call.toolline import TOO_LARGE, HostLine
from worker.tools.registry import Outcome, Tool, ToolCall
from worker.tools.running import OUT_OF_ORDER, TOO_LONG, TOO_LONG_WRITE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

CALL = IncomingCall(call_sid=CallSid("CA1"), caller="+1", called="+2", trace_id=TraceId("0" * 32))
AGENT = Agent(name="recepcao", prompt="x" * 100_000, mcp=("shop",))


async def elsewhere(_call: ToolCall) -> Outcome:
    raise AssertionError("a tool of the host ran in the worker")


READ = Tool("look", "", elsewhere, place="host", repeatable=True)
BOOK = Tool("book", "", elsewhere, place="host", writes=True, idempotent=True, needs=frozenset({"database"}))
ONCE = Tool("send", "", elsewhere, place="host", writes=True)


def offered(name: str, *, read_only: bool = False) -> OfferedTool:
    schema = {"type": "object", "properties": {"day": {"type": "string"}}}
    return OfferedTool(name=name, description="", parameters=schema, stage="full", timeout_s=3.0, read_only=read_only)


class Host:
    """The other end of a line."""

    def __init__(self, line: HostLine) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.heard: asyncio.Queue[Any] = asyncio.Queue()
        self.channel = Channel(ours, WORKER_TO_HOST, lambda message, _: self.heard.put_nowait(message), lambda _: None)
        line.connect(theirs)
        _opened.append(self.channel.close)

    def say(self, *messages: Message) -> None:
        """Send messages."""
        for message in messages:
            self.channel.send(message)

    async def asked(self) -> RunTool:
        """Wait for a request."""
        async with asyncio.timeout(10):
            message = await self.heard.get()
        assert isinstance(message, RunTool)
        return message

    async def dropped(self) -> DropTool:
        """Wait until a request is given up."""
        async with asyncio.timeout(10):
            message = await self.heard.get()
        assert isinstance(message, DropTool)
        return message


_opened: list[Callable[[], None]] = []


@pytest.fixture(autouse=True)
async def _short_waits(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    monkeypatch.setattr(toolline, "LINE_WAIT_S", 0.05)
    yield
    while _opened:
        _opened.pop()()


def made_line() -> HostLine:
    """Make a line that is closed behind the test."""
    line = HostLine()
    _opened.append(line.close)
    return line


async def gone(line: HostLine) -> None:
    """Wait until the line has noticed that its host is gone."""
    while line._channel is not None:  # noqa: ASYNC110 - nobody else is told
        await asyncio.sleep(0)


def run(line: HostLine, tool: Tool, arguments: dict[str, Any] | None = None) -> asyncio.Task[Outcome]:
    request = ToolCall("call_1", arguments or {}, AGENT, CALL)
    return asyncio.create_task(line.run(tool, request, arguments or {}))


async def heard(line: HostLine) -> None:
    """Wait until the line has said something new."""
    news = asyncio.Event()
    line.on_offered = news.set
    async with asyncio.timeout(10):
        await news.wait()


async def test_a_request_goes_to_the_host_and_its_answer_comes_back() -> None:
    line = made_line()
    host = Host(line)
    running = run(line, READ, {"day": "monday"})
    asked = await host.asked()
    assert (asked.tool, asked.arguments, asked.call_id, asked.call) == ("look", {"day": "monday"}, "call_1", CALL)
    assert (asked.agent.name, asked.agent.prompt) == ("recepcao", ""), "a prompt may be larger than a message"
    host.say(ToolRan(request=asked.request, result={"open": True}, answer=False))
    assert await running == Outcome({"open": True}, answer=False)


async def test_answers_find_their_requests_in_any_order() -> None:
    line = made_line()
    host = Host(line)
    first, second = run(line, READ), run(line, READ)
    one, two = await host.asked(), await host.asked()
    host.say(ToolRan(request=two.request, result={"n": 2}), ToolRan(request=99, result={}))
    host.say(ToolRan(request=one.request, result={"n": 1}))
    assert [(await each).result for each in (first, second)] == [{"n": 1}, {"n": 2}]


async def test_without_any_host_a_tool_says_so_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolline, "LINE_WAIT_S", 3600.0)
    line = made_line()
    assert not line.available(BOOK)
    assert (await run(line, BOOK)).result == OUT_OF_ORDER


async def test_what_the_host_has_decides_what_is_available() -> None:
    line = made_line()
    host = Host(line)
    host.say(HostHas(services=(), servers=()))
    await heard(line)
    assert (line.available(READ), line.available(BOOK)) == (True, False)
    host.say(HostHas(services=("database",), servers=()))
    await heard(line)
    assert line.available(BOOK)


async def test_tools_of_servers_come_and_go() -> None:
    line = made_line()
    host = Host(line)
    host.say(HostHas(services=(), servers=("shop",)))
    host.say(Offered(server="shop", tools=(offered("shop_find", read_only=True),)))
    host.say(Offered(server="shop", tools=(offered("shop_buy"),), first=False))
    while len(line.offered) < 2:
        await heard(line)
    find, buy = line.offered["shop_find"], line.offered["shop_buy"]
    assert (find.place, find.repeatable, find.writes, find.timeout_s) == ("host", True, False, 3.0)
    assert (buy.repeatable, buy.idempotent, buy.writes) == (False, False, True)
    assert find.schema()["properties"] == {"day": {"type": "string"}}
    assert line.available(buy)
    assert line.server_of("shop_buy") == buy.server == "shop"
    host.say(Offered(server="shop", tools=(offered("shop_find"),)))
    while "shop_buy" in line.offered:
        await heard(line)
    assert not line.available(buy)
    host.say(Offered(server="shop", tools=()))
    await heard(line)
    assert not line.offered


async def test_a_tool_of_a_server_is_for_the_agents_that_may_use_it() -> None:
    line = made_line()
    Host(line).say(Offered(server="shop", tools=(offered("shop_find"),)))
    await heard(line)
    of_agent = line.offered["shop_find"].offered
    assert of_agent is not None
    assert of_agent(AGENT, "full")
    assert not of_agent(Agent(), "full")


async def test_a_request_for_a_servers_tool_names_the_server() -> None:
    line = made_line()
    host = Host(line)
    host.say(Offered(server="shop", tools=(offered("shop_find"),)))
    await heard(line)
    running = run(line, line.offered["shop_find"])
    assert (await host.asked()).server == "shop"
    running.cancel()


async def test_another_host_is_asked_again_under_the_same_id() -> None:
    line = made_line()
    host = Host(line)
    running = run(line, BOOK, {"day": "monday"})
    first = await host.asked()
    other = Host(line)
    second = await other.asked()
    assert (second.call_id, second.arguments) == (first.call_id, first.arguments)
    other.say(ToolRan(request=second.request, result={"outcome": "booked"}))
    assert (await running).result == {"outcome": "booked"}


async def test_a_host_that_dies_and_comes_back_in_time_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolline, "LINE_WAIT_S", 3600.0)
    line = made_line()
    host = Host(line)
    running = run(line, READ)
    await host.asked()
    host.channel.close()
    await gone(line)
    other = Host(line)
    other.say(ToolRan(request=(await other.asked()).request, result={"found": 1}))
    assert (await running).result == {"found": 1}


@pytest.mark.parametrize(("tool", "words"), [(READ, OUT_OF_ORDER), (BOOK, TOO_LONG_WRITE)])
async def test_that_another_host_cannot_do_it_says_nothing_of_what_the_first_has_done(
    tool: Tool, words: dict[str, str]
) -> None:
    line = made_line()
    host = Host(line)
    running = run(line, tool)
    await host.asked()
    other = Host(line)
    other.say(ToolRan(request=(await other.asked()).request, result=dict(OUT_OF_ORDER)))
    assert (await running).result == words


@pytest.mark.parametrize(("again", "words"), [(False, OUT_OF_ORDER), (True, TOO_LONG_WRITE)])
async def test_a_write_that_a_predecessor_may_have_asked_for_is_not_said_to_be_undone(
    *, again: bool, words: dict[str, str]
) -> None:
    line = made_line()
    host = Host(line)
    request = ToolCall("call_1", {}, AGENT, CALL)
    running = asyncio.create_task(line.run(BOOK, request, {}, again=again))
    asked = await host.asked()
    host.say(ToolRan(request=asked.request, result=dict(OUT_OF_ORDER)))
    assert (await running).result == words
    host.channel.close()
    await gone(line)
    assert (await line.run(BOOK, request, {}, again=again)).result == words, "nor when there is no host at all"


async def test_what_must_not_be_done_twice_is_not_asked_again() -> None:
    line = made_line()
    host = Host(line)
    running = run(line, ONCE)
    await host.asked()
    other = Host(line)
    assert (await running).result == TOO_LONG_WRITE
    assert other.heard.empty()


async def test_without_another_host_nobody_knows_of_a_write_and_a_read_did_not_work() -> None:
    line = made_line()
    host = Host(line)
    write, read = run(line, BOOK), run(line, READ)
    await host.asked()
    await host.asked()
    host.channel.close()
    assert (await write).result == TOO_LONG_WRITE
    assert (await read).result == OUT_OF_ORDER
    assert (await run(line, BOOK)).result == OUT_OF_ORDER, "what was never asked for was not done"


async def test_tools_stay_while_a_host_is_started_again_and_go_when_the_next_has_no_such_server() -> None:
    line = made_line()
    host = Host(line)
    host.say(HostHas(services=("database",), servers=("shop",)))
    host.say(Offered(server="shop", tools=(offered("shop_find"),)))
    while not line.offered:
        await heard(line)
    host.channel.close()
    await gone(line)
    assert "shop_find" in line.offered
    assert line.available(BOOK)
    Host(line).say(HostHas(services=(), servers=("web",)))
    await heard(line)
    assert not line.offered
    assert not line.available(BOOK)


@pytest.mark.parametrize(("tool", "words"), [(READ, TOO_LONG), (BOOK, TOO_LONG_WRITE)])
async def test_a_host_that_does_not_answer_is_not_waited_for_for_ever(
    tool: Tool, words: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolline, "MARGIN_S", 0.05 - tool.timeout_s)
    line = made_line()
    host = Host(line)
    assert (await run(line, tool)).result == words
    assert (await host.asked()).tool == tool.name


async def test_a_read_that_is_cancelled_is_given_up_and_a_write_is_not() -> None:
    line = made_line()
    host = Host(line)
    write = run(line, BOOK)
    await host.asked()
    write.cancel()
    read = run(line, READ)
    asked = await host.asked()
    read.cancel()
    assert (await host.dropped()).request == asked.request


@pytest.mark.parametrize("value", ["x" * 70_000, object(), {1, 2, object()}])
async def test_arguments_that_are_no_message_are_a_sentence(value: Any) -> None:
    line = made_line()
    Host(line)
    assert (await run(line, READ, {"text": value})).result == TOO_LARGE


async def test_without_a_call_nothing_is_asked() -> None:
    line = made_line()
    host = Host(line)
    assert (await line.run(READ, ToolCall("call_1", {}), {})).result == OUT_OF_ORDER
    assert host.heard.empty()
