"""The demo's own logic: what it refuses, what it accepts as heard, what it prints. Its calls are tests/system's affair."""

from __future__ import annotations

import audioop
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from deploy.demo import customers, scene
from deploy.demo.__main__ import parse
from deploy.demo.caller import Turn, answered, hung_up, line, texts
from deploy.demo.calls import Told, check
from deploy.demo.ear import Nobody, Tones
from deploy.demo.judge import Expected, problems, tells_time
from deploy.demo.show import BY_CARRIER, table, transcript
from deploy.demo.trouble import MEMORY_MB, NEEDED, Machine, Trouble, for_calls, judge, last_words
from tests.bench.measure import Asked, Measured
from tests.standins import modem
from tests.standins.carrier_playout import PlayoutClock, Span
from tests.standins.carrier_record import CallRecord, MarkReceived, MediaReceived, Spoken, StreamRecord

GOOD = Machine(platform="linux", pidfd=True, absent=(), redis=True, recordings=True, memory_mb=8000)
NOON = datetime(2026, 11, 22, 16, 5, tzinfo=UTC)
HEARD = {
    "": "Hello, thanks for calling.",
    "interrupt": "You said, excuse me, wait a moment.",
    "what-time": "It is 1605 Sunday, 2026-11-22, UTC.",
    "my-code": "Your reference code is purple tiger.",
    "goodbye": "Bye bye.",
}
EXPECTED = Expected("purple tiger", NOON)
MEASURED = Measured(
    call_sid="CA1",
    webhook=0.004,
    dialled_to_media=0.005,
    upgrade_to_media=0.002,
    start_to_media=0.001,
    worker={"agent_ready_s": -0.3},
    greeting_gaps=(),
    frames_late=0,
    end_reason="agent_hangup",
)


def told(**heard: str) -> Told:
    now = datetime.now(UTC)
    words = {**HEARD, "what-time": f"It is {now:%H%M}.", **heard}
    said = texts()
    turns = [Turn(recording, said.get(recording, ""), b"", 1.5 if recording else None) for recording in words]
    return Told("call 1", EXPECTED.code, MEASURED, turns, list(words.values()))


@pytest.mark.parametrize("keep", ["1", "true", "yes"])
def test_keep_is_read_from_the_environment(keep: str) -> None:
    assert parse([], keep).keep


@pytest.mark.parametrize("keep", ["", "0", "no", "false", "False"])
def test_without_keep_the_demo_ends(keep: str) -> None:
    options = parse([], keep)
    assert not options.keep
    assert options.what == "demo"


def test_another_call_is_a_word_and_keeping_a_flag() -> None:
    assert parse(["call"], "").what == "call"
    assert parse(["--keep"], "").keep


def test_calls_to_a_deployment_are_asked_for_with_its_address() -> None:
    options = parse(["call", "--url", "http://127.0.0.1:8080", "--calls", "3", "--at-once", "--judge", "tones"], "")
    assert (options.url, options.calls, options.at_once, options.judge) == ("http://127.0.0.1:8080", 3, True, "tones")
    options = parse(["call"], "")
    assert (options.url, options.token, options.calls, options.at_once, options.judge) == ("", "", 1, False, "ear")


@pytest.mark.parametrize("arguments", [["--url", "http://127.0.0.1:1"], ["demo", "--calls", "2"], ["--at-once"]])
def test_what_is_said_of_calls_is_refused_without_the_word(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(arguments, "")


def test_where_calls_are_only_placed_less_must_be_there() -> None:
    bare = replace(GOOD, absent=("pipecat", "piper"), redis=False, memory_mb=100)
    judge(for_calls(bare, ear=False))
    with pytest.raises(Trouble, match="piper is missing"):
        judge(for_calls(bare, ear=True))
    with pytest.raises(Trouble, match="recorded callers are missing"):
        judge(for_calls(replace(bare, recordings=False), ear=False))


def test_a_machine_with_everything_is_accepted() -> None:
    judge(GOOD)
    judge(replace(GOOD, memory_mb=None))


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        (replace(GOOD, platform="darwin"), "needs Linux"),
        (replace(GOOD, pidfd=False), "needs Linux"),
        *[(replace(GOOD, absent=(name,)), f"{name} is missing); run: make install") for name in NEEDED],
        (replace(GOOD, redis=False), "no Redis server; run: apt-get install redis-server"),
        (replace(GOOD, recordings=False), "recorded callers are missing"),
        (replace(GOOD, memory_mb=MEMORY_MB - 1), "MB of memory are free"),
    ],
)
def test_what_is_missing_is_one_line_with_its_remedy(machine: Machine, words: str) -> None:
    with pytest.raises(Trouble) as caught:
        judge(machine)
    assert words in str(caught.value)
    assert "; " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("", "it said nothing"),
        ("offhook: POOL_READY: wrong\n{}\n", "offhook: POOL_READY: wrong"),
        ("one\n\ntwo\n", "two"),
    ],
)
def test_the_last_words_of_a_process_are_its_refusal_or_its_last_line(log: str, words: str) -> None:
    assert last_words(log) == words


