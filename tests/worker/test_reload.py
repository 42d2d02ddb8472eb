"""Hot change, by a pool with real processes: what is new is served next, what is wrong is refused, calls notice nothing."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry

from shared.metrics import PoolMetrics
from shared.settings import Settings
from tests.fake_child import Script
from tests.pool_process import eventually, eventually_asked, lives, new_sid, running_pool
from worker.pool import reload as module
from worker.pool.troubles import Troubles

if TYPE_CHECKING:
    from pathlib import Path

    from tests.pool_process import PoolProcess, Router

NUMBER = "+15550002222"


class Files:
    """The agents file of a pool, written as an editor does: beside the old one, and renamed."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "agents.toml"
        self.name("first")

    def write(self, content: str) -> None:
        """Replace the file."""
        fresh = self.path.with_suffix(".new")
        fresh.write_text(content, encoding="utf-8")
        fresh.replace(self.path)

    def name(self, agent: str) -> None:
        """Have an agent of this name take the number that the tests call."""
        self.write(f'[agents.{agent}]\nnumbers = ["{NUMBER}"]\n')

    @property
    def settings(self) -> dict[str, str]:
        """The pool's."""
        return {"AGENTS_FILE": str(self.path)}


async def reloads(pool: PoolProcess, outcome: str, count: int = 1) -> None:
    """Wait until so many changes came to this."""

    async def counted() -> bool:
        return await pool.metric("offhook_reloads_total", outcome=outcome) >= count

    await eventually_asked(counted)


async def renewed(pool: PoolProcess, ready: int, talking: int = 0) -> set[int]:
    """Wait until nobody is of a former generation, but for one who has a call; give the processes of the others."""
    takes_over = [index for index, line in enumerate(pool.lines) if line["event"] == "zygote takes over"][-1]

    def look() -> set[int]:
        young = {line["worker"] for line in pool.lines[takes_over:] if line["event"] == "parked"}
        alive = {worker: pid for worker, pid in pool.workers().items() if pid != talking}
        return set(alive.values()) if alive.keys() <= young and len(alive) == ready else set()

    return await eventually(look)


async def agent_of(router: Router) -> str:
    """Place a call, ask the worker which agent it is served with, and end it."""
    await router.until(lambda: router.readiness[-1].ready)
    promised = await router.reserved(new_sid())
    async with router.upgrade(promised.ticket) as stream:
        await stream.send("agent")
        name = str(await stream.recv())
        assert name == promised.agent.name
        await stream.send("end agent_hangup")
        await stream.wait_closed()
    return name


async def readyz(pool: PoolProcess) -> tuple[int, Any]:
    """Ask the pool how it is."""
    status, text = await pool.get("/readyz")
    return status, json.loads(text)


async def readyz_problems(pool: PoolProcess) -> list[str]:
    """Give what is wrong in the pool's eyes."""
    _, said = await readyz(pool)
    return [each["detail"] for each in said["problems"] if each["resource"] == "reload"]


async def test_a_change_is_for_the_next_call_and_the_present_one_notices_nothing(tmp_path: Path) -> None:
    """Parked workers are replaced one by one, never with fewer ready; the former zygote stays until its last call is over."""
    files = Files(tmp_path)
    async with running_pool(tmp_path, ready=2, settings=files.settings) as pool:
        router = await pool.router()
        await router.ready(2)
        told = len(router.readiness)
        promised = await router.reserved(new_sid())
        async with router.upgrade(promised.ticket) as stream:
            await stream.send("who")
            served_by = await stream.recv()
            await router.until(lambda: any(each.ready == 1 for each in router.readiness[told:]))
            await router.until(lambda: router.readiness[-1].ready == 2)
            before, former = set(pool.workers().values()), pool.zygote
            quiet = len(router.readiness)

            files.name("second")
            await reloads(pool, "done")
            talking = int(str(served_by).split()[1])
            parked = await renewed(pool, 2, talking)
            assert not parked & before
            assert min(each.ready for each in router.readiness[quiet:]) >= 2, "never fewer than before"

            assert await agent_of(router) == "second"
            await stream.send("agent")
            assert await stream.recv() == "first"
            await stream.send("who")
            assert await stream.recv() == served_by
            assert lives(former)
            assert pool.zygote != former
            await stream.send("end agent_hangup")
            await stream.wait_closed()
        await eventually(lambda: not lives(former))
        assert await readyz_problems(pool) == []


