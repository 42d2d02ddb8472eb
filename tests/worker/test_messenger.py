"""The messenger of the tool host, with a real Redis, RQ's workers as the prefetchers run them, and the Twilio stand-in."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import threading
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from rq import Queue
from rq.serializers import JSONSerializer

from router import prefetch
from router.twilio import Form, message_report
from shared import keys, redis_door
from shared.letters import QUEUE, RETRY_S, SEND_JOB, STATUS_QUEUE, Told, slot
from shared.settings import Settings
from tests.standins.carrier_settings import CarrierSettings
from tests.standins.process import Standin, started
from worker.jobs import twilio_words
from worker.jobs.attempts import Attempts
from worker.prefetcher_messages import THREADS, Messages
from worker.prefetcher_rq import Threads, quiet_rq
from worker.tools import messenger as module
from worker.tools.messenger import QueuedMessenger
from worker.tools.services import ServiceTrouble

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.redis_server import RedisServer

pytestmark = pytest.mark.redis

TWILIO = CarrierSettings()
CALL = "CA" + "0" * 32
KEY = f"{CALL}:call_1"
PHONE = "+5511987654321"


@pytest.fixture(scope="module")
def carrier_process() -> Iterator[Standin]:
    with started("carrier", target="http://127.0.0.1:9", public_base_url="http://127.0.0.1:9") as standin:
        yield standin


@pytest.fixture
def carrier(carrier_process: Standin) -> Iterator[Standin]:
    settings = carrier_process.state_now()["settings"]
    carrier_process.control_now(reset=True)
    yield carrier_process
    carrier_process.control_now(**settings)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a busy machine take its time."""
    monkeypatch.setattr(module, "WAIT_S", 20.0)
    for place in (module, prefetch):
        monkeypatch.setattr(place, "ENQUEUE_TIMEOUT_S", 20.0)


@asynccontextmanager
async def messaging(url: str) -> AsyncIterator[QueuedMessenger]:
    made = QueuedMessenger(url)
    try:
        yield made
    finally:
        await made.close()


@contextmanager
def sending(redis_url: str, carrier: Standin, template: str = "") -> Iterator[None]:
    """Run the threads that send messages."""
    conf = Settings(
        _env_file=None, redis_url=redis_url, public_base_url="http://127.0.0.1:9", whatsapp_from=TWILIO.whatsapp_sender,
        twilio_account_sid=TWILIO.account_sid, twilio_auth_token=TWILIO.auth_token, twilio_api_base_url=carrier.url,
        whatsapp_template_sid=template,
    )  # fmt: skip
    quiet_rq()
    stop = threading.Event()
    ours, theirs = socket.socketpair()
    threads, messages = Threads(redis_url, stop), Messages(conf, theirs)
    for queue in THREADS:
        threads.start_worker(queue, messages.prepare)
    threads.start_scheduler(QUEUE, STATUS_QUEUE)
    try:
        yield
    finally:
        stop.set()
        threads.stop(20.0)
        for each in (ours, theirs):
            each.close()


