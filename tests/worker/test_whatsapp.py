"""The message job against the Twilio stand-in with Twilio's own client, a real Redis and a real PostgreSQL."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextvars import copy_context
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from redis.exceptions import ConnectionError as RedisAway
from structlog.testing import capture_logs

from shared import keys, redis_door
from shared.letters import OUTSIDE_WINDOW, State, Told, slot
from tests.postgres import run_function
from tests.standins.carrier_settings import CarrierSettings
from tests.standins.process import Standin, started
from worker.jobs import twilio_words
from worker.jobs.attempts import Attempts
from worker.jobs.later import TryLater
from worker.jobs.lookup import LookupFailed
from worker.jobs.message_status import EARLY_S, TEMPLATE_KEY, status
from worker.jobs.twilio_client import WhatsApp
from worker.jobs.whatsapp import CONTEXT, GIVE_UP_S, Context, send

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.postgres import PostgresDatabase

pytestmark = pytest.mark.redis

SETTINGS = CarrierSettings()
PUBLIC = "http://127.0.0.1:9"
CALL = "CA" + "0" * 32
KEY = f"{CALL}:call_1"
PHONE = "+5511987654321"
TEXT = "Your appointment:\nFriday at ten."


@pytest.fixture(scope="module")
def carrier_process() -> Iterator[Standin]:
    with started("carrier", target=PUBLIC, public_base_url=PUBLIC) as standin:
        yield standin


@pytest.fixture
def carrier(carrier_process: Standin) -> Iterator[Standin]:
    settings = carrier_process.state_now()["settings"]
    carrier_process.control_now(reset=True)
    yield carrier_process
    carrier_process.control_now(**settings)


@dataclass(slots=True)
class Office:
    """A thread that runs message jobs, and what there is around it."""

    context: Context
    carrier: Standin
    database: PostgresDatabase
    observed: list[State]
    redis_url: str
    key: str = KEY

    def run(self, job: Callable[..., None], *arguments: Any) -> None:
        """Run a job as its thread would."""

        def within() -> None:
            CONTEXT.set(self.context)
            job(*arguments)

        copy_context().run(within)

    def send(self, body: str = TEXT, *, to: str = PHONE, asked_at: float = 0.0) -> Told:
        """Run the job of a message and give what was noted of it."""
        self.run(send, self.key, to, body, CALL, asked_at or time.time())
        return self.noted()

    def noted(self, key: str = "") -> Told:
        """Give what is noted of a message."""
        told = self.context.attempts.read(key or self.key)
        assert told is not None
        return told

    def told(self, key: str = "") -> list[Told]:
        """Give what was told to whoever waits for a message."""
        with redis_door.sync_commands(self.redis_url) as client:
            entries: Any = client.xrange(keys.told(slot(key or self.key)))
        return [msgspec.json.decode(fields["told"], type=Told) for _, fields in entries]

    def report(self, sid: str, said: str, error_code: str = "", *, key: str = KEY, told_at: float = 0.0) -> None:
        """Run the job of a report of Twilio's."""
        self.run(status, sid, said, error_code, key, CALL, told_at or time.time())

    def without_database(self) -> None:
        """Let the database be away."""

        def away(*_: object) -> Any:
            raise LookupFailed("ConnectError: refused")

        self.context = replace(self.context, database=away)

    def asked(self) -> list[dict[str, Any]]:
        """Give what Twilio was asked to send."""
        return [each for each in self.carrier.state_now()["log"] if each["kind"] == "message_asked"]

    def taken(self) -> list[dict[str, Any]]:
        """Give what Twilio sends."""
        return [each for each in self.carrier.state_now()["log"] if each["kind"] == "message"]

    def rows(self) -> list[dict[str, Any]]:
        """Give what is stored of messages."""
        return self.database.rows("select * from message_log order by id")


@pytest.fixture
def office(redis_url: str, carrier: Standin, database: PostgresDatabase) -> Iterator[Office]:
    def call(function: str, arguments: Mapping[str, Any]) -> Any:
        return asyncio.run(run_function(database.dsn, function, arguments))

    client = WhatsApp(SETTINGS.account_sid, SETTINGS.auth_token, carrier.url, SETTINGS.whatsapp_sender, timeout_s=2.0)
    redis = redis_door.sync_commands(redis_url)
    made: list[State] = []
    context = Context(client, Attempts(redis), call, PUBLIC, SETTINGS.content_sid, made.append)
    yield Office(context, carrier, database, made, redis_url)
    redis.close()
    client.close()


# --- sending ------------------------------------------------------------------------------------------------------------


