"""When a provider is tried again, as pure functions of moments."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.metrics import Setback
from shared.workers import Resource
from worker.providers.retry import MOST_PAUSE_S, SILENT_AGAIN_S, SILENT_S, STEADY_S, Trouble, Watcher, pause_before


def test_the_first_retry_comes_at_once_and_the_pauses_double_to_a_limit() -> None:
    assert [pause_before(tries, 0.5) for tries in range(7)] == [0, 0.25, 0.5, 1, 2, 2, 2]


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_every_pause_is_bounded_and_none_but_the_first_is_missing(tries: int, jitter: float) -> None:
    assert 0.18 < pause_before(tries, jitter) <= 1.25 * MOST_PAUSE_S


def test_a_trouble_begins_once_and_ends_when_the_provider_works() -> None:
    trouble = Trouble(Resource.TTS)
    trouble.setback(Setback.LOST, 10.0, 0.5)
    trouble.setback(Setback.FAILED, 11.0, 0.5)
    assert (trouble.since, trouble.tries) == (10.0, 2)
    trouble.works(12.0)
    assert trouble.since is None


def test_a_failure_that_was_a_wait_began_with_the_question() -> None:
    trouble = Trouble(Resource.LLM)
    trouble.setback(Setback.SILENT, 14.0, 0.5, since=10.0)
    assert trouble.since == 10.0


@pytest.mark.parametrize(("quiet_s", "pause"), [(STEADY_S / 2, 0.25), (STEADY_S + 0.1, 0.0)])
def test_only_a_provider_that_stayed_is_tried_at_once_again(quiet_s: float, pause: float) -> None:
    trouble = Trouble(Resource.STT)
    trouble.setback(Setback.LOST, 10.0, 0.5)
    trouble.works(10.5)
    assert trouble.setback(Setback.LOST, 10.5 + quiet_s, 0.5) == pause


def test_a_refusal_is_not_over_when_something_arrives() -> None:
    trouble = Trouble(Resource.LLM)
    trouble.refuse("no such model", 10.0)
    trouble.works(11.0)
    assert (trouble.since, trouble.refused) == (10.0, "no such model")


def test_patience_is_longer_for_every_try_after_the_first() -> None:
    trouble = Trouble(Resource.LLM)
    assert trouble.patience_s == SILENT_S
    trouble.setback(Setback.SILENT, 10.0, 0.5)
    assert trouble.patience_s == SILENT_AGAIN_S


def test_what_waits_has_waited_since_it_was_first_wanted() -> None:
    told: list[float | None] = []
    trouble = Trouble(Resource.TTS, Watcher(changed=lambda one: told.append(one.wanted_since)))
    trouble.wanted(10.0)
    trouble.wanted(11.0)
    trouble.idle()
    trouble.idle()
    assert told == [10.0, None]


def test_every_retry_is_told_with_its_cause() -> None:
    told: list[tuple[Resource, Setback]] = []
    trouble = Trouble(Resource.STT, Watcher(retried=lambda one, cause: told.append((one.provider, cause))))
    trouble.setback(Setback.LOST, 10.0, 0.5)
    trouble.setback(Setback.LIMITED, 10.1, 0.5)
    trouble.refuse("wrong key", 10.2)
    assert told == [(Resource.STT, Setback.LOST), (Resource.STT, Setback.LIMITED)]
