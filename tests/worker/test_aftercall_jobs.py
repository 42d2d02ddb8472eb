"""The jobs after a call, as their worker runs them: with a real Redis and a real receiver of webhooks."""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from rq import SimpleWorker
from rq.serializers import JSONSerializer
from standardwebhooks import Webhook

from shared import keys, redis_door
from shared.callrecord import CallRecord, encode, record_of
from shared.calls import CallSid, EndReason, IncomingCall, TraceId
from shared.letters import SEND_JOB
from shared.messages import Entry
from shared.rawrecording import Kind, Piece, pack, part
from shared.settings import Settings
from tests.pool_process import DEADLINE_S
from tests.standins.process import started
from worker import records
from worker.jobs import aftercall
from worker.jobs.later import TryLater
from worker.jobs.lookup import LookupFailed
from worker.prefetcher_records import Leftovers, prepare
from worker.prefetcher_report import DeadLetters, read
from worker.record_jobs import RETRY_S, dead_on, enqueue, enqueue_unlink, queue_on

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from redis import Redis

    from tests.standins.process import Standin

pytestmark = pytest.mark.redis

CALLER = "+5511987654321"
SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


def record(number: int = 1, attempt: int = 0, caller: str = CALLER, text: str = "Hello.") -> CallRecord:
    call = IncomingCall(
        call_sid=CallSid(f"CA{number}"),
        caller=caller,
        called="+551130000000",
        trace_id=TraceId("f" * 32),
        attempt=attempt,
    )
    said = [Entry(kind="user", text=text, at=1000.5)]
    return record_of(call, "default", EndReason.CALLER_HANGUP, said, (1000.0, 1060.0))