def test_a_message_is_sent_as_free_text_and_written_down(office: Office) -> None:
    told = office.send()
    assert (told.state, told.status, told.words) == ("sent", "queued", "")
    (message,) = office.taken()
    assert (message["to"], message["body"], message["template"]) == (f"whatsapp:{PHONE}", TEXT, False)
    (row,) = office.rows()
    assert (row["request_key"], row["phone"], row["call_sid"], row["body"]) == (KEY, PHONE, CALL, TEXT)
    assert (row["provider_sid"], row["status"], row["error_code"]) == (message["sid"], "queued", None)
    assert (row["channel"], row["direction"]) == ("whatsapp", "outbound")


def test_a_number_without_its_ninth_digit_is_used_as_given(office: Office) -> None:
    office.send(to="+551187654321")
    assert office.taken()[0]["to"] == "whatsapp:+551187654321"


def test_half_a_character_does_not_keep_a_message(office: Office) -> None:
    office.key += "\ud83d"
    assert office.send("Hello \ud83d").state == "sent"
    assert office.taken()[0]["body"] == "Hello ?"
    assert office.rows()[0]["body"] == "Hello ?"


def test_a_message_says_where_its_reports_go_unless_its_name_is_endless(office: Office) -> None:
    office.send()
    office.key = f"{CALL}:{'x' * 5000}"
    assert office.send().state == "sent"
    first, second = (each["callback"] for each in office.taken())
    assert first == f"{PUBLIC}/message-status?key={CALL}%3Acall_1&call={CALL}"
    assert second == f"{PUBLIC}/message-status?key=&call={CALL}"


def test_the_same_key_again_sends_nothing_and_changes_nothing(office: Office) -> None:
    first = office.send()
    office.report(first.provider_sid, "delivered")
    assert office.send("Something else") == first
    assert len(office.asked()) == 1
    assert office.observed == ["sent"]
    assert office.rows()[0]["status"] == "delivered"


def test_outside_the_window_the_template_is_sent_with_the_text_in_one_line(office: Office) -> None:
    office.carrier.control_now(whatsapp_open=False, whatsapp_refuses_at_once=True)
    assert office.send().state == "sent"
    (message,) = office.taken()
    assert (message["template"], message["body"]) == (
        True, f"{SETTINGS.content_prefix}Your appointment: Friday at ten."
    )  # fmt: skip
    assert [row["status"] for row in office.rows()] == ["queued"]


def test_outside_the_window_without_a_template_the_model_is_told(office: Office) -> None:
    office.carrier.control_now(whatsapp_open=False, whatsapp_refuses_at_once=True)
    office.context = replace(office.context, template_sid="")
    told = office.send()
    assert (told.state, told.error_code, told.words) == ("refused", "63016", twilio_words.WORDS["63016"])
    (row,) = office.rows()
    assert (row["status"], row["error_code"], row["provider_sid"]) == ("failed", "63016", None)


def test_each_refusal_is_a_sentence_for_the_model(office: Office) -> None:
    for code in [*sorted(set(twilio_words.WORDS) - {OUTSIDE_WINDOW, "20429"}), "99999"]:
        office.carrier.control_now(message_refusal=int(code))
        office.key = f"{CALL}:call_{code}"
        told = office.send()
        assert (told.state, told.error_code) == ("refused", code)
        assert told.words == twilio_words.WORDS.get(code, twilio_words.OTHER)
        row = office.rows()[-1]
        assert (row["request_key"], row["status"], row["error_code"]) == (office.key, "failed", code)


def test_the_sentences_are_sentences() -> None:
    everything = [*twilio_words.WORDS.values(), twilio_words.OTHER, twilio_words.NOBODY_KNOWS, twilio_words.TOO_LATE]
    for words in everything:
        assert words[0].isupper()
        assert words.endswith(".")
        assert len(words) < 300
        assert "Twilio" not in words


