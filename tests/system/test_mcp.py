"""MCP servers of the agents file, in a whole system: connected once, used in calls, and in nobody's way."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.stack import ROOT, Plan, Stack
from tests.system.talk import ask, greeted

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.system

WORKERS = 3
SECRETS = ("SUPABASE_SECRET_KEY", "TWILIO_AUTH_TOKEN", "TICKET_KEY", "CONSOLE_TOKEN", "RECORDS_WEBHOOK_SECRET")
AGENTS = """
[agents.default]
mcp = ["shop", "dead"]

[mcp.shop]
command = "{python}"
args = ["-m", "tests.standins.mcp_server"]
env = {{ PYTHONPATH = "{root}" }}

[mcp.dead]
command = "{python}"
args = ["-m", "tests.standins.mcp_server", "--hang"]
env = {{ PYTHONPATH = "{root}" }}
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    agents = tmp_path_factory.mktemp("agents") / "agents.toml"
    agents.write_text(AGENTS.format(python=sys.executable, root=ROOT))
    env = {"AGENTS_FILE": str(agents), "TICKET_KEY": "a-key-of-the-tickets", "CONSOLE_TOKEN": "a-token"}
    made = Stack(Plan(pool_ready=WORKERS, env=env))
    try:
        made.start()
        yield made
    finally:
        made.stop()


def children(stack: Stack, *words: str) -> list[psutil.Process]:
    """List the processes of the pool whose command has all these words."""
    found = []
    for process in psutil.Process(stack.pool.pid).children(recursive=True):
        try:
            command = process.cmdline()
        except psutil.NoSuchProcess:
            continue
        if all(any(word in part for part in command) for word in words):
            found.append(process)
    return found


def environment(process: psutil.Process) -> dict[str, str]:
    """Read what a process was started with, as anybody can who gets into it."""
    entries = Path(f"/proc/{process.pid}/environ").read_bytes().decode().split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


def shops(stack: Stack) -> list[psutil.Process]:
    """List the processes of the server that works."""
    return [process for process in children(stack, "mcp_server") if "--hang" not in process.cmdline()]


async def test_there_is_one_process_of_a_server_for_all_workers(stack: Stack) -> None:
    await stack.until(lambda: stack.metric("offhook_mcp_server_up", server="shop"), "the shop is up")
    assert len(children(stack, "worker.pool.zygote")) > WORKERS, "the zygote and its workers"
    assert len(shops(stack)) == 1
    assert len(children(stack, "worker.tools.host")) == 1
    assert stack.metric("offhook_tool_host_up") == 1
    assert stack.metric("offhook_mcp_server_up", server="dead") == 0


def test_workers_do_not_know_what_they_do_not_need(stack: Stack) -> None:
    for process in children(stack, "worker.pool.zygote"):
        known = environment(process)
        assert not known.keys() & set(SECRETS)
        assert known["OPENAI_API_KEY"], "this one they need"
    (host,) = children(stack, "worker.tools.host")
    known = environment(host)
    assert known["SUPABASE_SECRET_KEY"], "the one process that has it"
    assert not known.keys() & {"OPENAI_API_KEY", "CARTESIA_API_KEY", "TWILIO_AUTH_TOKEN", "TICKET_KEY"}
    for server in children(stack, "mcp_server"):
        assert environment(server).keys() <= {
            "PATH",
            "HOME",
            "LOGNAME",
            "SHELL",
            "TERM",
            "USER",
            "PYTHONPATH",
            "LC_CTYPE",
        }


async def test_a_caller_is_told_what_a_server_knows_also_after_the_tool_host_was_killed(stack: Stack) -> None:
    async with stack.carrier() as carrier:
        await stack.until(lambda: stack.metric("offhook_mcp_server_up", server="shop"), "the shop is up")
        call = await carrier.dial()
        await greeted(call)
        await ask(call, "hours", "nine", "five.")
        (host,), before = children(stack, "worker.tools.host"), {process.pid for process in shops(stack)}
        os.kill(host.pid, signal.SIGKILL)
        await stack.until(lambda: {each.pid for each in shops(stack)}.isdisjoint(before), "the server has died with it")
        await stack.until(lambda: stack.metric("offhook_mcp_server_up", server="shop"), "the shop is up again")
        await ask(call, "hours", "nine", "five.")
        assert len(shops(stack)) == 1
        await call.hangup()
        assert (await call.ended()).outcome == "completed"