def test_another_call_without_a_demo_says_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    state = tmp_path_factory.mktemp("demo") / "state.json"
    monkeypatch.setattr(scene, "STATE", state)
    with pytest.raises(Trouble, match="KEEP=1 make demo"):
        scene.load_site()
    site = scene.Site("http://127.0.0.1:1", "logs", {"+15550001111": "purple tiger"})
    site.save()
    assert scene.load_site() == site


def test_a_whole_conversation_has_no_problems() -> None:
    assert problems(HEARD, EXPECTED) == []


@pytest.mark.parametrize(
    ("recording", "heard", "words"),
    [
        ("interrupt", "You said.", "interruption was not understood"),
        ("what-time", "It is late.", "time was not heard"),
        ("my-code", "Your reference code is golden river.", "purple tiger"),
        ("my-code", "You said what is my reference code?", "purple tiger"),
        ("goodbye", "", "no goodbye was heard: the agent said nothing"),
    ],
)
def test_each_step_that_was_not_heard_is_named(recording: str, heard: str, words: str) -> None:
    (problem,) = problems({**HEARD, recording: heard}, EXPECTED)
    assert words in problem


@pytest.mark.parametrize(
    ("clock", "heard"),
    [
        ("16:05", "It is 1605 Friday"),
        ("16:05", "It is 16.05."),
        ("16:07", "It is 16:05"),  # judged two minutes later
        ("09:30", "It is 930, ..."),
        ("00:00", "It is 000."),
        ("10:00", "It is 10-0-0 something"),
        ("18:00", "It is aching 0-0 Sunday, UTC"),  # as the ear once wrote it: the weekday is as good
    ],
)
def test_the_time_is_recognised_however_the_ear_writes_it(clock: str, heard: str) -> None:
    moment = datetime.strptime(f"2026-11-22 {clock}", "%Y-%m-%d %H:%M").replace(tzinfo=UTC)
    assert tells_time(heard, moment)


def test_another_time_is_not_the_time() -> None:
    assert not tells_time("It is 1605.", NOON + timedelta(minutes=10))
    assert not tells_time("It is Monday.", NOON)
    assert not tells_time("", NOON)


def test_no_planted_word_is_in_two_records_of_few_callers() -> None:
    codes = customers.codes(["+1", "+2", "+3", "+4", "+5"])
    assert len({word for code in codes.values() for word in code.split()}) == 10


def test_more_callers_than_words_all_have_some() -> None:
    assert all(len(code.split()) == 2 for code in customers.codes([str(number) for number in range(23)]).values())


def test_one_of_two_planted_words_is_enough_and_none_planted_is_none_expected() -> None:
    assert problems({**HEARD, "my-code": "Your reference, code is garlic tiger."}, EXPECTED) == []
    assert problems({**HEARD, "my-code": "You said what is my reference code?"}, replace(EXPECTED, code="")) == []


def test_a_call_in_which_the_record_was_not_heard_fails_the_demo() -> None:
    check(told())
    with pytest.raises(Trouble, match=r"^call 1: the record's words \(purple tiger\) were not heard.*pool\.log$"):
        check(told(**{"my-code": "I do not know."}))


