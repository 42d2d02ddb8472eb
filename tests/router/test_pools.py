import asyncio
import contextlib
import errno
import os
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from router import link, pools
from router.cutoff import Whereabouts
from router.pools import Pools
from shared.calls import CallSid, CallState, EndReason, IncomingCall, TraceId
from shared.messages import PROTOCOL_VERSION, NoWorker, Reserved
from shared.ticket import Ticket
from shared.workers import PoolId, WorkerId
from tests.fakes_pool import FakePool
from tests.powerless import no_entry
from tests.router.harness import soon, until

CALL = IncomingCall(call_sid=CallSid("CA1"), caller="", called="", trace_id=TraceId("t"))


def ticket(pool: str = "p1", boot: str = "b1", attempt: int = 0) -> Ticket:
    return Ticket(CALL.call_sid, attempt, PoolId(pool), boot, WorkerId("0-1"), CALL.trace_id, 2**40)


@contextlib.asynccontextmanager
async def connected(folder: Path) -> AsyncIterator[Pools]:
    made = Pools(folder)
    async with made.connected():
        yield made


def abandon(path: Path, age_s: float) -> None:
    """Leave a socket's file as a killed pool does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(os.fspath(path))
    os.utime(path, (time.time() - age_s,) * 2)


async def test_pools_that_are_there_are_known_before_the_first_request(folder: Path) -> None:
    async with FakePool(folder).serving() as pool, connected(folder) as known:
        assert (known.count, known.ready) == (1, 4)
        assert len(pool.hellos) == 1


async def test_a_pool_that_comes_later_is_found_and_one_that_restarts_is_found_again(folder: Path) -> None:
    async with connected(folder) as known:
        assert known.ready == 0
        pool = FakePool(folder)
        for boot in ("b1", "b2", "b3"):
            pool.boot = boot
            async with pool.serving():
                await until(lambda: known.ready == 4)
                answer = await known.reserve(CALL, 30.0)
                assert isinstance(answer, Reserved)
                assert answer.ticket.boot == boot
                pool.ready = 4
            await until(lambda: known.count == 0)


async def test_a_pool_that_was_killed_and_came_back_under_its_name_is_found(folder: Path) -> None:
    async with FakePool(folder).serving() as pool, connected(folder) as known:
        pool.die()
        await until(lambda: known.count == 0)
        pool.path.unlink(missing_ok=True)
        pool.start()
        await until(lambda: known.count == 1)


async def test_the_folder_may_be_missing_at_first_and_be_replaced(folder: Path) -> None:
    nested = folder / "run"
    async with connected(nested) as known:
        await until(nested.is_dir)
        assert nested.stat().st_mode & 0o777 == 0o700
        nested.rmdir()
        nested.mkdir()
        async with FakePool(nested).serving():
            answer = await known.reserve(CALL, 30.0)
            assert isinstance(answer, Reserved)


async def test_a_socket_a_pool_left_behind_is_removed_unless_it_is_just_being_made(folder: Path) -> None:
    left, newborn = folder / "left.sock", folder / "newborn.sock"
    abandon(left, age_s=60)
    abandon(newborn, age_s=0)
    others = [folder / "other.file", folder / "other.sock"]
    for other in others:
        other.touch()
        os.utime(other, (time.time() - 60,) * 2)
    async with connected(folder):
        assert not left.exists()
        assert newborn.exists()
        os.utime(newborn, (time.time() - 60,) * 2)
        await until(lambda: not newborn.exists())
    assert all(other.exists() for other in others)


async def test_a_socket_of_another_user_is_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakePool(folder).serving() as pool:
        monkeypatch.setattr(os, "geteuid", lambda: 12_345)
        async with connected(folder) as known:
            assert known.count == 0
            assert await known.reserve(CALL, 30.0) is None
            assert not pool.hellos
            (problem,) = known.unusable
            assert problem.detail == f"a pool is not used: p1.sock: belongs to uid {os.getuid()}, not 12345"


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "no"), BlockingIOError(errno.EAGAIN, "full")])
async def test_a_socket_that_cannot_be_reached_is_named_once_and_used_when_it_can(
    folder: Path, error: OSError, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of another user's pool the socket cannot even be connected to, unless one is root."""
    monkeypatch.setattr(pools, "RETRY_S", 0.01)
    tried = []

    def refuse(path: Path) -> socket.socket:
        tried.append(path)
        raise error

    monkeypatch.setattr(pools, "dial", refuse)
    async with FakePool(folder).serving() as pool, connected(folder) as known:
        for _ in range(3):
            assert await known.reserve(CALL, 30.0) is None
        assert len(tried) >= 3
        (problem,) = known.unusable
        assert problem in known.problems
        assert problem.detail.startswith("a pool is not used: p1.sock: ")
        monkeypatch.setattr(pools, "dial", link.dial)
        assert isinstance(await known.reserve(CALL, 30.0), Reserved)
        assert not known.unusable
        pool.die()
    output = capsys.readouterr()
    assert (output.out + output.err).count("pool not used") == 1


