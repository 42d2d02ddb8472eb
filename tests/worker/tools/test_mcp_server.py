"""Our tools for other clients: asked by the official SDK's client in this process, over stdio, and over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import httpx2
import pytest
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from shared.agents import Agent
from shared.errors import SettingsError
from tests.standins.process import started
from tests.worker.tools.desk import ANA, BOB, CLINIC, Desk, at, exact
from worker.tools import running
from worker.tools.builtin import BUILT_IN
from worker.tools.mcp_http import Address, address
from worker.tools.mcp_ours import ADDING, KEY, OF_A_CALL, OurTools, offered
from worker.tools.registry import Outcome, Tool, ToolCall, ToolError
from worker.tools.services import Services

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from mcp_types import RequestParamsMeta

    from tests.postgres import Postgres, PostgresDatabase

ROOT = Path(__file__).parents[3]
TOKEN = "the-token-of-the-clients"
AGENTS = """
[agents.clinic]
numbers = ["+551130000000"]
timezone = "America/Sao_Paulo"
hours = { mon = ["09:00-18:00"], tue = ["09:00-18:00"], wed = ["09:00-18:00"], thu = ["09:00-18:00"], fri = ["09:00-18:00"] }

[agents.quiet]
numbers = ["+551130000001"]
tools = ["get_current_time"]
"""
WRITER = """
import pathlib, time
from worker.tools.custom import tool
print("loaded")

@tool(writes=True, timeout_s=60)
def keep(folder: str) -> str:
    "Write something down, once somebody says so."
    print("called")
    place = pathlib.Path(folder)
    (place / "begun").touch()
    while not (place / "go").exists():
        time.sleep(0.005)
    (place / "done").touch()
    return "kept"
"""


def serving(services: Services, agent: Agent = CLINIC, tools: Mapping[str, Tool] = BUILT_IN) -> Client:
    """Connect the SDK's client to our server in this process."""
    return Client(OurTools(offered(tools.values(), agent, services), agent, services).server())


@pytest.fixture
def services(database: PostgresDatabase) -> Services:
    """Give a database that knows Ana and Bob."""
    desk = Desk(database)
    desk.knows(ANA, "Ana Souza")
    desk.knows(BOB, "Bob")
    return Services(database)


def words(result: Any) -> str:
    """Give what a failed call says."""
    assert result.is_error
    assert result.structured_content is None
    (part,) = result.content
    return str(part.text)


def keyed(key: Any) -> RequestParamsMeta:
    """Give a request its key."""
    return cast("RequestParamsMeta", {KEY: key})


BOOK = {"phone": ANA, "starts_at": at("10:00")}

# --- what is offered ----------------------------------------------------------------------------------------------------


async def test_a_client_sees_every_tool_that_needs_no_call_with_its_schema(services: Services) -> None:
    messenger: Any = object()
    async with serving(Services(services.database, messenger)) as client:
        listed = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert set(listed) == set(BUILT_IN) - OF_A_CALL
    for name, tool in listed.items():
        ours, hints = BUILT_IN[name], tool.annotations
        assert (tool.description, tool.input_schema) == (ours.description, ours.schema())
        assert hints is not None
        assert hints.read_only_hint is not ours.writes
        assert hints.destructive_hint is (ours.writes and name not in ADDING)
    assert {name for name in listed if BUILT_IN[name].writes} >= ADDING
    assert listed["book_appointment"].annotations == listed["create_customer"].annotations
    assert listed["list_free_slots"].annotations.read_only_hint  # type: ignore[union-attr]


async def test_what_lacks_a_service_is_not_offered() -> None:
    async with serving(Services()) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["get_current_time"]


async def test_what_is_left_out_cannot_do_without_a_call() -> None:
    for name in OF_A_CALL:
        tool = BUILT_IN[name]
        arguments = tool.arguments(stage="full") if name == "more_tools" and tool.arguments else None
        with pytest.raises(ToolError):
            await tool.run(ToolCall("1", arguments))


