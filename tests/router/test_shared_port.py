"""Routers that share their ports, so that one can be replaced without a gap, and each answers for itself at its own socket."""

import asyncio
import signal
import socket
import sys
from pathlib import Path

import pytest

from router.serving import listen, listen_at
from shared.errors import SettingsError
from tests.fakes_pool import FakePool
from tests.router.harness import soon
from tests.router.test_main import call, line_of, running, start
from tests.stack import free_ports


async def checked(path: Path) -> tuple[int, str]:
    """Run the health check of the image on a router's own socket."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "shared.healthcheck", f"unix:{path}:/readyz", stdout=asyncio.subprocess.PIPE
    )
    out, _ = await soon(process.communicate())
    assert process.returncode is not None
    return process.returncode, out.decode()


async def test_a_router_is_replaced_while_somebody_calls_all_the_time(folder: Path, tmp_path: Path) -> None:
    """Every webhook is answered: by the old router until it leaves, by the new one from the moment it listens."""
    port = str(free_ports(1)[0])
    old, new = tmp_path / "old.sock", tmp_path / "new.sock"
    answers: list[bytes] = []
    async with (
        FakePool(folder).serving(),
        running(folder, ROUTER_PORT=port, ROUTER_HEALTH_SOCKET=str(old)) as (first, _),
    ):

        async def calling() -> None:
            while True:
                answers.append(await call(int(port)))

        task = asyncio.create_task(calling())
        async with running(folder, ROUTER_PORT=port, ROUTER_HEALTH_SOCKET=str(new)) as (second, _):
            await line_of(second, "pool connected")
            # each call is a line, and a full pipe would stop them
            pipes = [each.stdout for each in (first, second) if each.stdout is not None]
            reading = [asyncio.create_task(pipe.read()) for pipe in pipes]
            first.send_signal(signal.SIGTERM)
            assert await soon(first.wait()) == 0
            seen = len(answers)
            while len(answers) < seen + 5:
                await asyncio.sleep(0)
                assert not task.done(), task.exception()
            task.cancel()
            for each in reading:
                each.cancel()
            await asyncio.wait([task, *reading])
    assert {answer.partition(b"\r\n")[0] for answer in answers} == {b"HTTP/1.1 200 OK"}


async def test_each_answers_for_itself_and_not_for_the_one_beside_it(folder: Path, tmp_path: Path) -> None:
    port = str(free_ports(1)[0])
    old, new = tmp_path / "old.sock", tmp_path / "new.sock"
    elsewhere = tmp_path / "elsewhere"
    async with (
        FakePool(folder).serving(),
        running(folder, ROUTER_PORT=port, ROUTER_HEALTH_SOCKET=str(old)) as (first, _),
        running(folder, ROUTER_PORT=port, ROUTER_HEALTH_SOCKET=str(new), HANDOFF_DIR=str(elsewhere)),
    ):
        await line_of(first, "pool connected")
        assert await checked(old) == (0, "")
        status, words = await checked(new)
        assert (status, words) == (1, f"unix:{new}:/readyz: 503: no pool is connected\n")


async def test_without_a_socket_of_its_own_no_router_takes_the_port_of_another(folder: Path, tmp_path: Path) -> None:
    async with running(folder) as (_, port):
        for changes in ({}, {"ROUTER_HEALTH_SOCKET": str(tmp_path / "health.sock")}):
            other = await start(folder, ROUTER_PORT=str(port), **changes)
            _, said = await soon(other.communicate())
            assert (other.returncode, said.decode()) == (
                2,
                f"offhook: ROUTER_PORT: cannot listen on 127.0.0.1:{port}: Address already in use\n",
            )


def test_a_socket_that_was_left_behind_is_removed_and_a_place_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    path = tmp_path / "health.sock"
    listen_at(path).close()
    with listen_at(path) as sock, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        assert (path.stat().st_mode & 0o777, sock.getsockname()) == (0o600, str(path))
    with pytest.raises(
        SettingsError, match=r"^ROUTER_HEALTH_SOCKET: .*missing/health\.sock: No such file or directory$"
    ):
        listen_at(tmp_path / "missing" / "health.sock")


def test_only_shared_ports_are_shared() -> None:
    with listen("127.0.0.1", 0, shared=True) as sock:
        port = sock.getsockname()[1]
        listen("127.0.0.1", port, shared=True).close()
        with pytest.raises(SettingsError, match="ROUTER_PORT: cannot listen"):
            listen("127.0.0.1", port)


@pytest.mark.parametrize("url", ["unix:/tmp/x.sock", "unix::/readyz", "unix:/tmp/x.sock:readyz"])
async def test_what_is_no_socket_and_page_is_said(url: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "shared.healthcheck", url, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await soon(process.communicate())
    assert (process.returncode, out.decode()) == (1, f"{url}: is not of the form unix:/path/of/socket:/page\n")