async def test_a_change_with_mistakes_is_refused_in_lines_that_name_them_until_a_good_one_comes(tmp_path: Path) -> None:
    files = Files(tmp_path)
    async with running_pool(tmp_path, ready=1, settings=files.settings) as pool:
        router = await pool.router()
        await router.ready(1)
        workers = pool.workers()
        files.write('[agents.second]\nnumbers = ["555"]\ntimezone = "Mars"\ngreeting_clip = "none-such"\n')
        await reloads(pool, "refused")
        status, said = await readyz(pool)
        assert (status, said["ready"]) == (200, 1), "calls are answered as before"
        problems = await readyz_problems(pool)
        assert [words in line for words, line in zip(("'555'", "'Mars'"), problems, strict=True)] == [True, True]
        logged = [line["problem"] for line in pool.lines if line["event"] == "change refused"]
        assert logged == problems
        assert pool.workers() == workers
        assert await agent_of(router) == "first"

        files.write(f'[agents.third]\nnumbers = ["{NUMBER}"]\ngreeting_clip = "none-such"\n')
        await reloads(pool, "refused", 2)
        (problem,) = await readyz_problems(pool)
        assert "agent third: greeting_clip" in problem

        files.name("fourth")
        await reloads(pool, "done")
        assert await readyz_problems(pool) == []
        await renewed(pool, 1)
        assert await agent_of(router) == "fourth"


async def test_a_change_that_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    """As a broken tool with `TOOLS_STRICT`: the new zygote cannot load, the former one goes on forking."""
    files = Files(tmp_path)
    async with running_pool(tmp_path, ready=1, settings=files.settings) as pool:
        router = await pool.router()
        await router.ready(1)
        former = pool.zygote
        for times, said in enumerate((Script(load_fails="tools"), Script(second_thread=True)), start=1):
            pool.tell(said)
            pool.process.send_signal(signal.SIGHUP)
            await reloads(pool, "refused", times)
            await eventually(lambda: not lives(pool.zygote))
            pool.tell(Script())
            assert await agent_of(router) == "first"
            await router.ready(1)
        assert "has 2 threads" in (await readyz_problems(pool))[0]
        assert lives(former)
        pool.process.send_signal(signal.SIGHUP)
        await reloads(pool, "done")
        await eventually(lambda: not lives(former))
        assert await readyz_problems(pool) == []


async def test_who_books_without_a_time_zone_is_named_until_there_is_one_and_answers_calls_as_before(
    tmp_path: Path,
) -> None:
    files = Files(tmp_path)
    database = {"SUPABASE_URL": "http://127.0.0.1:9", "SUPABASE_SECRET_KEY": "sb_secret_of_the_test"}
    async with running_pool(tmp_path, ready=1, settings=files.settings | database) as pool:

        async def problems() -> list[str]:
            _, said = await readyz(pool)
            return [each["detail"] for each in said["problems"] if each["resource"] == "agents"]

        router = await pool.router()
        await router.ready(1)
        default, first = await problems()
        assert default.startswith("agent default: timezone: there is none, so it books in UTC")
        assert first.startswith("agent first: timezone: ")
        assert (await readyz(pool))[0] == 200
        (line,) = [line for line in pool.lines if line["event"] == "agents book without a time zone"]
        assert (line["level"], line["problems"]) == ("warning", [default, first])
        placed = f'[agents.first]\nnumbers = ["{NUMBER}"]\ntimezone = "America/Sao_Paulo"\n'
        files.write(placed)
        await reloads(pool, "done")
        assert await problems() == [default]
        files.write(f'{placed}[agents.default]\ntools = ["end_call"]\n')
        await reloads(pool, "done", 2)
        assert await problems() == []