async def test_an_agents_own_list_of_tools_holds_for_clients_too(services: Services) -> None:
    agent = Agent(tools=("get_current_time", "list_free_slots", "end_call"))
    async with serving(services, agent) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["get_current_time", "list_free_slots"]
        with pytest.raises(MCPError, match="Unknown tool: book_appointment"):
            await client.call_tool("book_appointment", dict(BOOK))


async def test_an_agent_whose_tools_touch_the_callers_record_only_touches_none(services: Services) -> None:
    async with serving(services, Agent(own_record_only=True)) as client:
        assert "belongs to the number that calls" in words(await client.call_tool("get_customer_facts", {"phone": ANA}))


# --- what is done -------------------------------------------------------------------------------------------------------


async def test_an_answer_is_an_object_and_text(services: Services) -> None:
    async with serving(services) as client:
        answer = await client.call_tool("get_current_time", {})
        assert not answer.is_error
        assert answer.structured_content["timezone"] == "America/Sao_Paulo"
        assert json.loads(answer.content[0].text) == answer.structured_content  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("book_appointment", {}, "starts_at: is missing"),
        ("book_appointment", {"phone": ANA, "starts_at": "2026-02-31T10:00"}, ""),
        ("book_appointment", {"phone": "12", "starts_at": at("10:00")}, "cannot be used as a telephone number"),
        ("book_appointment", {"phone": ANA, "starts_at": {"a": [1]}}, "starts_at"),
        ("get_customer_by_phone", {"phone": "+5511900000000"}, "No customer has the number"),
        ("get_customer_by_phone", {}, "There is no call whose number could be used"),
        ("get_current_time", {"timezone": "x" * 10_000}, ""),
    ],
)
async def test_wrong_arguments_are_the_sentence_that_the_agent_gets(
    services: Services, name: str, arguments: dict[str, Any], sentence: str
) -> None:
    async with serving(services) as client:
        said = words(await client.call_tool(name, arguments))
    direct = await running.run(BUILT_IN[name], ToolCall("1", {}, CLINIC, services=services), arguments)
    assert said == direct.result["error"]
    assert sentence in said


async def test_a_tool_that_does_not_exist_is_an_error_of_the_protocol(services: Services) -> None:
    async with serving(services) as client:
        for name in ("end_call", "nothing", "", "x" * 9_000):
            with pytest.raises(MCPError, match="Unknown tool"):
                await client.call_tool(name, {})


async def test_a_write_is_done_once_for_each_key(services: Services, database: PostgresDatabase) -> None:
    """Also when it is asked for again by another client, and after another server has started."""
    ask: dict[str, Any] = {"name": "add_customer_fact", "arguments": {"phone": ANA, "fact": "parking", "value": "yes"}}
    for _ in range(2):
        async with serving(services) as client:
            answers = [await client.call_tool(**ask, meta=keyed("order-1")) for _ in range(2)]
            assert not any(answer.is_error for answer in answers)
    assert len(database.rows("select * from tool_requests")) == 1
    async with serving(services) as client:
        await client.call_tool(**ask, meta=keyed("order-2"))
        await client.call_tool(**ask)
        await client.call_tool(**ask)
    assert len(database.rows("select * from tool_requests")) == 4


async def test_one_key_for_two_tools_gives_each_its_own_answer(services: Services) -> None:
    async with serving(services) as client:
        fact = await client.call_tool(
            "add_customer_fact", {"phone": ANA, "fact": "parking", "value": "yes"}, meta=keyed("k")
        )
        booked = await client.call_tool("book_appointment", dict(BOOK), meta=keyed("k"))
    assert not fact.is_error
    assert not booked.is_error
    assert booked.structured_content != fact.structured_content


@pytest.mark.parametrize("key", ["", "x" * 201, 7, ["a"], "a\nb", "a\0"])
async def test_what_is_no_key_is_refused_and_nothing_is_done(
    services: Services, database: PostgresDatabase, key: Any
) -> None:
    async with serving(services) as client:
        with pytest.raises(MCPError, match="offhook/key must be a text"):
            await client.call_tool("book_appointment", dict(BOOK), meta=keyed(key))
    assert database.rows("select * from appointments") == []