async def test_a_socket_of_another_user_is_no_problem_any_more_when_it_is_gone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(folder) as known:
        with monkeypatch.context() as changed:
            changed.setattr(os, "geteuid", lambda: 12_345)
            async with FakePool(folder).serving():
                await until(lambda: bool(known.unusable))
        await until(lambda: not known.unusable)


async def test_a_folder_that_may_not_be_looked_into_any_more_is_a_problem_and_said_once(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with FakePool(folder).serving(), connected(folder) as known:
        with no_entry(folder):
            for _ in range(3):
                known._scan()
            (problem,) = known.unusable
            assert problem.resource == "handoff_dir"
            assert problem.detail.startswith(f"HANDOFF_DIR: {folder}: Permission denied: it belongs to uid ")
            assert known.ready == 4, "those that are connected stay so"
        known._scan()
        assert not known.unusable
    output = capsys.readouterr()
    assert (output.out + output.err).count("cannot watch for pools") == 1


async def test_a_pool_of_another_version_is_named_once_and_not_used(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "RETRY_S", 0.01)
    async with FakePool(folder, version=99).serving() as old, connected(folder) as known:
        for _ in range(3):
            assert await known.reserve(CALL, 30.0) is None
        assert known.count == 0
        assert [hello.version for hello in old.hellos] == [PROTOCOL_VERSION, 99], "once, and once for calls under way"
        (problem,) = known.unusable
        assert problem.detail == (
            f"a pool speaks another version of the control protocol: theirs 99, ours {PROTOCOL_VERSION} (p1)"
        )
        old.die()
        old.path.unlink()
        old.version = PROTOCOL_VERSION
        old.start()
        assert isinstance(await known.reserve(CALL, 30.0), Reserved), "its successor is another pool"
        assert not known.unusable
    output = capsys.readouterr()
    assert (output.out + output.err).count("another version") == 1


async def test_beside_a_pool_of_another_version_the_others_are_used(folder: Path) -> None:
    async with (
        FakePool(folder, version=99).serving(),
        FakePool(folder, name="p2").serving(),
        connected(folder) as known,
    ):
        assert (known.count, known.ready) == (1, 4)
        assert isinstance(await known.reserve(CALL, 30.0), Reserved)
        assert [problem.detail.partition(":")[0] for problem in known.problems] == [
            "a pool speaks another version of the control protocol"
        ]


async def test_a_stream_goes_to_the_pool_of_another_version_that_has_promised_a_worker_to_its_call(
    folder: Path,
) -> None:
    """In an update routers of both versions share a port: the promise is made by one, and the stream comes to the other."""
    old = FakePool(folder, version=99, end=EndReason.CALLER_HANGUP)
    async with old.serving(), FakePool(folder, name="p2").serving() as new, connected(folder) as known:
        await until(lambda: known.whereabouts(ticket()) is Whereabouts.HERE)
        answer = await known.reserve(CALL, 30.0)
        assert isinstance(answer, Reserved)
        assert (answer.ticket.pool, old.reserved) == ("p2", [])
        with socket.socket() as stream:
            assert known.hand_off(ticket(), b"head", stream.fileno(), 0.0) == "p1"
        taken = await soon(old.taken.get())
        assert (taken.message.ticket, taken.message.head) == (ticket(), b"head")
        assert new.taken.empty()
        end = await known.ask_end(ticket())
        assert end is not None
        assert end.reason is EndReason.CALLER_HANGUP
        old.die()
        await until(lambda: known.whereabouts(ticket()) is Whereabouts.GONE)


async def test_a_pool_that_closes_without_a_word_is_met_again_only_now_and_then(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As pools did to routers of another version before both said which."""
    monkeypatch.setattr(pools, "RETRY_S", 0.01)
    monkeypatch.setattr(pools, "WORDLESS_PAUSE_S", 0.2)
    async with wordless(folder / "old.sock") as met, connected(folder) as known:
        await until(lambda: bool(known.unusable))
        assert len(met) == pools.WORDLESS_MOST
        assert known.unusable[0].detail.startswith("a pool closes every connection without a word")
        for _ in range(3):
            assert await known.reserve(CALL, 30.0) is None
        assert len(met) == pools.WORDLESS_MOST
        await until(lambda: len(met) == pools.WORDLESS_MOST + 2)
    output = capsys.readouterr()
    assert (output.out + output.err).count("pool not used") == 1


@contextlib.asynccontextmanager
async def wordless(path: Path) -> AsyncIterator[list[socket.socket]]:
    """Close every connection that is made; give them."""
    met: list[socket.socket] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as listener:

        def accept() -> None:
            met.append(listener.accept()[0])
            met[-1].close()

        listener.bind(os.fspath(path))
        listener.listen(16)
        asyncio.get_running_loop().add_reader(listener.fileno(), accept)
        yield met
        asyncio.get_running_loop().remove_reader(listener.fileno())


async def test_the_pool_with_most_to_spare_is_asked_first_and_questions_under_way_count(folder: Path) -> None:
    small, large = FakePool(folder, name="small", ready=2), FakePool(folder, name="large", ready=3)
    async with small.serving(), large.serving(), connected(folder) as known:
        first = await known.reserve(CALL, 30.0)
        assert isinstance(first, Reserved)
        assert first.ticket.pool == "large"
        answers = await asyncio.gather(*(known.reserve(CALL, 30.0) for _ in range(4)))
        assert all(isinstance(answer, Reserved) for answer in answers)
        assert (small.ready, large.ready) == (0, 0)
        assert not small.refused + large.refused


async def test_when_no_pool_has_a_worker_only_one_counts_the_cold_start(folder: Path) -> None:
    first, second = FakePool(folder, name="a", ready=0), FakePool(folder, name="b", ready=3, draining=True)
    async with first.serving(), second.serving(), connected(folder) as known:
        answer = await known.reserve(CALL, 30.0)
        assert isinstance(answer, NoWorker)
        assert len(first.refused) + len(second.refused) == 1


async def test_who_comes_before_a_call_may_have_the_workers_of_another_pool(folder: Path) -> None:
    one, two = FakePool(folder, name="p1", ready=1), FakePool(folder, name="p2", ready=2)
    async with one.serving(), two.serving(), connected(folder) as known:
        assert known.ready == 3
        assert isinstance(await known.reserve(CALL, 30.0, behind=3), NoWorker)
        assert len(one.refused) + len(two.refused) == 1, "only one counts the cold start"
        assert isinstance(await known.reserve(CALL, 30.0, behind=2), Reserved)
        assert [question.behind for question in two.reserved] == [1], "the other one has a worker for the first"


async def test_a_pool_lost_while_it_is_asked_leaves_the_call_to_the_next(folder: Path) -> None:
    dying, other = FakePool(folder, name="dying", ready=9, silent=True), FakePool(folder, name="other")
    async with dying.serving(), other.serving(), connected(folder) as known:
        reserving = asyncio.create_task(known.reserve(CALL, 30.0))
        await until(lambda: bool(dying.reserved))
        dying.die()
        answer = await soon(reserving)
        assert isinstance(answer, Reserved)
        assert answer.ticket.pool == "other"


async def test_a_pool_that_never_answers_is_given_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "RESERVE_TIMEOUT_S", 0.05)
    async with FakePool(folder, silent=True).serving(), connected(folder) as known:
        assert await soon(known.reserve(CALL, 30.0)) is None


async def test_a_pool_that_is_stuck_is_passed_over_and_asked_last_until_it_speaks(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "PATIENCE_S", 0.05)
    stuck, other = FakePool(folder, name="stuck", ready=9, silent=True), FakePool(folder, name="other", ready=3)
    async with stuck.serving(), other.serving(), connected(folder) as known:
        for _ in range(2):
            answer = await known.reserve(CALL, 30.0)
            assert isinstance(answer, Reserved)
            assert answer.ticket.pool == "other"
        assert len(stuck.reserved) == 1
        stuck.silent = False
        stuck.push(8)
        await until(lambda: known.ready == 9)
        answer = await known.reserve(CALL, 30.0)
        assert isinstance(answer, Reserved)
        assert answer.ticket.pool == "stuck"


async def test_a_pool_that_talks_nonsense_is_dropped(folder: Path) -> None:
    async with FakePool(folder).serving() as pool, connected(folder) as known:
        pool.channels[0]._sock.send(b'{"type":"hello"}')
        await until(lambda: known.count == 0)
        await until(lambda: known.count == 1)


async def test_a_pool_that_takes_over_a_promise_of_another_is_told_who_calls_whom(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "PROMISES_KEPT", 2)
    heir = FakePool(folder, name="p2", ready=1)
    async with FakePool(folder).serving() as owner, heir.serving(), connected(folder) as known:
        await until(lambda: known.count == 2)
        tickets = []
        for number in range(3):
            call = IncomingCall(call_sid=CallSid(f"CA{number}"), caller="+1", called="+2", trace_id=CALL.trace_id)
            answer = await known.reserve(call, 30.0)
            assert isinstance(answer, Reserved)
            assert answer.ticket.pool == "p1"
            tickets.append(answer.ticket)
        owner.die()
        await until(lambda: known.count == 1)
        for promised, who in [(tickets[2], ("CA2", "+1", "+2")), (tickets[2], None), (tickets[0], None)]:
            with socket.socket() as stream:
                assert known.hand_off(promised, b"", stream.fileno(), 0.0) == "p2"
            told = (await soon(heir.taken.get())).message.call
            assert who == (told and (told.call_sid, told.caller, told.called))


async def test_the_end_of_a_call_is_asked_of_its_pool_or_of_all_when_that_is_gone(folder: Path) -> None:
    own = FakePool(folder, name="p1", end=EndReason.AGENT_HANGUP)
    other = FakePool(folder, name="p2", boot="b2", end=EndReason.WORKER_LOST)
    async with own.serving(), other.serving(), connected(folder) as known:
        said = await known.ask_end(ticket())
        assert said is not None
        assert said.reason is EndReason.AGENT_HANGUP
        assert not other.asked
        own.end, own.end_state = None, None
        said = await known.ask_end(ticket(boot="former"))
        assert said is not None
        assert (said.state, said.reason) == (CallState.ENDED, EndReason.WORKER_LOST)


async def test_a_pool_is_here_until_its_socket_refuses_and_elsewhere_when_it_never_was(folder: Path) -> None:
    pool = FakePool(folder)
    async with pool.serving(), connected(folder) as known:
        assert known.whereabouts(ticket()) is Whereabouts.HERE
        assert known.whereabouts(ticket(boot="former")) is Whereabouts.ELSEWHERE
        pool.die()
        await until(lambda: known.count == 0)
        assert known.whereabouts(ticket()) is Whereabouts.GONE
        pool.path.unlink(missing_ok=True)
        assert known.whereabouts(ticket()) is Whereabouts.GONE
        assert known.whereabouts(ticket("p2")) is Whereabouts.ELSEWHERE


async def test_a_pool_that_only_lost_its_connection_is_not_gone(folder: Path) -> None:
    """It may be leaving nobody: a socket that still answers is no proof of death."""
    async with FakePool(folder).serving() as pool, connected(folder) as known:
        pool.channels.pop().close()
        await until(lambda: known.count == 0)
        assert known.whereabouts(ticket()) is Whereabouts.ELSEWHERE
        await until(lambda: known.count == 1)
        assert known.whereabouts(ticket()) is Whereabouts.HERE


async def test_a_pool_that_was_started_again_is_gone_in_its_former_life(folder: Path) -> None:
    pool = FakePool(folder)
    async with pool.serving(), connected(folder) as known:
        pool.die()
        pool.boot = "b2"
        pool.start()
        await until(lambda: known.whereabouts(ticket(boot="b2")) is Whereabouts.HERE)
        assert known.whereabouts(ticket()) is Whereabouts.GONE


async def test_pools_that_were_lost_long_ago_are_forgotten(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "LOST_KEPT", 1)
    first, second = FakePool(folder), FakePool(folder, name="p2", boot="b2")
    async with first.serving(), second.serving(), connected(folder) as known:
        for left, pool in ((1, first), (0, second)):
            pool.die()
            await until(lambda left=left: known.count == left)  # type: ignore[misc]  # a default has no type here
        assert known.whereabouts(ticket()) is Whereabouts.ELSEWHERE
        assert known.whereabouts(ticket("p2", "b2")) is Whereabouts.GONE


async def test_an_end_that_a_pool_has_told_outlives_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "ENDS_KEPT", 1)
    pool = FakePool(folder)
    async with pool.serving(), connected(folder) as known:
        pool.ended(CALL.call_sid, 1, EndReason.CALLER_HANGUP)
        pool.ended(CALL.call_sid, 0, EndReason.AGENT_HANGUP)
        pool.die()
        await until(lambda: known.count == 0)
        said = await known.ask_end(ticket())
        assert said is not None
        assert (said.state, said.reason) == (CallState.ENDED, EndReason.AGENT_HANGUP)
        assert not pool.asked
        assert await known.ask_end(ticket(attempt=1)) is None, "the oldest is forgotten"


async def test_a_promise_that_ran_out_in_another_pool_is_no_end_of_the_call(folder: Path) -> None:
    """The router took the first answer; the slower pool's promise expires while the call goes on."""
    slow = FakePool(folder, name="p2", boot="b2", end=EndReason.NEVER_CONNECTED)
    async with slow.serving(), connected(folder) as known:
        slow.ended(CALL.call_sid, 0, EndReason.NEVER_CONNECTED)
        assert await known.ask_end(ticket()) is None
        assert len(slow.asked) == 1
        own = await known.ask_end(ticket("p2", "b2"))
        assert own is not None
        assert own.reason is EndReason.NEVER_CONNECTED


async def test_only_the_pool_of_the_call_hears_that_nobody_looks_up_its_customer(folder: Path) -> None:
    own, other = FakePool(folder, name="p1"), FakePool(folder, name="p2", boot="b2")
    async with own.serving(), other.serving(), connected(folder) as known:
        known.no_prefetch(ticket("p2", "b2"), "not_queued")
        await until(lambda: bool(other.no_prefetch))
        assert not own.no_prefetch
