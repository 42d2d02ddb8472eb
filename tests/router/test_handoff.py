import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from router.handoff import MAX_HEAD_BYTES, read_head, status_of
from router.twilio import MalformedRequest
from shared.calls import CallSid, TraceId
from shared.metrics import UpgradeRefusal
from shared.ticket import Ticket
from shared.workers import PoolId, WorkerId
from tests.fakes_pool import FakePool, echo
from tests.router.harness import SID, Router, running, signature, soon, until

HEAD = (
    b"GET /media/t HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n"
)


@pytest.fixture
async def pool(folder: Path) -> AsyncIterator[FakePool]:
    async with FakePool(folder).serving() as fake:
        yield fake


@pytest.fixture
async def router(folder: Path, pool: FakePool) -> AsyncIterator[Router]:
    assert pool.path.exists()
    async with running(folder) as started:
        yield started


def ticket(**changes: Any) -> Ticket:
    made = Ticket(
        CallSid(SID), 0, PoolId("p1"), "b1", WorkerId("0-1"), TraceId("0" * 32), expires_at=int(time.time()) + 30
    )
    return Ticket(**{field: getattr(made, field) for field in made.__struct_fields__} | changes)


async def refused(upgrade: connect) -> int:
    """The status an upgrade was refused with."""
    with pytest.raises(InvalidStatus) as info:
        await soon(upgrade)
    assert info.value.response.headers["connection"] == "close"
    return info.value.response.status_code


def holders_of(fd: int) -> int:
    """How many descriptors of this process refer to the socket of this one."""
    name, count = Path(f"/proc/self/fd/{fd}").readlink(), 0
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the one that lists the folder is gone by now
            count += each.readlink() == name
    return count


async def test_an_upgrade_is_handed_to_the_pool_which_speaks_over_the_socket(router: Router, pool: FakePool) -> None:
    before = time.monotonic()
    upgrade = asyncio.ensure_future(soon(router.upgrade(router.office.sign(ticket()))))
    taken = await soon(pool.taken.get())
    assert before <= taken.message.accepted_at <= time.monotonic()
    assert taken.message.ticket == ticket(expires_at=taken.message.ticket.expires_at)
    assert taken.message.head.startswith(b"GET /media/")
    assert b"sec-websocket-key: " in taken.message.head
    served = asyncio.create_task(echo(taken))
    stream = await upgrade
    await stream.send("hello")
    assert await soon(stream.recv()) == "hello"
    assert router.metric("offhook_upgrades_total", result="handed_off") == 1
    await until(lambda: not router.connections)
    assert holders_of(taken.fd) == 2, "the pool's and the worker's, none of the router's"
    await stream.close()
    await soon(served)


async def test_a_stream_outlives_its_router(folder: Path, pool: FakePool) -> None:
    async with running(folder) as router:
        upgrade = asyncio.ensure_future(soon(router.upgrade(router.office.sign(ticket()))))
        served = asyncio.create_task(echo(await soon(pool.taken.get())))
        stream = await upgrade
        await stream.send("before")
        assert await soon(stream.recv()) == "before"
    await stream.send("after")
    assert await soon(stream.recv()) == "after"
    await stream.close()
    await soon(served)


async def test_a_socket_goes_to_another_pool_only_when_the_one_of_its_ticket_is_gone(
    folder: Path, router: Router, pool: FakePool
) -> None:
    async with FakePool(folder, name="p2", boot="b2", ready=9).serving() as other:
        await until(lambda: router.parts.door.pools.count == 2)
        for named, taker in [
            (ticket(), pool),
            (ticket(pool=PoolId("p2"), boot="b2"), other),
            (ticket(boot="former life"), other),
            (ticket(pool=PoolId("p3")), other),
        ]:
            upgrade = asyncio.ensure_future(soon(router.upgrade(router.office.sign(named))))
            served = asyncio.create_task(echo(await soon(taker.taken.get())))
            await (await upgrade).close()
            await soon(served)


async def test_an_upgrade_is_unavailable_without_a_pool(router: Router, pool: FakePool) -> None:
    pool.die()
    await until(lambda: router.parts.door.pools.count == 0)
    assert await refused(router.upgrade(router.office.sign(ticket()))) == 503
    assert router.metric("offhook_requests_refused_total", route="media", reason="no_pool") == 1