async def test_of_many_clients_that_want_one_hour_one_gets_it(services: Services, database: PostgresDatabase) -> None:
    async def want(phone: str) -> bool:
        async with serving(services) as client:
            return (await client.call_tool("book_appointment", {"phone": phone, "starts_at": at("15:00")})).is_error

    refused = await asyncio.gather(*(want(phone) for phone in (ANA, BOB) * 4))
    stored = database.rows("select starts_at from appointments where status = 'booked'")
    assert len(stored) == 1
    assert stored[0]["starts_at"].isoformat().startswith(exact("15:00")[:10])
    assert refused.count(False) <= 4  # the winner's own repetitions are told that it is booked


@dataclass
class Held:
    """A tool that begins, and ends when it is let go."""

    begun: asyncio.Event
    go: asyncio.Event
    ended: asyncio.Queue[str]

    def tool(self, *, writes: bool) -> Tool:
        """Make it."""

        async def run(_call: ToolCall) -> Outcome:
            self.begun.set()
            try:
                await self.go.wait()
            except asyncio.CancelledError:
                self.ended.put_nowait("given up")
                raise
            self.ended.put_nowait("done")
            return Outcome({})

        return Tool(name="held", description="Wait.", run=run, writes=writes)


@pytest.mark.parametrize("mode", ["legacy", "auto"])
@pytest.mark.parametrize(("writes", "end"), [(False, "given up"), (True, "done")])
async def test_when_a_client_gives_up_a_read_ends_and_a_write_goes_on(*, mode: str, writes: bool, end: str) -> None:
    held = Held(asyncio.Event(), asyncio.Event(), asyncio.Queue())
    ours = OurTools({"held": held.tool(writes=writes)}, CLINIC, Services())
    async with Client(ours.server(), mode=mode) as client:
        asking = asyncio.ensure_future(client.call_tool("held", {}))
        await held.begun.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    held.go.set()
    await ours.leave(10.0)
    assert await held.ended.get() == end