# --- what may be tried again, and what may not ------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["429", "503"])
def test_a_busy_twilio_is_asked_again_when_it_said(office: Office, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    office.carrier.control_now(message_faults=fault, retry_after="30")
    with pytest.raises(TryLater):
        office.send()
    waiting = office.noted()
    assert waiting.state == "waiting"
    with pytest.raises(TryLater, match="not yet time"):
        office.send()
    assert len(office.asked()) == 1
    later = waiting.not_before + 1.0
    assert 25 < waiting.not_before - time.time() <= 30
    monkeypatch.setattr("worker.jobs.whatsapp.time.time", lambda: later)
    assert office.send(asked_at=later).state == "sent"
    assert len(office.taken()) == 1


def test_a_twilio_that_cannot_be_reached_is_tried_again(office: Office) -> None:
    good = office.context
    nowhere = WhatsApp(SETTINGS.account_sid, SETTINGS.auth_token, "http://127.0.0.1:9", SETTINGS.whatsapp_sender)
    office.context = replace(good, whatsapp=nowhere)
    with pytest.raises(TryLater):
        office.send()
    assert office.noted().state == "waiting"
    assert office.rows() == []
    office.context = good
    assert office.send().state == "sent"
    assert len(office.rows()) == 1
    assert office.observed == ["waiting", "sent"]


@pytest.mark.parametrize("fault", ["lost", "stall", "garbage", "reset", "500"])
def test_without_an_answer_nothing_is_sent_again_and_the_model_is_told(office: Office, fault: str) -> None:
    office.carrier.control_now(message_faults=fault)
    told = office.send()
    assert (told.state, told.words) == ("unknown", twilio_words.NOBODY_KNOWS)
    assert told.logged
    assert office.send() == told
    assert len(office.asked()) == 1
    assert [row["status"] for row in office.rows()] == ["unknown"]


def test_a_sender_that_died_in_the_middle_is_not_followed_by_a_second_message(office: Office) -> None:
    office.context.attempts.begin(KEY)
    assert office.send().state == "unknown"
    assert office.asked() == []
    assert [row["status"] for row in office.rows()] == ["unknown"]


def test_a_sender_that_died_after_writing_down_is_believed(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis was away for a moment: what is noted there is only that the message was begun."""

    def away(*_: object) -> None:
        raise RedisAway("gone")

    with monkeypatch.context() as patched:
        patched.setattr(Attempts, "end", away)
        patched.setattr(Attempts, "logged", away)
        with pytest.raises(RedisAway):
            office.send()
    (row,) = office.rows()
    assert office.noted().state == "begun"
    again = office.send()
    assert (again.state, again.provider_sid) == ("sent", row["provider_sid"])
    assert len(office.asked()) == 1
    assert office.rows() == [row]


def test_a_message_is_sent_while_the_database_is_away_and_written_down_later(office: Office) -> None:
    good = office.context
    office.without_database()
    with pytest.raises(TryLater):
        office.send()
    assert office.noted().state == "sent"
    office.context = good
    office.send()
    assert len(office.asked()) == 1
    assert [row["status"] for row in office.rows()] == ["queued"]
    assert office.noted().logged


def test_without_any_database_messages_are_sent_all_the_same(office: Office) -> None:
    office.context = replace(office.context, database=None)
    assert office.send().state == "sent"


def test_a_message_that_comes_an_hour_late_is_not_sent(office: Office) -> None:
    told = office.send(asked_at=time.time() - GIVE_UP_S - 1)
    assert (told.state, told.words) == ("refused", twilio_words.TOO_LATE)
    assert office.asked() == []
    assert [row["status"] for row in office.rows()] == ["failed"]


def test_neither_number_nor_text_is_logged(office: Office) -> None:
    with capture_logs() as lines:
        office.send()
        office.key = f"{CALL}:call_2"
        office.carrier.control_now(message_refusal=21211)
        office.send()
    assert lines
    assert not any(PHONE in str(line) or "Friday" in str(line) for line in lines)


# --- what became of it ------------------------------------------------------------------------------------------------------


def test_reports_are_written_down_in_whatever_order_they_come(office: Office) -> None:
    sid = office.send().provider_sid
    seen = []
    for said in ("sent", "read", "delivered", "sent", "read"):
        office.report(sid, said)
        seen.append(office.rows()[0]["status"])
    assert seen == ["sent", "read", "read", "read", "read"]


def test_a_report_that_comes_before_the_message_is_written_down_waits_for_it(office: Office) -> None:
    good = office.context
    office.without_database()
    with pytest.raises(TryLater):
        office.send()
    sid = office.noted().provider_sid
    office.context = good
    with pytest.raises(TryLater, match="not written down"):
        office.report(sid, "delivered")
    office.send()
    office.report(sid, "delivered")
    assert office.rows()[0]["status"] == "delivered"


def test_a_report_of_a_message_nobody_ever_writes_down_is_given_up(office: Office) -> None:
    office.report("SM" + "9" * 32, "delivered", key="", told_at=time.time() - EARLY_S - 1)
    assert office.rows() == []


def test_a_report_tells_what_nobody_knew(office: Office) -> None:
    """Twilio took the message and its answer got lost: its report names the message by our key."""
    office.carrier.control_now(message_faults="lost")
    assert office.send().state == "unknown"
    (message,) = office.taken()
    office.report(message["sid"], "sent")
    office.report(message["sid"], "delivered")
    (row,) = office.rows()
    assert (row["provider_sid"], row["status"], row["phone"], row["body"]) == (
        message["sid"], "delivered", PHONE, TEXT
    )  # fmt: skip


def test_free_text_that_fails_later_is_followed_by_one_template(office: Office) -> None:
    office.carrier.control_now(whatsapp_open=False)
    sid = office.send().provider_sid
    for _ in range(3):
        office.report(sid, "undelivered", OUTSIDE_WINDOW)
    text, template = office.taken()
    assert (template["template"], template["to"]) == (True, text["to"])
    assert template["body"] == f"{SETTINGS.content_prefix}Your appointment: Friday at ten."
    first, second = office.rows()
    assert (first["status"], first["error_code"], first["provider_sid"]) == ("undelivered", "63016", sid)
    assert (second["request_key"], second["provider_sid"]) == (KEY + TEMPLATE_KEY, template["sid"])
    assert (second["phone"], second["body"], second["call_sid"], second["status"]) == (PHONE, TEXT, CALL, "queued")
    office.report(template["sid"], "undelivered", OUTSIDE_WINDOW, key=KEY + TEMPLATE_KEY)
    assert len(office.taken()) == 2
    assert office.rows()[1]["error_code"] == "63016"


def test_without_a_template_a_late_failure_is_told_and_written_down(office: Office) -> None:
    office.context = replace(office.context, template_sid="")
    sid = office.send().provider_sid
    office.report(sid, "undelivered", OUTSIDE_WINDOW)
    assert len(office.taken()) == 1
    assert [(row["status"], row["error_code"]) for row in office.rows()] == [("undelivered", "63016")]
    sent, failed = office.told()
    assert (sent.state, sent.settled) == ("sent", False)
    assert (failed.state, failed.settled, failed.words) == ("refused", True, twilio_words.WORDS["63016"])


@pytest.mark.parametrize("code", ["63003", "99999", ""])
def test_whatever_else_fails_late_is_told_too(office: Office, code: str) -> None:
    office.report(office.send().provider_sid, "failed", code)
    assert office.told()[-1].words == twilio_words.refusal(code)
    assert len(office.taken()) == 1


def test_that_a_message_arrived_is_told_and_that_it_is_under_way_is_not(office: Office) -> None:
    sid = office.send().provider_sid
    for said in ("queued", "sent", "delivered", "read"):
        office.report(sid, said)
    assert [(told.status, told.settled) for told in office.told()] == [
        ("queued", False), ("delivered", True), ("read", True)
    ]  # fmt: skip


def test_what_a_template_is_sent_for_has_not_failed_and_its_fate_is_that_of_the_message(office: Office) -> None:
    office.carrier.control_now(whatsapp_open=False)
    sid = office.send().provider_sid
    for _ in range(2):
        office.report(sid, "undelivered", OUTSIDE_WINDOW)
    assert [told.state for told in office.told()] == ["sent"]
    template = office.taken()[1]["sid"]
    office.report(template, "delivered", key=KEY + TEMPLATE_KEY)
    assert [told.delivered for told in office.told()] == [False, True]


def test_a_template_that_fails_too_is_told(office: Office) -> None:
    sid = office.send().provider_sid
    office.carrier.control_now(message_refusal=21656)
    office.report(sid, "undelivered", OUTSIDE_WINDOW)
    assert office.told()[-1].words == twilio_words.WORDS["21656"]
    office.key = f"{CALL}:call_2"
    office.carrier.control_now(message_refusal=0)
    office.send()
    office.report(office.taken()[-1]["sid"], "undelivered", OUTSIDE_WINDOW, key=office.key)
    office.report(office.taken()[-1]["sid"], "failed", "63003", key=office.key + TEMPLATE_KEY)
    assert [told.state for told in office.told()] == ["sent", "refused"]
    assert office.told()[-1].words == twilio_words.WORDS["63003"]


def test_a_failure_is_told_while_the_database_is_away(office: Office) -> None:
    office.without_database()
    with pytest.raises(TryLater):
        office.send()
    with pytest.raises(TryLater):
        office.report(office.noted().provider_sid, "undelivered", "63003")
    assert office.told()[-1].words == twilio_words.WORDS["63003"]


def test_a_report_is_written_down_though_nobody_can_be_told(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> None:
        raise RedisAway("gone")

    sid = office.send().provider_sid
    monkeypatch.setattr(Attempts, "tell", away)
    office.report(sid, "delivered")
    assert office.rows()[0]["status"] == "delivered"
    assert len(office.told()) == 1


def test_a_template_is_sent_while_the_database_is_away_and_only_once(office: Office) -> None:
    sid = office.send().provider_sid
    good = office.context
    office.without_database()
    for _ in range(2):
        with pytest.raises(TryLater):
            office.report(sid, "undelivered", OUTSIDE_WINDOW)
    assert len(office.taken()) == 2
    office.context = good
    office.report(sid, "undelivered", OUTSIDE_WINDOW)
    assert len(office.taken()) == 2
    assert [row["status"] for row in office.rows()] == ["undelivered", "queued"]


def test_a_message_twilio_does_not_know_is_followed_by_nothing(office: Office) -> None:
    office.report("SM" + "9" * 32, "undelivered", OUTSIDE_WINDOW, told_at=time.time() - EARLY_S - 1)
    assert office.taken() == []
    assert [told.words for told in office.told()] == [twilio_words.WORDS["63016"]]
