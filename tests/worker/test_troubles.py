"""What is wrong but in nobody's way: shown, never the reason of a refusal to serve, and gone when something else is noted."""

from shared import logs
from shared.messages import Problem, Readiness
from worker.pool.http import Health
from worker.pool.troubles import MAX_DETAIL, Troubles

BROKEN = Problem(resource="custom_tools", detail="gate.py:7: SyntaxError")


def test_what_stands_outlives_a_ready_worker_and_causes_no_pause() -> None:
    troubles = Troubles()
    troubles.stand("loaded", [BROKEN])
    troubles.note("tts", "refused", "", 1.0)
    troubles.over()
    assert troubles.present() == ()
    assert [(each.resource, each.detail) for each in troubles.standing()] == [("custom_tools", BROKEN.detail)]
    assert troubles.backoff.until == Troubles().backoff.until


def test_what_stands_is_replaced_by_what_is_noted_about_the_same_thing() -> None:
    troubles = Troubles()
    troubles.stand("loaded", [BROKEN])
    troubles.stand("reload", [Problem(resource="reload", detail="no")])
    troubles.stand("loaded", [])
    assert [each.resource for each in troubles.standing()] == ["reload"]


def test_what_stands_is_never_the_reason_why_no_worker_is_promised() -> None:
    troubles = Troubles()
    troubles.stand("loaded", [BROKEN])
    for ready, reason in ((1, ""), (0, "all_taken")):
        health = Health(
            Readiness(ready=ready, warming=0), troubles.present(), loading=False, standing=troubles.standing()
        )
        assert health.reason == reason


def test_only_what_does_not_stand_yet_is_news() -> None:
    secret = "sk-of-a-broken-file"
    logs.hide(secret)
    long = Problem(resource="custom_tools", detail=f"a.py:1: {secret} " + "x" * 2 * MAX_DETAIL)
    other = Problem(resource="custom_tools", detail="b.py:1: SyntaxError")
    troubles = Troubles()
    assert troubles.unheard("loaded", [BROKEN]) == [BROKEN]
    troubles.stand("loaded", [BROKEN, long])
    assert troubles.unheard("loaded", [long, other, BROKEN]) == [other]
    assert troubles.unheard("reload", [BROKEN]) == [BROKEN]
    assert secret not in str(troubles.standing())
