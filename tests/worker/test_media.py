"""The carrier's messages: whatever arrives is an event or an oddity, never an error."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.metrics import Oddity
from worker.call.media import (
    MEDIA_SUFFIX,
    Audio,
    Codec,
    Connected,
    Digit,
    Event,
    Joined,
    MarkEchoed,
    Started,
    Stopped,
    clear_message,
    mark_message,
    media_prefix,
)

OF_THE_STREAM = {Oddity.BINARY_FRAME, Oddity.OVERSIZE_FRAME}
OF_THE_CLOCK = {Oddity.UNKNOWN_MARK}

# Source: Twilio docs, Media Streams "WebSocket messages", in the order of a call.
CONNECTED = '{"event":"connected","protocol":"Call","version":"1.0.0"}'
START = (
    '{"event":"start","sequenceNumber":"1","start":{"accountSid":"AC00","streamSid":"MZ01","callSid":"CA01",'
    '"tracks":["inbound"],"mediaFormat":{"encoding":"audio/x-mulaw","sampleRate":8000,"channels":1},'
    '"customParameters":{"ticket":"abc","from":"+5511999990000"}},"streamSid":"MZ01"}'
)
MEDIA = (
    '{"event":"media","sequenceNumber":"2","media":{"track":"inbound","chunk":"1","timestamp":"20",'
    '"payload":"f39/"},"streamSid":"MZ01"}'
)
DTMF = '{"event":"dtmf","streamSid":"MZ01","sequenceNumber":"3","dtmf":{"track":"inbound_track","digit":"5"}}'
MARK = '{"event":"mark","sequenceNumber":"4","streamSid":"MZ01","mark":{"name":"0:3"}}'
STOP = '{"event":"stop","sequenceNumber":"5","stop":{"accountSid":"AC00","callSid":"CA01"},"streamSid":"MZ01"}'


def read(codec: Codec, message: str | dict[str, Any]) -> tuple[Event | None, Oddity | None]:
    """Give a message to a codec."""
    text = message if isinstance(message, str) else json.dumps(message)
    return codec.read(text.encode())


def started(sequence: int = 1) -> Codec:
    """Give a codec that has read its `start`."""
    codec = Codec()
    assert codec.read(START.replace('"1"', f'"{sequence}"', 1).encode())[1] is None
    return codec


def media(
    sequence: object = "2", payload: str = "f39/", stream: str = "MZ01", track: str = "inbound"
) -> dict[str, Any]:
    """Write a media message."""
    return {
        "event": "media", "sequenceNumber": sequence, "streamSid": stream, "media": {"track": track, "payload": payload},
    }  # fmt: skip


def test_a_call_as_the_vendor_documents_it_has_nothing_odd() -> None:
    codec = Codec()
    events = [read(codec, each) for each in (CONNECTED, START, MEDIA, DTMF, MARK, STOP)]
    assert events == [
        (Connected(), None),
        (Started("MZ01", "CA01", {"ticket": "abc", "from": "+5511999990000"}), None),
        (Audio(b"\x7f\x7f\x7f"), None),
        (Digit("5"), None),
        (MarkEchoed("0:3"), None),
        (Stopped(), None),
    ]
    assert codec.stream_sid == "MZ01"


def test_the_stream_sid_is_found_in_either_place() -> None:
    for without in ('"streamSid":"MZ01",', ',"streamSid":"MZ01"'):
        event, oddity = read(Codec(), START.replace(without, "", 1))
        assert isinstance(event, Started)
        assert (event.stream_sid, oddity) == ("MZ01", None)


def test_audio_may_have_any_length() -> None:
    codec = started()
    for number, length in enumerate((1, 159, 160, 161, 1600, 8000), start=2):
        payload = base64.b64encode(bytes(length)).decode()
        assert read(codec, media(str(number), payload)) == (Audio(bytes(length)), None)


def test_numbers_may_also_be_numbers() -> None:
    assert read(started(), media(2)) == (Audio(b"\x7f\x7f\x7f"), None)


ODD: list[tuple[str, Oddity]] = [
    ("", Oddity.INVALID_JSON),
    ("{", Oddity.INVALID_JSON),
    ("null", Oddity.INVALID_JSON),
    ("[]", Oddity.INVALID_JSON),
    ('"media"', Oddity.INVALID_JSON),
    ('{"event":1}', Oddity.INVALID_JSON),
    ('{"event":"media","media":"f39/"}', Oddity.INVALID_JSON),
    ('{"event":"media","media":{"payload":7}}', Oddity.INVALID_JSON),
    ('{"event":"media","media":{"payload":"f39/"},"sequenceNumber":1.5}', Oddity.INVALID_JSON),
    (MEDIA + MEDIA, Oddity.INVALID_JSON),
    ("[" * 60_000, Oddity.INVALID_JSON),
    ('{"event":"mark","x":' + "[" * 30_000 + "]" * 30_000 + "}", Oddity.INVALID_JSON),
    ('{"event":"start","start":{"customParameters":{"a":' + "[" * 30_000 + "]" * 30_000 + "}}}", Oddity.INVALID_JSON),
    ("{}", Oddity.UNKNOWN_EVENT),
    ('{"event":"media"}', Oddity.UNKNOWN_EVENT),
    ('{"event":"mark"}', Oddity.UNKNOWN_EVENT),
    ('{"event":"dtmf","dtmf":null}', Oddity.UNKNOWN_EVENT),
    ('{"event":"MEDIA","media":{"payload":"f39/"}}', Oddity.UNKNOWN_EVENT),
    ('{"event":"hello"}', Oddity.UNKNOWN_EVENT),
    ('{"event":"media","media":{"payload":""}}', Oddity.BAD_PAYLOAD),
    ('{"event":"media","media":{"payload":"f39"}}', Oddity.BAD_PAYLOAD),
    ('{"event":"media","media":{"payload":"f3 9/"}}', Oddity.BAD_PAYLOAD),
    ('{"event":"media","media":{"payload":"f39_"}}', Oddity.BAD_PAYLOAD),
    ('{"event":"media","media":{"payload":"é"}}', Oddity.BAD_PAYLOAD),
    ('{"event":"media","media":{"payload":"\\ud83d"}}', Oddity.INVALID_JSON),
    (START, Oddity.UNKNOWN_EVENT),  # it comes once
    (json.dumps(media("2", track="outbound")), Oddity.UNKNOWN_EVENT),  # our own voice
    (json.dumps(media("2", stream="MZ02")), Oddity.WRONG_STREAM),
    (STOP.replace("MZ01", "MZ02"), Oddity.WRONG_STREAM),
]


@pytest.mark.parametrize(("message", "oddity"), ODD, ids=range(len(ODD)))
def test_what_is_odd_is_named_and_is_no_event(message: str, oddity: Oddity) -> None:
    codec = started()
    assert read(codec, message) == (None, oddity)
    assert codec.stream_sid == "MZ01"


def test_after_anything_odd_the_call_goes_on() -> None:
    codec = started()
    for message, _ in ODD:
        read(codec, message)
    event, _ = read(codec, media("2"))
    assert event == Audio(b"\x7f\x7f\x7f")


def test_text_that_is_not_utf8_is_not_json() -> None:
    assert started().read(b'{"event":"\xff"}') == (None, Oddity.INVALID_JSON)


@pytest.mark.parametrize("sid", ["", "\\ud83d", "x\\udc00"])
def test_a_start_without_a_usable_stream_sid_starts_nothing(sid: str) -> None:
    codec = Codec()
    event, oddity = read(codec, START.replace("MZ01", sid))
    assert (event, oddity) == (None, Oddity.INVALID_JSON)
    assert codec.stream_sid == ""


def test_a_gap_is_counted_once_and_its_message_still_counts() -> None:
    codec = started()
    assert read(codec, media("2"))[1] is None
    assert read(codec, media("5")) == (Audio(b"\x7f\x7f\x7f"), Oddity.SEQUENCE_GAP)
    assert read(codec, media("6"))[1] is None
    assert read(codec, media("6"))[1] is Oddity.SEQUENCE_GAP  # a repeat is one as well


def test_a_number_that_is_none_is_passed_over() -> None:
    codec = started()
    for odd in ("", "soon", "9" * 5000, "1e3"):
        assert read(codec, media(odd)) == (Audio(b"\x7f\x7f\x7f"), None)
    assert read(codec, media("2"))[1] is None


def test_messages_of_another_stream_do_not_disturb_the_numbers_of_ours() -> None:
    codec = started()
    assert read(codec, media("900", stream="MZ02")) == (None, Oddity.WRONG_STREAM)
    assert read(codec, media("2")) == (Audio(b"\x7f\x7f\x7f"), None)


def test_the_numbers_may_begin_anywhere() -> None:
    codec = started(sequence=17)
    assert read(codec, media("18"))[1] is None


def test_who_joins_later_takes_the_stream_sid_from_any_message() -> None:
    codec = Codec(joining=True)
    assert read(codec, {"event": "media", "streamSid": "MZ7", "sequenceNumber": "90", "media": {"payload": "f39/"}}) == (
        Joined("MZ7"), None,
    )  # fmt: skip
    event, oddity = read(
        codec, {"event": "media", "streamSid": "MZ7", "sequenceNumber": "91", "media": {"payload": "f39/"}}
    )
    assert isinstance(event, Audio)
    assert oddity is None
    assert read(codec, {"event": "start", "streamSid": "MZ7", "start": {"streamSid": "MZ7"}})[0] is None
    assert read(codec, {"event": "media", "streamSid": "MZ8"})[1] is Oddity.WRONG_STREAM


def test_who_joins_before_start_was_read_starts_as_usual() -> None:
    codec = Codec(joining=True)
    assert read(codec, {"event": "connected"}) == (Connected(), None)
    event, _ = read(codec, {"event": "start", "streamSid": "MZ7", "start": {"streamSid": "MZ7", "callSid": "CA1"}})
    assert event == Started("MZ7", "CA1", {})


def test_who_knows_the_stream_joins_it_without_losing_a_message() -> None:
    codec = Codec("MZ7", joining=True)
    event, oddity = read(codec, {"event": "mark", "streamSid": "MZ7", "sequenceNumber": "90", "mark": {"name": "0:1"}})
    assert (event, oddity) == (MarkEchoed("0:1"), None)


def test_together_with_stream_and_clock_every_oddity_can_be_named() -> None:
    named = {oddity for _, oddity in ODD} | {Oddity.SEQUENCE_GAP}
    assert named == set(Oddity) - OF_THE_STREAM - OF_THE_CLOCK


@settings(deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=5))
def test_no_bytes_raise(messages: list[bytes]) -> None:
    codec = started()
    for message in messages:
        event, oddity = codec.read(message)
        assert event is not None or oddity is not None


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10)
values = scalars | st.lists(scalars, max_size=3) | st.dictionaries(st.text(max_size=6), scalars, max_size=3)
messages = st.fixed_dictionaries(
    {"event": st.sampled_from(["connected", "start", "media", "dtmf", "mark", "stop", "clear"]) | values},
    optional={
        "streamSid": st.sampled_from(["MZ01", "MZ02"]) | values,
        "sequenceNumber": st.integers().map(str) | values,
        "start": values
        | st.fixed_dictionaries({}, optional={"callSid": values, "streamSid": values, "customParameters": values}),
        "media": st.fixed_dictionaries({"payload": st.just("f39/") | values}, optional={"track": values}) | values,
        "dtmf": st.fixed_dictionaries({"digit": values}) | values,
        "mark": st.fixed_dictionaries({"name": values}) | values,
    },
)  # fmt: skip


@settings(deadline=None)
@given(st.booleans(), st.lists(messages, max_size=4))
def test_no_json_that_resembles_theirs_raises(begun: bool, sent: list[dict[str, Any]]) -> None:  # noqa: FBT001 - hypothesis gives it by name
    codec = started() if begun else Codec()
    for message in sent:
        event, oddity = read(codec, message)
        assert event is not None or oddity is not None
        if isinstance(event, Audio):
            assert event.ulaw


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=2000))
def test_what_we_write_is_what_they_read(ulaw: bytes) -> None:
    sent = f"{media_prefix('MZ01')}{base64.b64encode(ulaw).decode()}{MEDIA_SUFFIX}"
    assert json.loads(sent) == {
        "event": "media", "streamSid": "MZ01", "media": {"payload": base64.b64encode(ulaw).decode()},
    }  # fmt: skip


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=30), st.text(st.characters(codec="utf-8"), max_size=30))
def test_orders_are_json_whatever_the_names(stream_sid: str, name: str) -> None:
    assert json.loads(mark_message(stream_sid, name)) == {
        "event": "mark", "streamSid": stream_sid, "mark": {"name": name},
    }  # fmt: skip
    assert json.loads(clear_message(stream_sid)) == {"event": "clear", "streamSid": stream_sid}