async def test_without_a_database_nobody_books_and_no_time_zone_is_missed(tmp_path: Path) -> None:
    async with running_pool(tmp_path, ready=1) as pool:
        assert (await readyz(pool))[1]["problems"] == []
        assert not [line for line in pool.lines if line["event"] == "agents book without a time zone"]


async def test_of_changes_that_come_quickly_the_last_one_counts(tmp_path: Path) -> None:
    files = Files(tmp_path)
    async with running_pool(tmp_path, ready=1, settings=files.settings) as pool:
        router = await pool.router()
        await router.ready(1)
        for number in range(20):
            files.name(f"number{number}")
            pool.process.send_signal(signal.SIGHUP)
            await asyncio.sleep(0.02)  # they come at any time, not to wait for anything

        async def last() -> bool:
            return await agent_of(router) == "number19"

        await eventually_asked(last)
        assert await pool.metric("offhook_reloads_total", outcome="done") < 20
        zygotes = [int(line["pid"]) for line in pool.lines if line["event"] == "zygote started"]
        await eventually(lambda: sum(map(lives, zygotes)) == 1)


async def test_a_pool_without_room_changes_too(tmp_path: Path) -> None:
    """A worker leaves first then, as at any recycling of a full pool; one is always left to answer."""
    files = Files(tmp_path)
    async with running_pool(tmp_path, ready=2, settings=files.settings | {"POOL_MAX": "2"}) as pool:
        router = await pool.router()
        await router.ready(2)
        quiet = len(router.readiness)
        files.name("second")
        await reloads(pool, "done")
        await renewed(pool, 2)
        assert min(each.ready for each in router.readiness[quiet:]) >= 1
        assert await agent_of(router) == "second"


async def test_a_zygote_that_dies_after_a_change_is_replaced_with_the_change(tmp_path: Path) -> None:
    files = Files(tmp_path)
    async with running_pool(tmp_path, ready=1, settings=files.settings) as pool:
        router = await pool.router()
        await router.ready(1)
        promised = await router.reserved(new_sid())
        async with router.upgrade(promised.ticket) as stream:
            await stream.send("agent")
            assert await stream.recv() == "first"
            former = pool.zygote
            files.name("second")
            await reloads(pool, "done")
            for zygote in (former, pool.zygote):
                os.kill(zygote, signal.SIGKILL)
            await eventually(lambda: not lives(former) and lives(pool.zygote))

            async def second() -> bool:
                return await agent_of(router) == "second"

            await eventually_asked(second)
            await stream.send("agent")
            assert await stream.recv() == "first", "a call does not need the zygote its worker came from"
        assert sum(line["event"] == "zygote is gone, starting another" for line in pool.lines) == 1


async def test_a_pool_that_drains_takes_no_change(tmp_path: Path) -> None:
    files = Files(tmp_path)
    settings = files.settings | {"DRAIN_TIMEOUT": "600"}
    async with running_pool(tmp_path, ready=1, settings=settings) as pool:
        router = await pool.router()
        await router.ready(1)
        promised = await router.reserved(new_sid())
        async with router.upgrade(promised.ticket) as stream:
            await stream.send("agent")
            assert await stream.recv() == "first"
            pool.process.send_signal(signal.SIGTERM)
            await router.until(lambda: router.readiness[-1].draining)
            zygote = pool.zygote
            files.name("second")
            pool.process.send_signal(signal.SIGHUP)
            await stream.send("agent")
            assert await stream.recv() == "first"
            assert pool.zygote == zygote
            await stream.send("end agent_hangup")
            await stream.wait_closed()


async def test_a_change_that_cannot_be_read_for_want_of_descriptors_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Settings) -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(module, "check", full)
    troubles = Troubles()
    nobody: Any = None
    reload = module.Reload(
        Settings(_env_file=None), nobody, troubles, PoolMetrics(CollectorRegistry(), 1), lambda _: None
    )
    await reload._attempt()
    assert [each.detail for each in troubles.standing()] == ["cannot be read: [Errno 24] Too many open files"]