# --- as processes -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class House:
    """What the processes of a file share: a stand-in for Supabase on PostgreSQL, an agents file, and a folder of tools."""

    env: Mapping[str, str]
    database: PostgresDatabase

    def stdio(self, *arguments: str) -> StdioServerParameters:
        """Say how the SDK's client starts the server."""
        return StdioServerParameters(
            command=sys.executable, args=["-m", "worker.tools.mcp", *arguments], cwd=str(ROOT), env=dict(self.env)
        )

    @contextmanager
    def running(self, *arguments: str, **changes: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run the server with pipes; what still runs at the end is killed."""
        command = [sys.executable, "-m", "worker.tools.mcp", *arguments]
        env = {**self.env, **changes}
        pipe = subprocess.PIPE
        with subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def refusal(self, *arguments: str, **changes: str) -> str:
        """Start a server that must refuse to, and give what it says."""
        command = [sys.executable, "-m", "worker.tools.mcp", *arguments]
        ended = subprocess.run(
            command, cwd=ROOT, env={**self.env, **changes}, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        assert ended.returncode == 2
        assert ended.stdout == b""
        return ended.stderr.decode()


@pytest.fixture(scope="module")
def house(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    from tests.postgres import PostgresDatabase  # 0.3 s, for those who ask

    folder = tmp_path_factory.mktemp("house")
    (folder / "agents.toml").write_text(AGENTS, encoding="utf-8")
    (folder / "tools").mkdir()
    (folder / "tools" / "keep.py").write_text(WRITER, encoding="utf-8")
    (folder / "tools" / "broken.py").write_text("import nowhere_at_all\n", encoding="utf-8")
    dsn = postgres.fresh()
    Desk(PostgresDatabase(dsn)).knows(ANA, "Ana Souza")
    with started("supabase_api", postgres=dsn) as supabase:
        env = {
            "PATH": os.environ["PATH"],
            "SUPABASE_URL": supabase.url,
            "SUPABASE_SECRET_KEY": "sb_secret_of_the_test",
            "AGENTS_FILE": str(folder / "agents.toml"),
            "TOOLS_DIR": str(folder / "tools"),
        }
        yield House(env, PostgresDatabase(dsn))
    postgres.drop(dsn)


async def test_over_stdio_a_client_books_for_the_agent_it_chose(house: House) -> None:
    """The tool that prints, when it is loaded and when it is called, does not get between the messages."""
    async with Client(house.stdio("--agent", "clinic")) as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        assert names == {name for name, tool in BUILT_IN.items() if "messenger" not in tool.needs} - OF_A_CALL | {
            "keep"
        }
        booked = await client.call_tool("book_appointment", {"phone": ANA, "starts_at": at("11:00")})
        assert not booked.is_error
        answers = await asyncio.gather(*(client.call_tool("get_customer_by_phone", {"phone": ANA}) for _ in range(10)))
        assert {answer.structured_content["customer"]["name"] for answer in answers} == {"Ana Souza"}
        folder = house.env["TOOLS_DIR"]
        await asyncio.to_thread(Path(folder, "go").touch)
        kept = await client.call_tool("keep", {"folder": folder})
        assert kept.structured_content == {"result": "kept"}
    rows = house.database.rows("select starts_at, request_key from appointments")
    assert [row["starts_at"].isoformat()[:10] for row in rows] == [exact("11:00")[:10]]
    assert rows[0]["request_key"].startswith("mcp:book_appointment:")


def _line(process: subprocess.Popen[bytes], **message: Any) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
    process.stdin.flush()


def _begin(process: subprocess.Popen[bytes]) -> None:
    """Shake hands, as a client of 2025 does."""
    who = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    _line(process, id=1, method="initialize", params=who)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["result"]["serverInfo"]["name"] == "offhook"
    _line(process, method="notifications/initialized")


@pytest.mark.parametrize("way", ["closes its end", "sends SIGTERM"])
def test_a_write_under_way_is_finished_when_the_client_is_gone(house: House, tmp_path: Path, way: str) -> None:
    with house.running() as process:
        _begin(process)
        assert process.stdin is not None
        if way == "closes its end":
            _garbage(process)
        _line(process, id=2, method="tools/call", params={"name": "keep", "arguments": {"folder": str(tmp_path)}})
        while not (tmp_path / "begun").exists():
            assert process.poll() is None
        if way == "closes its end":
            process.stdin.close()
        else:
            process.send_signal(signal.SIGTERM)
        (tmp_path / "go").touch()
        assert process.wait(30) == 0
        assert (tmp_path / "done").exists()


def _garbage(process: subprocess.Popen[bytes]) -> None:
    """Send what is no message; what is one is answered all the same."""
    assert process.stdin is not None
    assert process.stdout is not None
    for line in (b"\xff\xfe\n", b"{}\n", b"[1,2\n", b'"' + b"x" * 200_000 + b'"\n', b"\n"):
        process.stdin.write(line)
    _line(process, id=3, method="tools/call", params={"name": "get_current_time", "arguments": {}})
    while (answer := json.loads(process.stdout.readline())).get("id") != 3:
        assert "error" in answer
    assert "time" in answer["result"]["structuredContent"]


def test_what_is_wrong_is_said_before_anything_is_served(house: House) -> None:
    arguments = ("--agent", "nobody", "--http", "127.0.0.1:0")
    assert house.refusal(*arguments) == "offhook: --agent: there is no agent nobody, only default, clinic, quiet\n"


# --- over HTTP ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def url(house: House) -> Iterator[str]:
    with house.running("--agent", "clinic", "--http", "127.0.0.1:0", MCP_TOKEN=TOKEN) as process:
        assert process.stdout is not None
        said = next(json.loads(line) for line in process.stdout if b"MCP server is up" in line)
        yield f"http://127.0.0.1:{said['port']}{said['path']}"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@pytest.fixture
async def http() -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30) as client:
        yield client


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_over_http_clients_at_the_same_time_get_each_their_answer(
    url: str, http: httpx2.AsyncClient, mode: str
) -> None:
    async def ask(zone: str) -> str:
        async with Client(streamable_http_client(url, http_client=http), mode=mode) as client:
            answers = [await client.call_tool("get_current_time", {"timezone": zone}) for _ in range(3)]
            return str({answer.structured_content["timezone"] for answer in answers})

    zones = ["Europe/Lisbon", "Asia/Tokyo", "America/Lima", "UTC"]
    assert await asyncio.gather(*(ask(zone) for zone in zones)) == [str({zone}) for zone in zones]


async def test_over_http_a_client_that_disconnects_costs_nobody_else(url: str, http: httpx2.AsyncClient) -> None:
    async with Client(streamable_http_client(url, http_client=http)) as client:
        for _ in range(3):
            asking = asyncio.ensure_future(client.call_tool("list_free_slots", {"day": "tomorrow"}))
            await asyncio.sleep(0)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
    async with Client(streamable_http_client(url, http_client=http)) as client:
        assert not (await client.call_tool("get_current_time", {})).is_error


PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
ACCEPT = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example"}, 421),
        ({"Host": "127.0.0.1.evil.example:80"}, 421),
        ({"Authorization": ""}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": f"Basic {TOKEN}"}, 401),
        ({"Authorization": f"Bearer {TOKEN}x"}, 401),
        ({"Authorization": "Bearer \xff"}, 401),
        ({"Content-Type": "text/plain"}, 400),
    ],
)
@pytest.mark.parametrize("version", [{}, {"MCP-Protocol-Version": "2026-07-28"}], ids=["old", "new"])
async def test_who_may_not_come_in_is_refused(
    url: str, http: httpx2.AsyncClient, headers: dict[str, str], status: int, version: dict[str, str]
) -> None:
    sent = [(name.encode(), value.encode("latin-1")) for name, value in {**ACCEPT, **version, **headers}.items()]
    answer = await http.post(url, content=json.dumps(PING).encode(), headers=sent)
    assert answer.status_code == status
    assert TOKEN not in answer.text


async def test_a_request_of_megabytes_is_refused(url: str, http: httpx2.AsyncClient) -> None:
    answer = await http.post(url, content=b"[" * 1_000_000, headers=ACCEPT)
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("written", "local"),
    [
        ("127.0.0.1:80", True),
        ("localhost:0", True),
        ("[::1]:8080", True),
        ("10.0.0.1:80", False),
        ("example.com:80", False),
    ],
)
def test_an_address_that_others_can_reach_needs_a_token(written: str, *, local: bool) -> None:
    assert address(written, [], TOKEN).local is local
    if local:
        assert address(written, [], "").local
    else:
        with pytest.raises(SettingsError, match=r"^MCP_TOKEN: missing, and others can reach"):
            address(written, ["tools.example.com"], "")


@pytest.mark.parametrize("written", ["", "8080", ":80", "host:", "host:x", "host:-1", "host:70000", "host:²", "[::1]"])
def test_what_is_no_address_is_said(written: str) -> None:
    with pytest.raises(SettingsError, match=r"^--http: .*must be HOST:PORT$"):
        address(written, [], TOKEN)


@pytest.mark.parametrize("everywhere", ["0.0.0.0:80", "[::]:80"])
def test_everywhere_needs_a_name_to_be_asked_for(everywhere: str) -> None:
    with pytest.raises(SettingsError, match="--allow-host"):
        address(everywhere, [], TOKEN)
    assert address(everywhere, ["tools.example.com"], TOKEN).names[-1] == "tools.example.com"


def test_only_the_names_that_were_given_are_answered_to() -> None:
    security = Address("10.0.0.1", 80, ("10.0.0.1",)).security
    assert security.enable_dns_rebinding_protection
    assert set(security.allowed_hosts) == {"10.0.0.1", "10.0.0.1:*"}
    assert all(origin.startswith(("http://10.0.0.1", "https://10.0.0.1")) for origin in security.allowed_origins)