async def test_an_upgrade_that_twilio_did_not_sign_is_refused_and_leaves_the_ticket_alone(
    router: Router, pool: FakePool, caplog: pytest.LogCaptureFixture
) -> None:
    segment = router.office.sign(ticket())
    assert await refused(router.upgrade(segment, sign=False)) == 403
    for url in (f"https://voice.example.test/media/{segment}", f"wss://voice.example.test/media/{segment}/"):
        wrong = {"X-Twilio-Signature": signature(url)}
        assert await refused(connect(f"ws://127.0.0.1:{router.port}/media/{segment}", additional_headers=wrong)) == 403
    assert router.metric("offhook_requests_refused_total", route="media", reason="signature") == 3
    assert pool.taken.empty()
    assert segment not in caplog.text
    upgrade = asyncio.ensure_future(soon(router.upgrade(segment)))
    served = asyncio.create_task(echo(await soon(pool.taken.get())))
    await (await upgrade).close()
    await soon(served)


async def test_a_ticket_that_does_not_admit_is_refused_by_name(router: Router, pool: FakePool) -> None:
    good = router.office.sign(ticket())
    content, signature = good.rsplit(".", 1)
    # Not its last character: two bits of that one stand for nothing.
    forged = f"{content}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"
    for segment, reason in [
        (router.office.sign(ticket(expires_at=int(time.time()) - 1)), "expired"),
        (forged, "forged"),
        (good.replace(".", "%2E"), "garbled"),
        (good + "/", "forged"),
        (good + "?x=1", "forged"),
        ("x", "garbled"),
        ("", "garbled"),
        ("a." * 2000, "garbled"),
    ]:
        assert await refused(router.upgrade(segment)) == 403, reason
        assert router.metric("offhook_requests_refused_total", route="media", reason=reason) >= 1, segment
    assert router.metric("offhook_upgrades_total", result="refused") == 8
    assert pool.taken.empty()


async def test_a_head_that_is_no_websocket_upgrade_is_a_bad_request(router: Router, pool: FakePool) -> None:
    for head in [
        HEAD.replace(b"GET", b"POST"),
        HEAD.replace(b"sec-websocket-key", b"x-key"),
        HEAD.replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"short"),
        HEAD.replace(b"version: 13", b"version: 12"),
        HEAD.replace(b"host: x\r\n", b"host: x\r\ncontent-length: 3\r\n"),
        HEAD.replace(b"host: x\r\n", b"host: x\r\ntransfer-encoding: chunked\r\n"),
        HEAD.replace(b"host: x", b"host: x\r\npad: " + b"y" * MAX_HEAD_BYTES),
    ]:
        answer = await router.send(head)
        assert answer.status == 400, head[:200]
    assert pool.taken.empty()


async def test_an_upgrade_of_any_other_path_is_not_ours(router: Router) -> None:
    assert await refused_elsewhere(router, "/console") == 403
    assert await refused_elsewhere(router, "/incoming-call") == 403


async def refused_elsewhere(router: Router, path: str) -> int:
    with pytest.raises(InvalidStatus) as info:
        await soon(connect(f"ws://127.0.0.1:{router.port}{path}"))
    return info.value.response.status_code


async def test_without_validation_a_ticket_is_enough(folder: Path, pool: FakePool) -> None:
    async with running(folder, public_base_url="http://localhost:1", twilio_validate_signatures=False) as router:
        upgrade = asyncio.ensure_future(soon(router.upgrade(router.office.sign(ticket()), sign=False)))
        served = asyncio.create_task(echo(await soon(pool.taken.get())))
        await (await upgrade).close()
        await soon(served)


def test_every_refusal_has_a_status() -> None:
    assert {status_of(refusal).value for refusal in UpgradeRefusal} == {400, 403, 503}


@given(st.binary(max_size=400))
def test_no_head_is_read_otherwise_than_refused(noise: bytes) -> None:
    with pytest.raises(MalformedRequest):
        read_head(noise)


@given(st.integers(0, len(HEAD) - 1), st.binary(min_size=1, max_size=4))
def test_a_damaged_head_is_read_or_refused_but_never_breaks(at: int, noise: bytes) -> None:
    try:
        head = read_head(HEAD[:at] + noise + HEAD[at:])
    except MalformedRequest:
        return
    assert head.headers.getlist("sec-websocket-version") == ["13"]
