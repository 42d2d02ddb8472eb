"""The installation that `docker compose up` makes, judged by callers outside of it while its parts are stopped and replaced.

The tests share one installation and leave it as they found it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import urllib.parse
from typing import TYPE_CHECKING, Any, Final

from tests.containers.site import ROOT, until
from tests.stack import fetch
from tests.system.talk import ask, greeted, recording

if TYPE_CHECKING:
    from tests.containers.site import Site
    from tests.standins.carrier import Carrier
    from tests.standins.carrier_call import Call

READY: Final = 2  # of each pool, see compose.test.yaml


async def called(carrier: Carrier) -> Call:
    """Place a call and wait until the agent has greeted and answered a question."""
    call = await carrier.dial()
    await greeted(call)
    await ask(call, "what-time", "It", "UTC.")
    return call


async def goes_on(call: Call) -> None:
    """Ask again, and say goodbye on the stream the call began with."""
    await ask(call, "what-time", "It", "UTC.")
    await call.say(recording("goodbye"))
    record = await call.ended()
    assert record.ended_by == "twiml"
    assert len(call.streams) == 1
    assert "Goodbye." in call.heard.text()


async def test_a_call_from_outside_is_a_conversation(site: Site) -> None:
    async with site.carrier() as carrier:
        await goes_on(await called(carrier))


def test_everything_is_healthy_and_nothing_was_restarted(site: Site) -> None:
    for service in ("redis", "router", "worker", "prefetcher", "prometheus", "standins"):
        (container,) = site.ids(service)
        assert site.inspect(container, "{{.State.Health.Status}} {{.RestartCount}}") == "healthy 0", service


def test_only_the_router_is_published(site: Site) -> None:
    """What is inside is reached from inside: Redis has no password, and metrics are open to whoever reaches them."""
    published: dict[str, Any] = {}
    for container in site.compose("ps", "-q").split():
        name = site.inspect(container, '{{index .Config.Labels "com.docker.compose.service"}}')
        ports = json.loads(site.inspect(container, "{{json .HostConfig.PortBindings}}")) or {}
        published |= {name: ports} if ports else {}
    assert list(published) == ["net"]
    assert list(published["net"]) == ["8080/tcp"]


def test_our_containers_are_sealed(site: Site) -> None:
    for service in ("router", "worker", "prefetcher", "redis", "prometheus"):
        (container,) = site.ids(service)
        host = json.loads(site.inspect(container, "{{json .HostConfig}}"))
        assert host["ReadonlyRootfs"], service
        assert host["CapDrop"] == ["ALL"], service
        assert host["SecurityOpt"] == ["no-new-privileges:true"], service
        assert host["RestartPolicy"]["Name"] == "unless-stopped", service
        assert host["Memory"] > 0, service


async def test_more_pools_are_found_by_the_router_and_by_prometheus(site: Site) -> None:
    site.compose("up", "--detach", "--no-deps", "--no-recreate", "--no-build", "--scale", "worker=2", "worker")
    try:
        await until(lambda: site.ready() == 2 * READY, "two pools are ready")
        await until(lambda: len(targets(site, "offhook-pool")) == 2, "Prometheus finds both pools")
        await until(lambda: value(site, 'sum(offhook_workers{state="ready"})') == 2 * READY, "and counts their workers")
    finally:
        site.compose("up", "--detach", "--no-deps", "--no-recreate", "--no-build", "--scale", "worker=1", "worker")
    await until(lambda: site.ready() == READY, "one pool is left")


async def test_prometheus_scrapes_every_process(site: Site) -> None:
    jobs = {"offhook-router", "offhook-pool", "offhook-prefetcher", "redis", "prometheus"}
    await until(lambda: jobs <= {job for job in jobs if "up" in targets(site, job)}, "all targets are up")


async def test_a_call_goes_on_when_the_process_that_serves_it_is_killed_and_somebody_is_told(site: Site) -> None:
    """The caller notices nothing; whoever runs it gets an alert."""
    async with site.carrier() as carrier:
        call = await called(carrier)
        container, pid = await until(lambda: site.serving(call.call_sid), "the call is served")
        await asyncio.to_thread(site.python, container, f"import os; os.kill({pid}, 9)")
        await goes_on(call)
    await until(lambda: "OffhookFailovers" in alerts(site), "the alert is raised")


async def test_a_call_goes_on_when_the_router_is_killed_and_made_anew(site: Site) -> None:
    """Its socket belongs to the network of `net`, which stays."""
    async with site.carrier() as carrier:
        call = await called(carrier)
        await asyncio.to_thread(site.compose, "kill", "--signal", "KILL", "router")
        await ask(call, "what-time", "It", "UTC.")
        # beside this loop, which is the carrier's: a stream on which nothing comes is over after 10 s
        up = ("up", "--detach", "--no-deps", "--no-build", "--force-recreate", "--wait", "router")
        await asyncio.to_thread(site.compose, *up)
        await goes_on(call)
        await goes_on(await called(carrier))


async def test_an_update_replaces_everything_and_drops_no_call(site: Site) -> None:
    """The call stays with the pool that has it, which ends when the call does; new calls are for the new one."""
    before = {service: site.ids(service) for service in ("router", "worker", "prefetcher", "net", "redis")}
    async with site.carrier() as carrier:
        call = await called(carrier)
        update = await updating(site)
        said = asyncio.create_task(update.communicate())
        answered = 0
        while not await asyncio.to_thread(_replaced, site, before["router"]):  # somebody calls all the while
            await goes_on(await called(carrier))
            await ask(call, "what-time", "It", "UTC.")  # who says nothing for 40 s is told goodbye
            answered += 1
            assert update.returncode is None, (await said)[0].decode()
        assert answered
        newcomer = await called(carrier)
        container, _ = await until(lambda: site.serving(newcomer.call_sid), "the new call is served")
        assert container not in before["worker"]
        await goes_on(newcomer)
        await goes_on(call)
        out, _ = await said
    assert update.returncode == 0, out.decode()
    for service in ("router", "worker", "prefetcher"):
        now = site.ids(service)
        assert len(now) == 1, service
        assert now != before[service], service
    assert (site.ids("net"), site.ids("redis")) == (before["net"], before["redis"])
    assert site.ready() == READY


async def test_an_update_that_is_interrupted_takes_back_what_it_has_begun(site: Site) -> None:
    before = {service: site.ids(service) for service in ("router", "worker", "prefetcher")}
    update = await updating(site)
    await until(lambda: len(site.ids("worker")) == 2, "the new worker's container is there")
    update.send_signal(signal.SIGTERM)
    out, _ = await update.communicate()
    assert update.returncode == 1, out.decode()
    assert "everything is as before" in out.decode()
    # what had begun to answer is not killed but drained
    await until(lambda: {service: site.ids(service) for service in before} == before, "nothing is left of the update")
    async with site.carrier() as carrier:
        await goes_on(await called(carrier))


async def updating(site: Site) -> asyncio.subprocess.Process:
    """Start an update, as an operator does at a terminal."""
    return await asyncio.create_subprocess_exec(
        str(ROOT / "deploy" / "update.sh"), "--no-build",
        env={**os.environ, **site.engine.environment, **site.env},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, process_group=0,
    )  # fmt: skip


def _replaced(site: Site, old: list[str]) -> bool:
    return bool(site.ids("router")) and not set(old) & set(site.ids("router"))


def asked(site: Site, path: str) -> Any:
    """Ask Prometheus."""
    return json.loads(fetch(f"http://{site.address('prometheus')}:9090/api/v1/{path}"))["data"]


def targets(site: Site, job: str) -> list[str]:
    """Give the health of each target of a job."""
    return [each["health"] for each in asked(site, "targets")["activeTargets"] if each["labels"]["job"] == job]


def value(site: Site, expression: str) -> float | None:
    """Give the value of an expression that has one."""
    result = asked(site, "query?" + urllib.parse.urlencode({"query": expression}))["result"]
    return float(result[0]["value"][1]) if result else None


def alerts(site: Site) -> set[str]:
    """Name the alerts that fire."""
    return {each["labels"]["alertname"] for each in asked(site, "alerts")["alerts"] if each["state"] == "firing"}