@asynccontextmanager
async def reporting(redis_url: str, carrier: Standin) -> AsyncIterator[None]:
    """Queue what the stand-in reports, as the router does."""
    queue = prefetch.PrefetchQueue(Settings(_env_file=None, redis_url=redis_url))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        length = re.search(r"(?i)content-length: (\d+)", head)
        assert length is not None
        form, query = Form.decode(await reader.readexactly(int(length[1]))), head.split()[1].partition("?")[2]
        await queue.report(message_report(form, Form.decode(query.encode())))
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        carrier.control_now(target=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        yield
    queue.close()


def taken(carrier: Standin) -> list[dict[str, Any]]:
    return [each for each in carrier.state_now()["log"] if each["kind"] == "message"]


def jobs(url: str) -> list[Any]:
    with redis_door.for_rq(url) as client:
        return list(Queue(QUEUE, connection=client, serializer=JSONSerializer).jobs)


@pytest.mark.usefixtures("patient")
async def test_a_message_is_sent_while_the_caller_waits_and_once_for_its_key(redis_url: str, carrier: Standin) -> None:
    async with messaging(redis_url) as messenger, reporting(redis_url, carrier):
        with sending(redis_url, carrier):
            assert await messenger.send_whatsapp(KEY, PHONE, "Friday at ten.", CALL) == "delivered"
            assert await messenger.send_whatsapp(KEY, PHONE, "Friday at ten.", CALL) == "delivered"
            both = await asyncio.gather(
                *(messenger.send_whatsapp(f"{CALL}:other", PHONE, "Bring a coat.", CALL) for _ in range(5))
            )
            assert set(both) == {"delivered"}
        assert [each["body"] for each in taken(carrier)] == ["Friday at ten.", "Bring a coat."]


@pytest.mark.usefixtures("patient")
async def test_a_refusal_is_the_sentence_the_model_is_told(redis_url: str, carrier: Standin) -> None:
    carrier.control_now(message_refusal=63003)
    async with messaging(redis_url) as messenger:
        with sending(redis_url, carrier):
            assert await messenger.send_whatsapp(KEY, PHONE, "Hello", CALL) == twilio_words.WORDS["63003"]


@pytest.mark.usefixtures("patient")
async def test_a_twilio_that_is_busy_for_a_moment_is_waited_for(redis_url: str, carrier: Standin) -> None:
    """RQ runs the job again after a second: its scheduler is there."""
    carrier.control_now(message_faults="503")
    async with messaging(redis_url) as messenger, reporting(redis_url, carrier):
        with sending(redis_url, carrier):
            assert await messenger.send_whatsapp(KEY, PHONE, "Hello", CALL) == "delivered"
    assert len(taken(carrier)) == 1


@pytest.mark.usefixtures("patient")
async def test_what_twilio_took_and_whatsapp_did_not_deliver_is_refused(redis_url: str, carrier: Standin) -> None:
    """Free text outside the window is accepted, and fails a moment later."""
    carrier.control_now(whatsapp_open=False)
    async with messaging(redis_url) as messenger, reporting(redis_url, carrier):
        with sending(redis_url, carrier):
            assert await messenger.send_whatsapp(KEY, PHONE, "Hello", CALL) == twilio_words.WORDS["63016"]


@pytest.mark.usefixtures("patient")
async def test_the_template_that_follows_is_waited_for(redis_url: str, carrier: Standin) -> None:
    carrier.control_now(whatsapp_open=False)
    async with messaging(redis_url) as messenger, reporting(redis_url, carrier):
        with sending(redis_url, carrier, TWILIO.content_sid):
            assert await messenger.send_whatsapp(KEY, PHONE, "Hello", CALL) == "delivered"
    assert [each["template"] for each in taken(carrier)] == [False, True]


BEGUN, WAITING, SENT, READ = (
    Told(state="begun"), Told(state="waiting"), Told(state="sent", status="queued"), Told(state="sent", status="read")
)  # fmt: skip
FAILED, UNKNOWN = Told(state="refused", words="It failed."), Told(state="unknown", words="Nobody knows.")


@pytest.mark.parametrize(
    ("told", "answer"),
    [
        ([BEGUN, WAITING], "queued"),
        ([SENT], "taken"),
        ([WAITING, SENT, WAITING], "taken"),
        ([UNKNOWN], "Nobody knows."),
        ([SENT, UNKNOWN, SENT], "Nobody knows."),
        ([UNKNOWN, READ], "delivered"),
        ([SENT, FAILED, SENT], "It failed."),
        ([FAILED, SENT], "It failed."),
        ([READ, SENT], "delivered"),
    ],
)
async def test_the_best_that_is_known_when_the_time_is_up_is_said(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, told: list[Told], answer: str
) -> None:
    monkeypatch.setattr(module, "WAIT_S", 0.01)
    monkeypatch.setattr(module, "ENQUEUE_TIMEOUT_S", 20.0)
    with redis_door.sync_commands(redis_url) as client:
        for each in told:
            Attempts(client).tell(KEY, each)
    async with messaging(redis_url) as messenger:
        assert await messenger.send_whatsapp(KEY, PHONE, "Hello", CALL) == answer


async def test_a_message_nobody_sends_yet_is_queued_once_under_a_name_without_secrets(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAIT_S", 0.2)
    monkeypatch.setattr(module, "ENQUEUE_TIMEOUT_S", 20.0)
    async with messaging(redis_url) as messenger:
        for _ in range(2):
            assert await messenger.send_whatsapp(KEY, PHONE, "Hello", CALL) == "queued"
    (job,) = jobs(redis_url)
    assert (job.id, job.func_name, job.ttl) == (f"message-{slot(KEY)}", SEND_JOB, None)
    assert job.kwargs.pop("asked_at") > 0
    assert job.kwargs == {"key": KEY, "to": PHONE, "body": "Hello", "call_sid": CALL}
    assert job.retry_intervals == list(RETRY_S)
    assert PHONE not in job.description


async def test_whatever_a_model_calls_its_request_the_message_can_be_queued(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAIT_S", 0.01)
    monkeypatch.setattr(module, "ENQUEUE_TIMEOUT_S", 20.0)
    async with messaging(redis_url) as messenger:
        for name in ("call 1", "ação", "x" * 5000, "a:b/c\n", "\ud800"):
            assert await messenger.send_whatsapp(f"{CALL}:{name}", PHONE, "Hello", CALL) == "queued"
    assert len(jobs(redis_url)) == 5


@pytest.mark.usefixtures("patient")
async def test_nothing_of_a_message_stays_in_redis_but_that_it_was_sent(redis_url: str, carrier: Standin) -> None:
    async with messaging(redis_url) as messenger, reporting(redis_url, carrier):
        with sending(redis_url, carrier):
            await messenger.send_whatsapp(KEY, PHONE, "Friday at ten.", CALL)
    with redis_door.sync_commands(redis_url) as client:
        assert not client.exists(f"rq:job:message-{slot(KEY)}")
        noted = str(client.get(keys.message(slot(KEY))))
        assert 0 < int(client.ttl(keys.told(slot(KEY)))) <= keys.TOLD_TTL_S
    assert "sent" in noted
    assert "Friday" not in noted
    assert PHONE not in noted


async def test_without_redis_nothing_was_sent_for_certain(redis_server: RedisServer) -> None:
    redis_server.stop()
    async with messaging(redis_server.url) as messenger:
        with pytest.raises(ServiceTrouble, match="does not answer") as trouble:
            await messenger.send_whatsapp(KEY, PHONE, "Hello", CALL)
        assert not trouble.value.maybe_done
        await asyncio.to_thread(redis_server.start)


async def test_a_redis_that_hangs_holds_one_thread_and_nobody_for_long(redis_server: RedisServer) -> None:
    async with messaging(redis_server.url) as messenger:
        os.kill(redis_server.pid, signal.SIGSTOP)
        try:
            asked = (messenger.send_whatsapp(f"{CALL}:{n}", PHONE, "Hello", CALL) for n in range(100))
            answers = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 20.0)
            assert all(isinstance(each, ServiceTrouble) for each in answers)
            assert len([each for each in threading.enumerate() if each.name.startswith("messenger")]) == 1
        finally:
            os.kill(redis_server.pid, signal.SIGCONT)
    assert jobs(redis_server.url) == []
