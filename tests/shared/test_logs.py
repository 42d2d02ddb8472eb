"""Logs: one JSON object per line, whoever speaks, and no phone number in any of them."""

import io
import json
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import logs

NUMBER = "+5511999990000"
Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Lines:
    """Configure the logs and give a function that reads what was logged since it was last called."""
    stdout = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stdout)
    logs.configure("INFO", process="worker", worker="3-17")

    def read() -> list[dict[str, Any]]:
        text = stdout.getvalue()
        stdout.seek(0)
        stdout.truncate()
        assert text == "" or text.endswith("\n")
        return [json.loads(line) for line in text.split("\n")[:-1]]

    return read


def test_a_line_is_one_json_object_with_who_when_and_what(lines: Lines) -> None:
    logs.get("worker.call").info("stream started", stream_sid="MZ1")
    (line,) = lines()
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "stream started", "stream_sid": "MZ1", "level": "info", "logger": "worker.call",
        "process": "worker", "worker": "3-17",
    }  # fmt: skip


def test_lines_of_libraries_look_the_same(lines: Lines) -> None:
    logging.getLogger("somebody.else").warning("lost %s of %d", "3", 7)
    (line,) = lines()
    assert (line["event"], line["level"], line["logger"]) == ("lost 3 of 7", "warning", "somebody.else")
    assert (line["process"], line["worker"]) == ("worker", "3-17")


def test_what_is_bound_stands_in_every_line_from_then_on(lines: Lines) -> None:
    log = logs.get("a")
    log.info("before")
    logs.bind(call_sid="CA1", trace_id="f00")
    log.info("after")
    logging.getLogger("b").error("after")
    before, *after = lines()
    assert "call_sid" not in before
    assert [(line["call_sid"], line["trace_id"]) for line in after] == [("CA1", "f00")] * 2


def test_a_task_may_bind_its_own_context_and_a_line_its_own_field(lines: Lines) -> None:
    with structlog.contextvars.bound_contextvars(call_sid="CA2"):
        logs.get("a").info("inside")
    logs.get("a").info("outside", worker="another")
    inside, outside = lines()
    assert inside["call_sid"] == "CA2"
    assert "call_sid" not in outside
    assert outside["worker"] == "another"


def test_what_is_below_the_level_is_not_written_and_neither_is_chatter_of_clients(lines: Lines) -> None:
    logs.get("a").debug("too fine")
    logging.getLogger("httpx").info("HTTP Request: GET https://example.com")
    logging.getLogger("websockets.client").info("connection open")
    assert lines() == []
    logging.getLogger("httpx").warning("bad")
    assert len(lines()) == 1


def test_configuring_twice_does_not_write_twice(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO", process="worker")
    logs.configure("INFO", process="worker")
    logs.get("a").info("once")
    assert len(capsys.readouterr().out.splitlines()) == 1


@dataclass
class Holder:
    """Something a careless line may carry."""

    caller: str


@pytest.mark.parametrize(
    "fields",
    [
        {"caller": NUMBER},
        {"form": {"From": NUMBER, "list": [NUMBER, (NUMBER,)]}},
        {"who": {NUMBER: "known"}},
        {"url": "https://voice.example.com/incoming-call?From=%2B5511999990000&To=1"},
        {"url": "?From=%2b5511999990000"},
        {"sip": f"sip:{NUMBER}@example.com"},
        {"wa": f"whatsapp:{NUMBER}"},
        {"error": ValueError(f"no such customer {NUMBER}")},
        {"call": Holder(NUMBER)},
        {"numbers": {NUMBER}},
        {"raw": NUMBER.encode()},
    ],
)
def test_a_phone_number_is_masked_wherever_it_stands(lines: Lines, fields: dict[str, Any]) -> None:
    logs.get("a").info("call", **fields)
    logging.getLogger("b").info("call %s", fields)
    written = lines()
    assert len(written) == 2
    for line in written:
        text = json.dumps(line)
        assert "999990000" not in text
        assert "5511****" in text


def test_a_number_in_the_words_of_a_line_or_in_a_bound_field_is_masked(lines: Lines) -> None:
    logs.bind(caller=NUMBER)
    logs.get("a").info("call from %s", NUMBER)
    (line,) = lines()
    assert (line["event"], line["caller"]) == ("call from +5511****", "+5511****")


def test_an_exception_is_one_line_with_its_traceback_and_without_the_number(lines: Lines) -> None:
    try:
        int(NUMBER + " is nobody")
    except ValueError:
        logs.get("a").exception("lookup failed")
        logging.getLogger("b").exception("lookup failed")
    written = lines()
    assert len(written) == 2
    for line in written:
        assert line["level"] == "error"
        assert "'+5511**** is nobody'" in line["exception"]
        assert "Traceback" in line["exception"]


def test_what_json_does_not_know_is_written_in_words(lines: Lines) -> None:
    logs.get("a").info("odd", value={1, 2}, thing=object(), data=b"\xff", surrogate="\ud83d", newline="a\nb")
    (line,) = lines()
    assert line["newline"] == "a\nb"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (NUMBER, "+5511****"),
        ("+12025550123,+442071838750", "+1202****,+4420****"),
        ("+1234567", "+1234****"),
        ("+123456", "+123456"),  # too short for a number
        ("2026-11-22T10:00:00+0000", "2026-11-22T10:00:00+0000"),
        ("price +20%", "price +20%"),
        ("CA5511999990000", "CA5511999990000"),
        ("", ""),
    ],
)
def test_numbers_are_told_from_other_digits(text: str, masked: str) -> None:
    assert logs.mask(text) == masked


@settings(deadline=None)
@given(st.from_regex(r"[1-9][0-9]{6,14}", fullmatch=True), st.text(max_size=5), st.text(max_size=5))
def test_no_number_of_e164_survives(digits: str, before: str, after: str) -> None:
    if after[:1].isdigit():
        after = f" {after}"
    assert f"+{digits}" not in logs.mask(f"{before}+{digits}{after}")


@settings(deadline=None)
@given(st.text())
def test_masking_twice_changes_nothing_more(text: str) -> None:
    assert logs.mask(logs.mask(text)) == logs.mask(text)


def test_a_secret_is_hidden_however_it_is_written(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_secrets", set())
    logs.hide('a"b c/d', "short", "")
    log = logs.get("test")
    log.warning("refused", why='key a"b c/d', url="redis://:a%22b%20c%2Fd@host", short="short")
    line = lines()[-1]
    assert line["why"] == "key [secret]"
    assert line["url"] == "redis://:[secret]@host"
    assert line["short"] == "short", "what stands in any word is no secret"