class Database:
    """What the jobs ask; `away` makes it fail as Supabase's client does."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.away = False

    def __call__(self, function: str, arguments: Mapping[str, Any]) -> Any:
        """Take a call of a function."""
        if self.away:
            raise LookupFailed("ConnectError: refused")
        self.asked.append((function, dict(arguments)))
        return {"outcome": "stored"}


@pytest.fixture
def hook() -> Iterator[Standin]:
    with started("webhook") as standin:
        yield standin


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with redis_door.for_rq(redis_url) as client:
        yield client


@pytest.fixture
def conf(redis_url: str, hook: Standin, tmp_path: Path) -> Settings:
    return Settings(
        _env_file=None,
        redis_url=redis_url,
        supabase_url="http://127.0.0.1:1",
        supabase_secret_key="sb_secret",
        records_webhook_url=f"{hook.url}/calls",
        records_webhook_secret=SECRET,
        recordings_dir=tmp_path,
    )


@pytest.fixture
def database(conf: Settings) -> Iterator[Database]:
    """Set up this thread as the one of the jobs, with another database."""
    prepare(conf)
    made, real = Database(), aftercall.CONTEXT.get()
    token = aftercall.CONTEXT.set(aftercall.Context(made, real.receiver, real.redis, real.recordings_dir))
    yield made
    aftercall.CONTEXT.reset(token)
    assert real.receiver is not None
    real.receiver.client.close()
    real.redis.close()


def posts(hook: Standin) -> list[dict[str, Any]]:
    """Give what was posted, verified."""
    return [
        Webhook(SECRET).verify(entry["body"], entry["headers"])
        for entry in hook.state_now()["log"]
        if entry["kind"] == "posted"
    ]


def test_a_record_is_stored_once_whoever_hands_it_in_again(database: Database) -> None:
    aftercall.store(encode(record()))
    aftercall.store(encode(record()))
    [(function, arguments)] = database.asked
    assert function == "store_call"
    assert (arguments["p_call"]["call_sid"], arguments["p_call"]["caller"]) == ("CA1", CALLER)
    assert [turn["text"] for turn in arguments["p_turns"]] == ["Hello."]


def test_a_record_of_a_call_that_came_back_replaces_the_former_and_is_not_replaced_by_it(database: Database) -> None:
    for attempt in (0, 1, 0):
        aftercall.store(encode(record(attempt=attempt)))
    assert [arguments["p_call"]["attempts"] for _, arguments in database.asked] == [1, 2]


def test_a_database_that_is_away_is_asked_again_and_the_error_says_nothing_of_the_caller(database: Database) -> None:
    database.away = True
    with pytest.raises(TryLater) as raised:
        aftercall.store(encode(record(text="my secret")))
    assert "secret" not in str(raised.value)
    assert CALLER not in str(raised.value)
    database.away = False
    aftercall.store(encode(record()))
    assert len(database.asked) == 1


def test_a_webhook_is_posted_once_and_its_receiver_can_verify_it(database: Database, hook: Standin) -> None:
    del database
    aftercall.post(encode(record()))
    aftercall.post(encode(record()))
    [body] = posts(hook)
    assert (body["type"], body["timestamp"]) == ("call.ended", "1970-01-01T00:17:40.000+00:00")
    assert body["data"]["call"]["caller"] == CALLER
    assert [turn["text"] for turn in body["data"]["turns"]] == ["Hello."]
    [entry] = hook.state_now()["log"]
    assert entry["headers"]["webhook-id"] == "call_CA1_1"
    with pytest.raises(Exception, match="No matching signature"):
        Webhook(SECRET).verify(entry["body"] + " ", entry["headers"])


@pytest.mark.parametrize("status", [302, 400, 410, 500])
def test_a_webhook_that_is_not_taken_is_posted_again_as_the_same(
    database: Database, hook: Standin, status: int
) -> None:
    del database
    hook.control_now(status=status)
    with pytest.raises(TryLater, match=str(status)):
        aftercall.post(encode(record()))
    hook.control_now(status=200)
    aftercall.post(encode(record()))
    assert [entry["headers"]["webhook-id"] for entry in hook.state_now()["log"]] == ["call_CA1_1"] * 2


def test_a_receiver_that_is_gone_is_asked_again(database: Database, hook: Standin) -> None:
    del database
    hook.kill()
    with pytest.raises(TryLater, match="does not answer"):
        aftercall.post(encode(record()))


def test_a_recording_is_finished_by_whichever_job_is_first_and_named_by_both(
    database: Database, hook: Standin, tmp_path: Path
) -> None:
    part(tmp_path, CallSid("CA1"), 0).write_bytes(pack(Piece(Kind.CALLER, 1000.0, b"\x11" * 8000)))
    aftercall.post(encode(record()))
    aftercall.store(encode(record()))
    assert posts(hook)[0]["data"]["call"]["recording"] == "CA1.ogg"
    assert database.asked[0][1]["p_call"]["recording"] == "CA1.ogg"
    aftercall.recording_gone("CA1")
    assert database.asked[1] == ("recording_deleted", {"p_call_sid": "CA1"})


def test_a_recording_that_cannot_be_finished_does_not_cost_the_record(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object) -> str:
        raise RuntimeError("no such codec")

    monkeypatch.setattr("worker.jobs.recordings.finish", broken)
    aftercall.store(encode(record()))
    assert database.asked[0][1]["p_call"]["recording"] is None
    assert list(tmp_path.iterdir()) == []


# --- as RQ runs them ----------------------------------------------------------------------------------------------------


def work(redis: Redis) -> None:
    """Do every job that is in the queue, in this thread, which has the context."""
    worker: Any = SimpleWorker([queue_on(redis)], connection=redis, serializer=JSONSerializer)
    worker.work(burst=True, logging_level="CRITICAL")


def text_of(job_id: str, redis: Redis) -> str:
    """Give everything Redis holds of a job but its arguments."""
    return str({key: value for key, value in redis.hgetall(f"rq:job:{job_id}").items() if key != b"data"})


def test_a_job_that_fails_waits_and_in_the_end_is_a_dead_letter_that_can_be_tried_again(
    database: Database,
    redis: Redis,
    conf: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    database.away = True
    monkeypatch.setattr("worker.record_jobs.RETRY_S", (0, 0))
    enqueue(queue_on(redis), conf.model_copy(update={"records_webhook_url": ""}), record(text="my secret"))
    work(redis)
    assert dead_on(redis).get_job_ids() == ["store-CA1-1"]
    assert CALLER not in text_of("store-CA1-1", redis)
    assert "secret" not in text_of("store-CA1-1", redis)

    capsys.readouterr()
    records.dead(conf, retry=False)
    listed = capsys.readouterr().out
    assert listed.startswith("aftercall store-CA1-1 ")
    assert "TryLater: ConnectError: refused" in listed
    assert CALLER not in listed
    database.away = False
    records.dead(conf, retry=True)
    work(redis)
    assert [function for function, _ in database.asked] == ["store_call"]
    assert dead_on(redis).get_job_ids() == []
    assert not redis.exists("rq:job:store-CA1-1"), "what it held of the call is gone"
    capsys.readouterr()
    records.dead(conf, retry=False)
    assert capsys.readouterr().out == "no job was given up\n"


def test_the_first_tries_are_soon_and_the_last_after_more_than_a_day() -> None:
    assert RETRY_S[0] <= 5
    assert list(RETRY_S) == sorted(RETRY_S)
    assert 86_400 < sum(RETRY_S) < 2 * 86_400


def test_records_that_orphans_left_become_jobs_also_those_of_a_prefetcher_that_was_killed(
    redis: Redis, conf: Settings
) -> None:
    redis.rpush(keys.RECORDS_TAKEN, encode(record(1)))
    redis.rpush(keys.RECORDS, "no record", encode(record(2)))
    ours, theirs = socket.socketpair()
    stop = threading.Event()
    with ours, theirs:
        looking = threading.Thread(target=Leftovers(conf, theirs, stop).look_after, args=(redis, ""), daemon=True)
        looking.start()
        assert read(ours.recv(1000)) == DeadLetters(0)
        wait(lambda: queue_on(redis).count == 4 and not redis.llen(keys.RECORDS_TAKEN))
        stop.set()
        for client in redis.client_list():
            redis.client_unblock(int(client["id"]))
        looking.join(DEADLINE_S)
    assert sorted(queue_on(redis).get_job_ids()) == ["post-CA1-1", "post-CA2-1", "store-CA1-1", "store-CA2-1"]
    assert redis.llen(keys.RECORDS) == 0


def wait(condition: Callable[[], object]) -> None:
    """Wait until something is so in Redis."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        threading.Event().wait(0.01)


