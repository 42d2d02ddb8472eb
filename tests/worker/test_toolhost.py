"""The tool host as a process, with real MCP servers behind it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from shared.agents import Agent, McpServer
from shared.calls import CallSid, IncomingCall, TraceId
from shared.tool_messages import Serve
from tests.tool_host import CALL, ROOT, HostProcess, alive, kill, running_host, standin, until
from worker.pool import zygote
from worker.tools.attendant import BUSY, MOST_WAITING
from worker.tools.registry import Tool, ToolCall
from worker.tools.running import MAX_RESULT_CHARS, OUT_OF_ORDER, TOO_LONG, TOO_LONG_WRITE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


class Shop:
    """A host with one server that works, for all tests of this module that do it no harm."""

    def __init__(self, host: HostProcess, diary: Path, server: McpServer) -> None:
        self.host = host
        self.server = server
        self._diary = diary

    def written(self, word: str) -> int:
        """Count the lines of the diary that are this."""
        return self._diary.read_text().splitlines().count(word)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    folder = tmp_path_factory.mktemp("host")
    diary = folder / "diary"
    server = standin("shop", "--diary", str(diary), timeout_s=6.0)
    async with running_host(folder, [server]) as host:
        await host.state("shop", up=True)
        yield Shop(host, diary, server)


shared = pytest.mark.asyncio(loop_scope="module")


@shared
async def test_a_tool_of_a_server_is_run_for_a_worker(shop: Shop) -> None:
    worker = await shop.host.worker("0-1")
    assert await worker.ask("shop_add", {"a": 2, "b": 3}) == {"result": 5}


@shared
async def test_every_worker_is_offered_the_same_tools_of_one_process(shop: Shop) -> None:
    workers = [await shop.host.worker(f"{slot}-1") for slot in range(8)]
    pids = {(await worker.ask("shop_process", {}))["pid"] for worker in workers}
    assert len(pids) == 1
    assert len({frozenset(worker.line.offered) for worker in workers}) == 1


@shared
async def test_a_schema_that_fits_no_message_is_left_out_and_logged(shop: Shop) -> None:
    worker = await shop.host.worker("0-1")
    await worker.offered("shop_add")
    assert "shop_too_large" not in worker.line.offered
    assert "shop_too_large is left out" in shop.host.log.read_text()


@shared
async def test_a_server_knows_nothing_of_our_secrets(shop: Shop) -> None:
    worker = await shop.host.worker("0-1")
    names = set((await worker.ask("shop_environment", {}))["names"])
    assert names <= {"PATH", "HOME", "LOGNAME", "SHELL", "TERM", "USER", "LC_CTYPE", "PYTHONPATH"}


@shared
async def test_a_machine_out_of_memory_takes_a_server_before_a_worker(shop: Shop) -> None:
    worker = await shop.host.worker("0-1")
    pid = (await worker.ask("shop_process", {}))["pid"]
    assert oom_score(pid) > oom_score(shop.host.process.pid) > int(zygote.OOM_SCORE)


@shared
async def test_answers_are_short_and_errors_are_sentences(shop: Shop) -> None:
    worker = await shop.host.worker("0-1")
    assert await worker.ask("shop_picture", {}) == {"result": "[image, image/gif]"}
    assert len((await worker.ask("shop_long", {}))["result"]) <= MAX_RESULT_CHARS
    assert "broken" in (await worker.ask("shop_broken", {}))["error"]
    assert "valid integer" in (await worker.ask("shop_add", {"a": "two", "b": 3}))["error"]
    assert "error" in await worker.ask("shop_add", {})


@shared
async def test_the_same_request_is_one_run_for_a_worker_and_its_successor(shop: Shop) -> None:
    worker, successor = await shop.host.worker("0-1"), await shop.host.worker("1-1")
    ask = {"text": "once", "seconds": 0.3}
    running = asyncio.create_task(worker.ask("shop_slow_note", ask, "call_once"))
    await until(lambda: shop.written("begin once"), "the note is begun")
    joined = await successor.ask("shop_slow_note", ask, "call_once")
    assert joined == await running
    assert await successor.ask("shop_slow_note", ask, "call_once") == joined
    assert shop.written("begin once") == shop.written("once") == 1


@shared
async def test_the_same_id_in_another_call_is_another_request(shop: Shop) -> None:
    worker = await shop.host.worker("0-1")
    other = IncomingCall(call_sid=CallSid("CA2"), caller="+1", called="+2", trace_id=TraceId("1" * 32))
    for call in (CALL, other):
        await worker.ask("shop_note", {"text": "twice"}, "call_7", call)
    assert shop.written("twice") == 2


@shared
async def test_a_workers_death_does_not_end_what_it_began_to_write(shop: Shop) -> None:
    worker, successor = await shop.host.worker("0-1"), await shop.host.worker("1-1")
    ask = {"text": "dying", "seconds": 0.2}
    running = asyncio.create_task(worker.ask("shop_slow_note", ask, "call_dying"))
    await until(lambda: shop.written("begin dying"), "the note is begun")
    worker.line.close()
    await until(lambda: shop.written("dying"), "the note is written")
    result = await successor.ask("shop_slow_note", ask, "call_dying")
    assert result["result"].startswith("noted as number")
    assert shop.written("begin dying") == 1
    running.cancel()


@shared
async def test_a_read_that_nobody_waits_for_is_given_up(shop: Shop) -> None:
    worker = await shop.host.worker("0-1")
    running = asyncio.create_task(worker.ask("shop_slow_look", {"seconds": 30.0}))
    await until(lambda: shop.written("look"), "it looks")
    running.cancel()
    await until(lambda: shop.written("given up"), "it is given up")


@shared
async def test_a_tool_that_takes_too_long_is_a_sentence_and_the_server_stays(shop: Shop) -> None:
    worker = await shop.host.worker("0-1")
    write = worker.ask("shop_slow_note", {"text": "slow", "seconds": 30.0})
    read = worker.ask("shop_slow_look", {"seconds": 30.0})
    assert [dict(each) for each in await asyncio.gather(write, read)] == [TOO_LONG_WRITE, TOO_LONG]
    assert await worker.ask("shop_add", {"a": 1, "b": 1}) == {"result": 2}


@shared
async def test_who_floods_does_not_keep_others_waiting(shop: Shop) -> None:
    flood, other = await shop.host.worker("0-1"), await shop.host.worker("1-1")
    await flood.offered("shop_slow_look")
    asking = [asyncio.create_task(flood.ask("shop_slow_look", {"seconds": 1.5})) for _ in range(200)]
    assert await other.ask("shop_add", {"a": 1, "b": 1}) == {"result": 2}
    refused = 200 - MOST_WAITING
    await until(lambda: sum(each.done() and each.result() == BUSY for each in asking) >= refused, "most are refused")
    for each in asking:
        each.cancel()


@shared
async def test_an_agent_has_only_the_servers_of_its_profile(shop: Shop) -> None:
    worker = await shop.host.worker("0-1", Agent(mcp=()))
    worker_of_shop = await shop.host.worker("1-1")
    tool = await worker_of_shop.offered("shop_add")
    await worker.offered("shop_add")
    assert (await worker.run(tool, {"a": 1, "b": 1})).result == OUT_OF_ORDER


@shared
async def test_a_tool_that_is_not_there_is_a_sentence(shop: Shop) -> None:
    async def never(_call: ToolCall) -> None: ...

    worker = await shop.host.worker("0-1")
    nothing = Tool("no_such_tool", "", never, place="host")  # type: ignore[arg-type]
    assert (await worker.run(nothing, {})).result == OUT_OF_ORDER


@shared
async def test_a_new_tool_is_offered_to_everybody_at_once(shop: Shop) -> None:
    worker, other = await shop.host.worker("0-1"), await shop.host.worker("1-1")
    await worker.ask("shop_learn", {"name": "sing"})
    await other.offered("shop_sing")
    assert await worker.ask("shop_sing", {}) == {"result": "sing"}


@shared
async def test_a_descriptor_that_is_no_socket_costs_nothing(shop: Shop) -> None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with sock:
        shop.host.control.send(Serve(servers=(shop.server,)), sock.fileno())
    worker = await shop.host.worker("0-1")
    assert await worker.ask("shop_add", {"a": 1, "b": 1}) == {"result": 2}, "the server stayed connected"


@shared
async def test_a_server_that_is_killed_is_withdrawn_and_comes_back(shop: Shop) -> None:
    worker = await shop.host.worker("0-1")
    pid = (await worker.ask("shop_process", {}))["pid"]
    kill(pid)
    await until(lambda: not worker.line.offered, "its tools are withdrawn")
    assert "ended" in (await shop.host.state("shop", up=False)).why
    await worker.offered("shop_add")
    assert (await worker.ask("shop_process", {}))["pid"] != pid


@shared
async def test_a_write_whose_server_dies_is_not_done_again_and_a_read_is_asked_of_the_next(shop: Shop) -> None:
    worker = await shop.host.worker("0-1")
    looks = shop.written("look")
    reading = asyncio.create_task(worker.ask("shop_slow_look", {"seconds": 0.5}))
    await until(lambda: shop.written("look") > looks, "it looks")
    assert await worker.ask("shop_leave", {}) == TOO_LONG_WRITE
    answer = await reading
    assert answer in ({"result": "found"}, OUT_OF_ORDER, TOO_LONG), (
        "it has two seconds, and a server needs one to start"
    )
    assert shop.written("leave") == 1


@shared
async def test_servers_that_hang_lie_or_are_missing_cost_nobody_else_anything(shop: Shop) -> None:
    host = shop.host
    worker = await host.worker("0-1")
    bad = [
        standin("dead", "--hang"),
        standin("old", "--garbage"),
        McpServer(name="none", command="no-such-command-anywhere"),
        McpServer(name="web", url="http://127.0.0.1:9/mcp"),
    ]
    host.serve([*bad, shop.server])
    assert (await host.state("none", up=False)).why == "there is no command no-such-command-anywhere"
    assert await worker.ask("shop_add", {"a": 1, "b": 1}) == {"result": 2}
    assert "no message" in (await host.state("old", up=False)).why
    assert "connect" in (await host.state("web", up=False)).why.lower()
    assert "dead" not in host.states, "it is still being waited for"
    assert all(name.startswith("shop_") for name in worker.line.offered)
    host.serve([shop.server])


@shared
async def test_a_server_of_the_protocol_of_2025_is_spoken_to_and_heard(shop: Shop) -> None:
    worker = await shop.host.worker("0-1")
    pid = (await worker.ask("shop_process", {}))["pid"]
    shop.host.serve([shop.server, standin("old", "--legacy")])
    assert await worker.ask("old_add", {"a": 2, "b": 2}) == {"result": 4}
    await worker.ask("old_learn", {"name": "sing"})
    await worker.offered("old_sing")
    shop.host.serve([shop.server])
    await until(lambda: not any(name.startswith("old_") for name in worker.line.offered), "its tools are withdrawn")
    assert (await worker.ask("shop_process", {}))["pid"] == pid, "the other server stays as it is"


@shared
async def test_a_server_over_http_is_connected_with_its_headers_and_again_when_it_was_away(shop: Shop) -> None:
    worker = await shop.host.worker("0-1")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    web = McpServer(name="web", url=f"http://127.0.0.1:{port}/mcp", headers={"Authorization": "Bearer the-word"})
    with over_http(port):
        await until(lambda: listening(port), "the server listens")
        shop.host.serve([shop.server, web])
        assert await worker.ask("web_header", {"name": "authorization"}) == {"result": "Bearer the-word"}
        assert "error" in await worker.ask("web_huge", {}), "it is not read into memory"
        await worker.ask("web_learn", {"name": "sing"})
        await worker.offered("web_sing")
    await until(lambda: "web_add" not in worker.line.offered, "its tools are withdrawn")
    with over_http(port):
        assert await worker.ask("web_add", {"a": 2, "b": 2}) == {"result": 4}
        shop.host.serve([shop.server])
        await until(lambda: "web_add" not in worker.line.offered, "its tools are withdrawn")
    assert "the-word" not in shop.host.log.read_text()


def oom_score(pid: int) -> int:
    """Read how soon the kernel takes a process."""
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def listening(port: int) -> bool:
    """Say whether somebody takes connections."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def over_http(port: int) -> Iterator[None]:
    """Run our stand-in over HTTP."""
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.standins.mcp_server", "--port", str(port)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        server.kill()
        server.wait()