def test_the_transcript_has_both_sides() -> None:
    lines = transcript(told()).splitlines()
    assert lines[1] == "  agent:  Hello, thanks for calling. …"
    assert lines[2] == "  caller: Excuse me, wait a moment."
    assert lines[-1] == "  (agent_hangup)"


def test_the_table_has_each_call_and_both_percentiles_and_a_dash_for_what_is_unknown() -> None:
    lines = table([told(), told()]).splitlines()
    assert lines[0].split() == ["ms", "call", "1", "call", "1", "p50", "p99"]
    assert lines[2].split()[-4:] == ["2", "2", "2", "2"]
    assert next(row for row in lines if "customer in context" in row).split()[-4:] == ["-"] * 4
    assert len({len(row) for row in lines}) == 1


def test_without_the_logs_the_table_has_what_the_carrier_knows() -> None:
    names = [row[:30].strip() for row in table([told()], BY_CARRIER).splitlines()]
    assert names[1:4] == ["webhook answered", "upgrade accepted → first audio", "start → first audio"]
    assert not any("agent ready" in name or "LLM" in name for name in names)
    assert names[-1] == "gaps in the greeting (sum)"


@pytest.mark.parametrize(
    ("changes", "by_agent"),
    [
        ({}, True),
        ({"said_at": 1.0}, True),  # a held call was told to wait
        ({"said_at": 9.0}, False),  # an apology
        ({"closed_by": "lost"}, False),
        ({"ended_by": "caller"}, False),
    ],
)
def test_the_agent_has_hung_up_when_it_closed_the_stream_and_nothing_was_said_after(
    changes: dict[str, Any], *, by_agent: bool
) -> None:
    stream = StreamRecord("MZ1", "wss://x", closed_at=8.0, closed_by=changes.get("closed_by", "server"))
    spoken = (Spoken("say", "words", changes["said_at"]),) if "said_at" in changes else ()
    ended_by = changes.get("ended_by", "twiml")
    record = CallRecord("CA1", "completed", ended_by, (), (), (), (stream,), spoken, (), (), 8.0)
    assert hung_up(record) == by_agent


@pytest.mark.parametrize(
    ("now", "marked_at", "over"),
    [
        (3.0, 1.2, False),  # the sentence is complete, the next may follow
        (3.6, 1.2, True),
        (3.6, None, False),  # in the middle of a sentence
        (3.6, 0.9, False),
        (7.1, None, True),
    ],
)
def test_a_reply_is_over_sooner_when_its_last_sentence_is_complete(
    now: float, marked_at: float | None, *, over: bool
) -> None:
    clock = PlayoutClock(limit_s=600.0, pause_s=1.0)
    clock.push(1.0, b"\x00" * 8000)
    marks = [] if marked_at is None else [MarkReceived("0:1", marked_at)]
    stream = StreamRecord("MZ1", "wss://x", media=[MediaReceived(1.0, 8000)], marks=marks)
    assert answered(clock.heard(now, 0.0), Asked(0.5, 0), stream) == over
    assert not answered(clock.heard(now, 0.0), Asked(0.5, 1), stream)


async def test_tones_are_understood_and_anything_else_is_as_long_as_it_is() -> None:
    sound = audioop.lin2ulaw(modem.encode("purple tiger"), 2)
    assert await Tones().hear(sound) == "purple tiger"
    assert await Nobody().hear(sound) == f"[{len(sound) / 8000:.1f} s of sound]"
    assert await Tones().hear(b"\xff" * 8000) == "[1.0 s of sound]"
    assert await Tones().hear(b"") == ""


def test_pieces_of_audio_keep_the_silence_between_them() -> None:
    spans = [Span(10.0, b"\x00" * 80, 1), Span(10.02, b"\x01" * 80, 1)]
    assert line(spans) == b"\x00" * 80 + b"\xff" * 80 + b"\x01" * 80
    assert line([]) == b""


def test_a_long_silence_between_pieces_is_shortened() -> None:
    spans = [Span(10.0, b"\x00" * 80, 1), Span(13.0, b"\x01" * 80, 1), Span(13.01, b"\x02" * 80, 1)]
    assert line(spans) == b"\x00" * 80 + b"\xff" * 2400 + b"\x01" * 80 + b"\x02" * 80
