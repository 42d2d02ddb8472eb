"""Providers in trouble from the caller's side: the rule as a pure function, and who is told what."""

import time

from shared.metrics import Setback
from shared.workers import Resource
from tests.pool_process import eventually
from worker.call.trouble import BRIDGE_S, GIVE_UP_S, CallSide, Due, Step, Troubles, next_step
from worker.providers.retry import Trouble

TTS = Resource.TTS


def trouble(since: float | None, wanted: float | None, provider: Resource = TTS) -> Trouble:
    made = Trouble(provider)
    if since is not None:
        made.setback(Setback.LOST, since, 0.5)
    if wanted is not None:
        made.wanted(wanted)
    return made


def due(*troubles: Trouble, bridged: bool = False, plays_until: float = 0.0) -> Due | None:
    return next_step(troubles, bridged=bridged, plays_until=plays_until)


def test_nothing_is_due_while_everything_works_or_nobody_waits() -> None:
    assert due(trouble(None, 10.0)) is None
    assert due(trouble(10.0, None)) is None
    assert due() is None


def test_who_waits_hears_bridging_words_and_then_the_end() -> None:
    waiting = trouble(10.0, 4.0)
    assert due(waiting) == Due(10.0 + BRIDGE_S, Step.BRIDGE, TTS)
    assert due(waiting, bridged=True) == Due(10.0 + GIVE_UP_S, Step.GIVE_UP, TTS)


def test_the_wait_begins_with_what_is_wanted_of_a_provider_that_was_away_before() -> None:
    assert due(trouble(10.0, 100.0)) == Due(100.0 + BRIDGE_S, Step.BRIDGE, TTS)


def test_nothing_is_done_before_the_caller_has_heard_what_was_written() -> None:
    assert due(trouble(10.0, 10.0), plays_until=13.5) == Due(13.5, Step.BRIDGE, TTS)
    assert due(trouble(10.0, 10.0), bridged=True, plays_until=21.5) == Due(21.5, Step.GIVE_UP, TTS)


def test_a_refusal_ends_the_call_at_once() -> None:
    refused = Trouble(Resource.LLM)
    refused.refuse("no such model", 10.0)
    assert due(refused, trouble(5.0, 9.0)) == Due(10.0, Step.GIVE_UP, Resource.LLM)


class Side:
    """A call that notes what it is told."""

    def __init__(self, troubles: Troubles) -> None:
        self.said: list[str] = []
        troubles.attach(
            CallSide(
                bridge=lambda: self.said.append("bridge"),
                give_up=lambda: self.said.append("give up"),
                retried=lambda provider, cause: self.said.append(f"{provider} {cause}"),
                plays_until=lambda: 0.0,
            )
        )


def waits(troubles: Troubles) -> bool:
    """Say whether something will be due."""
    return troubles._timer is not None


async def test_one_trouble_is_bridged_once_and_a_later_one_again() -> None:
    troubles = Troubles()
    voice, ear, side = troubles.of(Resource.TTS), troubles.of(Resource.STT), Side(troubles)
    long_ago = time.monotonic() - BRIDGE_S
    for one in (voice, ear):
        one.wanted(long_ago)
    for _ in range(2):
        voice.setback(Setback.LOST, time.monotonic(), 0.5, long_ago)
        ear.setback(Setback.LOST, time.monotonic(), 0.5, long_ago)
        voice.works(time.monotonic())
        ear.works(time.monotonic())
    assert side.said == ["tts lost", "bridge", "stt lost", "tts lost", "bridge", "stt lost"]


async def test_a_trouble_that_ends_in_time_leads_to_nothing() -> None:
    troubles = Troubles()
    voice, side = troubles.of(Resource.TTS), Side(troubles)
    voice.wanted(time.monotonic())
    voice.setback(Setback.LOST, time.monotonic(), 0.5)
    assert waits(troubles)
    voice.works(time.monotonic())
    assert not waits(troubles)
    assert side.said == ["tts lost"]


async def test_the_end_comes_by_itself_and_once() -> None:
    troubles = Troubles()
    mind, side = troubles.of(Resource.LLM), Side(troubles)
    mind.wanted(0.0)
    mind.setback(Setback.SILENT, time.monotonic(), 0.5, time.monotonic() - GIVE_UP_S + 0.05)
    await eventually(lambda: "give up" in side.said)
    mind.setback(Setback.SILENT, time.monotonic(), 0.5)
    assert side.said == ["llm silent", "bridge", "give up", "llm silent"]


async def test_a_voice_that_the_caller_does_not_hear_is_no_trouble_of_the_call() -> None:
    troubles = Troubles()
    heard, side = troubles.of(Resource.TTS), Side(troubles)
    other = troubles.of(Resource.TTS)
    troubles.watch(heard)
    other.refuse("401", time.monotonic())
    other.setback(Setback.LOST, time.monotonic(), 0.5)
    assert side.said == []
    troubles.watch(other)
    assert side.said == ["give up"]