# --- hosts of a test's own ------------------------------------------------------------------------------------------------


async def test_servers_die_with_a_host_that_is_killed(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    diary.touch()
    async with running_host(tmp_path, [standin("shop"), standin("dead", "--hang", "--diary", str(diary))]) as host:
        worker = await host.worker("0-1")
        pid = (await worker.ask("shop_process", {}))["pid"]
        hanging = int((await until(diary.read_text, "the hanging one is there")).split()[1])
        host.process.kill()
        await until(lambda: not alive(pid) and not alive(hanging), "both are gone")


async def test_another_host_takes_over_the_calls_of_one_that_was_killed(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    diary.touch()
    shop = standin("shop", "--diary", str(diary))
    async with running_host(tmp_path, [shop]) as first, running_host(tmp_path, [shop]) as second:
        worker = await first.worker("0-1")
        await worker.offered("shop_slow_look")
        await second.state("shop", up=True)
        reading = asyncio.create_task(worker.ask("shop_slow_look", {"seconds": 0.1}))
        writing = asyncio.create_task(worker.ask("shop_slow_note", {"text": "lost", "seconds": 30.0}))
        await until(lambda: "begin lost" in diary.read_text(), "the note is begun")
        first.process.kill()
        second.attend("0-1", worker.line)
        assert await writing == TOO_LONG_WRITE, "it must not be done twice"
        assert await reading == {"result": "found"}
        assert await worker.ask("shop_add", {"a": 1, "b": 1}) == {"result": 2}


async def test_a_host_without_its_pool_serves_its_workers_and_leaves_with_the_last(tmp_path: Path) -> None:
    async with running_host(tmp_path, [standin("shop")]) as host:
        worker, other = await host.worker("0-1"), await host.worker("1-1")
        pid = (await worker.ask("shop_process", {}))["pid"]
        host.control.close()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(host.process.pid, number)
        assert await worker.ask("shop_add", {"a": 1, "b": 1}) == {"result": 2}
        worker.line.close()
        assert await other.ask("shop_add", {"a": 1, "b": 1}) == {"result": 2}
        other.line.close()
        assert await host.end() == 0
        await until(lambda: not alive(pid), "its server is gone")


async def test_a_host_that_is_alone_ends_what_it_writes_before_it_leaves(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    diary.touch()
    async with running_host(tmp_path, [standin("shop", "--diary", str(diary))]) as host:
        worker = await host.worker("0-1")
        asking = asyncio.create_task(worker.ask("shop_slow_note", {"text": "kept", "seconds": 0.5}))
        await until(lambda: "begin kept" in diary.read_text(), "the note is begun")
        host.control.close()
        worker.line.close()
        assert await host.end() == 0
        assert diary.read_text().splitlines()[-1] == "kept"
        assert await asking == TOO_LONG_WRITE, "this worker was not told"


def test_what_is_not_configured_is_not_loaded() -> None:
    """The SDK, the database's client and RQ take 20 MB and more each, and their time at every start."""
    code = "import sys, worker.tools.host; print(*{'mcp', 'supabase', 'rq', 'redis', 'pipecat'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
