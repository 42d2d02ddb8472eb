from router.admission import Announcement, Answer, TurnedAway, at_end, at_webhook, is_over
from router.cutoff import CutOff, Doubt, Over, Unclear
from shared.agents import Agent
from shared.calls import CallSid, EndReason, TraceId
from shared.messages import NoWorker, Reserved
from shared.ticket import Ticket
from shared.workers import PoolId, WorkerId

TICKET = Ticket(CallSid("CA1"), 0, PoolId("p"), "b", WorkerId("0-1"), TraceId("t"), 1)


def announced(token: str = "", sid: str = "CA1", attempt: int = 0) -> Announcement:
    return Announcement(CallSid(sid), attempt, token)


def test_a_promised_worker_is_taken_and_no_worker_turns_away_with_its_reason() -> None:
    reserved = Reserved(request=1, ticket=TICKET, agent=Agent())
    assert at_webhook(reserved) is reserved
    assert at_webhook(NoWorker(request=1, why="draining")) == TurnedAway("draining")
    assert at_webhook(None) == TurnedAway("no_pool")


def test_the_same_call_and_attempt_is_a_repeat_unless_the_tokens_differ() -> None:
    assert announced("a").repeats(announced("a"))
    assert announced("a").repeats(announced())
    assert announced().repeats(announced("a"))
    assert announced().repeats(announced())
    assert not announced("a").repeats(announced("b"))
    assert not announced("a").repeats(announced("a", sid="CA2"))
    assert not announced().repeats(announced(attempt=1))


def test_only_our_losses_and_the_unknown_need_an_apology() -> None:
    sorry = {reason for reason in EndReason if at_end(Over(reason, dial="+15550001111")) is Answer.APOLOGY}
    assert sorry == {EndReason.WORKER_LOST, EndReason.POISONED, EndReason.PROVIDER_LOST}
    assert {at_end(Unclear(doubt)) for doubt in Doubt} == {Answer.APOLOGY}


def test_only_a_transfer_dials_and_only_a_number() -> None:
    """Without one the caller was promised somebody who does not come: that is no time to hang up without a word."""
    dialled = {reason for reason in EndReason if at_end(Over(reason, dial="+15550001111")) is Answer.TRANSFER}
    assert dialled == {EndReason.TRANSFERRED}
    for number in ("", "555", "sip:a@b", "+15550001111<"):
        assert at_end(Over(EndReason.TRANSFERRED, dial=number)) is Answer.APOLOGY


def test_only_a_cut_off_reconnects() -> None:
    assert at_end(CutOff()) is Answer.RECONNECT
    assert Answer.RECONNECT not in {at_end(Over(reason)) for reason in EndReason}


def test_a_call_is_over_by_its_status() -> None:
    assert is_over("completed")
    assert not is_over("in-progress")
    assert not is_over("")
