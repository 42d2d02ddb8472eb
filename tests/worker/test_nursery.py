"""The nursery when the system gives it nothing: no process, no descriptor. It tries again, or says so."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from shared.agents import Agent, Agents
from tests.fuzz.pool_rig import Rig
from worker.pool import nursery
from worker.pool.plan import MOST_BACKOFF_S
from worker.pool.troubles import Trouble

if TYPE_CHECKING:
    from collections.abc import Iterator

REFUSAL = OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
CANNOT = f"it cannot be started: {os.strerror(errno.EAGAIN)}"


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    assert made.close() == set()


@contextlib.contextmanager
def no_processes() -> Iterator[mock.Mock]:
    """Have the system refuse to start a zygote."""
    with mock.patch.object(nursery, "Generation", side_effect=REFUSAL) as refused:
        yield refused


def problems(rig: Rig) -> list[str]:
    """List what is wrong in the pool's eyes."""
    return [f"{each.resource}: {each.detail}" for each in rig.pool._troubles.present()]


def test_a_zygote_that_cannot_be_started_is_tried_again_until_it_can(rig: Rig) -> None:
    with no_processes() as refused:
        rig.zygote_dies()
        for _ in range(3):
            rig.advance(2 * MOST_BACKOFF_S)
        assert refused.call_count >= 3
        assert problems(rig) == [f"zygote: {CANNOT}"]
    former = rig.zygote
    rig.advance(2 * MOST_BACKOFF_S)
    assert rig.zygote is not former
    rig.zygote_alive()
    assert rig.pool._nursery.open


def test_a_change_for_which_no_zygote_can_be_started_is_refused_and_the_former_one_stays(rig: Rig) -> None:
    before = rig.zygote
    with no_processes():
        trouble = rig.loop.run_until_complete(rig.pool._nursery.renew(Agents(default=Agent())))
    assert trouble == Trouble("zygote", CANNOT, "")
    assert rig.zygote is before
    assert rig.pool._nursery.open
    rig.change(good=True)


def test_a_worker_without_a_channel_is_given_up_and_another_comes_later(rig: Rig) -> None:
    ready = len(rig.players)
    with mock.patch.object(socket, "socketpair", side_effect=REFUSAL):
        rig.do(rig.pool._nursery.spawn)
    assert len(rig.pool._roster) == ready
    assert problems(rig) == [f"zygote: no channel to it can be made: {os.strerror(errno.EAGAIN)}"]
