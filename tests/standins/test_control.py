"""Settings as flags and at run time, and stand-ins as processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass

import psutil
import pytest

from tests.standins.control import Control, parser, settings_from
from tests.standins.process import ROOT, StandinFailed, running, start, started


@dataclass(frozen=True, slots=True)
class Example:
    """Settings of every kind."""

    delay_ms: float = 5.0
    limit: int = 0
    stall: bool = False
    key: str = ""


def test_every_setting_is_a_flag() -> None:
    arguments = parser("example", "for a test", Example)
    assert settings_from(arguments.parse_args([]), Example) == Example()
    given = arguments.parse_args(["--delay-ms", "1.5", "--limit=3", "--stall", "--key", "k"])
    assert settings_from(given, Example) == Example(1.5, 3, stall=True, key="k")
    assert not settings_from(arguments.parse_args(["--no-stall"]), Example).stall


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"limit": 2, "unknown": 1}, "unknown: no such setting"),
        ({"limit": 2, "stall": 1}, "stall: bool expected, not int"),
        ({"limit": True}, "limit: int expected, not bool"),
        ({"limit": 2, "key": None}, "key: str expected, not NoneType"),
        ({"limit": 2, "fail": "x"}, "fail cannot use x"),
    ],
)
def test_a_change_that_cannot_be_made_changes_nothing(changes: dict[str, object], message: str) -> None:
    def fail(value: object) -> None:
        raise ValueError(f"fail cannot use {value}")

    control = Control(Example(), actions={"fail": fail})
    with pytest.raises(ValueError, match=message):
        control.merge(changes)
    assert control.settings == Example()


def test_an_action_sees_the_settings_that_came_with_it_and_listeners_are_told() -> None:
    seen: list[object] = []
    control = Control(Example(), actions={"look": lambda value: seen.append((value, control.settings.limit))})
    control.on_change.append(lambda: seen.append("changed"))
    control.merge({"look": "now", "limit": 7, "delay_ms": 3})
    assert seen == [("now", 7), "changed"]
    assert control.settings.delay_ms == 3.0
    assert isinstance(control.settings.delay_ms, float)


def test_reset_empties_everything_but_gauges() -> None:
    control = Control(Example(), gauges=frozenset({"open"}))
    control.counters.update(open=2, opened=5)
    control.note("event", text="x")
    control.merge({"reset": True})
    assert dict(control.counters) == {"open": 2}
    assert not control.log


async def test_a_stand_in_is_read_and_changed_while_it_runs() -> None:
    async with running("supabase_api", latency_ms=3, stall=False) as standin:
        state = await standin.state()
        assert state["settings"]["latency_ms"] == 3.0
        assert state["counters"] == {}
        assert (await standin.control(latency_ms=0))["latency_ms"] == 0.0
        with pytest.raises(StandinFailed, match="latency: no such setting"):
            await standin.control(latency=1)
        pid = standin.pid
    assert not psutil.pid_exists(pid)


def test_a_stand_in_leaves_at_once_with_exit_0_and_returns_on_its_port() -> None:
    with started("supabase_api") as first:
        assert first.stop() == 0
        with started("supabase_api", port=first.port) as second:
            assert second.port == first.port
            assert second.kill() == -signal.SIGKILL
        with started("supabase_api", port=first.port) as third:
            os.kill(third.pid, signal.SIGSTOP)  # even a stopped one does not stay


def test_a_stand_in_that_cannot_start_says_so() -> None:
    with pytest.raises(StandinFailed, match="supabase_api did not start"):
        start("supabase_api", no_such_flag=1)


def test_a_stand_in_does_not_outlive_its_parent() -> None:
    parent = (
        "import os; from tests.standins.process import start\nprint(start('supabase_api').pid, flush=True)\nos._exit(1)"
    )
    done = subprocess.run([sys.executable, "-c", parent], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    psutil.wait_procs([psutil.Process(pid) for pid in map(int, done.stdout.split()) if psutil.pid_exists(pid)], 30)
    assert not psutil.pid_exists(int(done.stdout))


def test_the_ready_line_is_one_json_object() -> None:
    command = [sys.executable, "-m", "tests.standins.supabase_api", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = json.loads(process.stdout.readline())
        process.terminate()
        assert process.wait(30) == 0
    assert line.keys() == {"name", "port"}
    assert line["name"] == "supabase_api"


def test_a_stand_in_listens_where_it_is_told_to_and_on_loopback_by_default() -> None:
    with started("supabase_api") as inside, started("supabase_api", host="0.0.0.0") as outside:
        listening = {one.pid: psutil.Process(one.pid).net_connections("tcp")[0].laddr.ip for one in (inside, outside)}
        assert listening == {inside.pid: "127.0.0.1", outside.pid: "0.0.0.0"}