# --- forgetting ---------------------------------------------------------------------------------------------------------


def test_forgetting_deletes_what_waits_and_nothing_of_others(
    redis: Redis, conf: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a database: what Redis and the folder know, in whichever form the number was called from."""
    old_form = record(2, caller="+551187654321")
    for each in (record(1), old_form, record(3, caller="+15550009999", text=f"Call {CALLER} for me")):
        enqueue(queue_on(redis), conf, each)
    enqueue_unlink(queue_on(redis), CallSid("CA1"))
    message = {"call_sid": "CA3", "to": CALLER}  # asked for in somebody else's call
    queue_on(redis).enqueue(SEND_JOB, kwargs=message, job_id="send-1")
    redis.sadd("rq:job:another-applications:dependents", "x")
    redis.rpush(keys.RECORDS, encode(record(4)), encode(record(5, caller="+15550009999")))
    redis.xadd(keys.customer(CallSid("CA6")), {"result": json.dumps({"record": {"customer": {"phone": CALLER}}})})
    redis.rpush(keys.journal(CallSid("CA6")), "said")
    for name in ("CA1.ogg", "CA2.0.part", "CA3.ogg", "CA4.ogg"):
        (tmp_path / name).write_bytes(b"x")

    records.forget(conf.model_copy(update={"supabase_url": ""}), "whatsapp:+55 11 98765-4321")
    told = capsys.readouterr()
    assert "no SUPABASE_URL" in told.err
    assert told.out.splitlines()[0] == f"deleted of {CALLER}:"
    assert {line.strip() for line in told.out.splitlines()[1:]} == {
        "6 jobs", "1 waiting records", "1 journals", "1 looked up records", "3 recordings",
    }  # fmt: skip
    assert sorted(queue_on(redis).get_job_ids()) == ["post-CA3-1", "store-CA3-1"]
    assert [path.name for path in tmp_path.iterdir()] == ["CA3.ogg"]
    assert redis.llen(keys.RECORDS) == 1
    assert not redis.exists(keys.customer(CallSid("CA6")), keys.journal(CallSid("CA6")))
    records.forget(conf.model_copy(update={"supabase_url": ""}), CALLER)
    assert capsys.readouterr().out == f"nothing is known about {CALLER}\n"


@pytest.mark.parametrize(
    ("number", "words"), [("hello", "telephone number"), ("987654321", "country code"), ("anonymous", "withheld")]
)
def test_what_is_no_number_is_said_and_nothing_is_deleted(
    conf: Settings, redis: Redis, number: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    enqueue(queue_on(redis), conf, record(1))
    with pytest.raises(SystemExit) as raised:
        records.forget(conf, number)
    assert raised.value.code == 2
    assert words in capsys.readouterr().err
    assert queue_on(redis).count == 2


def test_nothing_is_deleted_when_the_database_does_not_answer(
    conf: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    enqueue(queue_on(redis), conf, record(1))
    monkeypatch.setattr("worker.records.settings.load", lambda _process: conf)
    assert records.main(["forget", CALLER]) == 1
    assert capsys.readouterr().err.startswith("nothing was deleted: the database does not say which calls there were")
    assert queue_on(redis).count == 2


def test_nothing_is_deleted_when_redis_does_not_answer(
    conf: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = conf.model_copy(update={"redis_url": f"unix://{tmp_path}/nobody.sock"})
    monkeypatch.setattr("worker.records.settings.load", lambda _process: gone)
    assert records.main(["forget", CALLER]) == 1
    assert records.main(["dead"]) == 1
    assert capsys.readouterr().err.count("redis does not answer") == 2
