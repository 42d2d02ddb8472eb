"""What Twilio reports of messages: only from Twilio, queued once, answered at once."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest
from rq import Queue
from rq.serializers import JSONSerializer

from router.prefetch import PrefetchQueue
from router.twilio import Form, MalformedRequest, MessageReport, message_report
from shared import redis_door
from shared.letters import RETRY_S, STATUS_JOB, STATUS_QUEUE
from shared.settings import Settings
from tests.router.harness import BASE, SID, running, signature

if TYPE_CHECKING:
    from pathlib import Path

    from tests.redis_server import RedisServer

MESSAGE = "SM" + "0123456789abcdef" * 2
KEY = f"{SID}:call_1"
TARGET = f"/message-status?{urlencode({'key': KEY, 'call': SID})}"
REPORT = MessageReport(MESSAGE, "delivered", "", KEY, SID)


def reported(**changes: str) -> dict[str, str]:
    """The form of a status callback."""
    return {
        "AccountSid": "AC" + "0" * 32, "ChannelPrefix": "whatsapp", "From": "whatsapp:+15550009999", "MessageSid": MESSAGE,
        "MessageStatus": "delivered", "To": "whatsapp:+5511999990000", **changes,
    }  # fmt: skip


async def test_a_report_of_twilios_is_queued_and_answered_with_nothing(folder: Path) -> None:
    async with running(folder) as router:
        answer = await router.post(TARGET, reported())
        assert (answer.status, answer.body) == (HTTPStatus.NO_CONTENT, b"")
        assert router.state.reports == [REPORT]
        failed = reported(MessageStatus="undelivered", ErrorCode="63016")
        assert (await router.post(TARGET, failed)).status == HTTPStatus.NO_CONTENT
        assert router.state.reports[1] == MessageReport(MESSAGE, "undelivered", "63016", KEY, SID)
        assert router.metric("offhook_message_reports_total", result="queued") == 2


@pytest.mark.parametrize("signature", ["", "bm90IHRoaXMgb25lLCBzb3JyeSE="])
async def test_a_forged_report_is_forbidden_and_nothing_is_queued(folder: Path, signature: str) -> None:
    async with running(folder) as router:
        answer = await router.post(TARGET, reported(), x_twilio_signature=signature)
        assert answer.status == HTTPStatus.FORBIDDEN
        assert router.state.reports == []


async def test_a_report_signed_for_one_message_does_not_speak_of_another(folder: Path) -> None:
    """The key is in the URL, and the URL is signed."""
    async with running(folder) as router:
        other = TARGET.replace("call_1", "call_2")
        signed = signature(BASE + TARGET, reported())
        assert (await router.post(TARGET, reported(), x_twilio_signature=signed)).status == HTTPStatus.NO_CONTENT
        assert (await router.post(other, reported(), x_twilio_signature=signed)).status == HTTPStatus.FORBIDDEN
        assert len(router.state.reports) == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"MessageSid": "CA" + "0" * 32}, "message_sid"),
        ({"MessageSid": ""}, "message_sid"),
        ({"MessageStatus": "eaten"}, "message_status"),
        ({"ErrorCode": "63016; drop table"}, "message_status"),
    ],
)
async def test_a_report_that_is_none_is_a_bad_request(folder: Path, changes: dict[str, str], reason: str) -> None:
    async with running(folder) as router:
        assert (await router.post(TARGET, reported(**changes))).status == HTTPStatus.BAD_REQUEST
        assert router.metric("offhook_requests_refused_total", route="message-status", reason=reason) == 1
        assert router.state.reports == []


def test_a_key_that_is_not_ours_is_a_bad_request() -> None:
    form = Form.decode(urlencode(reported()).encode())
    for query in ({"key": "x" * 600}, {"key": "x", "call": "CA1"}):
        with pytest.raises(MalformedRequest, match="message_key"):
            message_report(form, Form.decode(urlencode(query).encode()))
    assert message_report(form, Form()).key == ""


async def test_a_report_that_cannot_be_queued_is_not_said_to_be(folder: Path) -> None:
    async with running(folder) as router:
        router.state.queue_works = False
        assert (await router.post(TARGET, reported())).status == HTTPStatus.SERVICE_UNAVAILABLE
        assert router.metric("offhook_message_reports_total", result="failed") == 1


@pytest.mark.redis
async def test_the_same_report_again_is_the_same_job_and_it_holds_no_number(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.prefetch.ENQUEUE_TIMEOUT_S", 20.0)
    queue = PrefetchQueue(Settings(_env_file=None, redis_url=redis_url))
    try:
        assert await queue.report(REPORT)
        assert await queue.report(REPORT)
        assert await queue.report(MessageReport(MESSAGE, "read", "", KEY, SID))
    finally:
        queue.close()
    with redis_door.for_rq(redis_url) as client:
        first, second = Queue(STATUS_QUEUE, connection=client, serializer=JSONSerializer).jobs
        assert (first.func_name, first.retries_left) == (STATUS_JOB, len(RETRY_S))
        assert first.kwargs.pop("told_at") > 0
        assert first.kwargs == {
            "provider_sid": MESSAGE, "status": "delivered", "error_code": "", "key": KEY, "call_sid": SID,
        }  # fmt: skip
        assert second.kwargs["status"] == "read"


@pytest.mark.redis
async def test_without_redis_a_report_is_not_queued_and_nothing_is_raised(redis_server: RedisServer) -> None:
    redis_server.stop()
    queue = PrefetchQueue(Settings(_env_file=None, redis_url=redis_server.url))
    try:
        assert await queue.report(REPORT) is False
    finally:
        queue.close()
