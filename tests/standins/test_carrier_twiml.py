"""TwiML made by the vendor's library is read as it was meant."""

from __future__ import annotations

import pytest
from twilio.twiml.voice_response import Connect, VoiceResponse

from tests.standins.carrier_rig import stream_twiml
from tests.standins.carrier_twiml import (
    Dial,
    Hangup,
    Pause,
    Play,
    Redirect,
    Reject,
    Say,
    Stream,
    TwimlError,
    Unknown,
    parse,
)


def read(response: VoiceResponse) -> tuple[object, ...]:
    return parse(str(response).encode())


def test_every_verb_is_read_in_order() -> None:
    response = VoiceResponse()
    response.say("Olá & bem-vindo", language="pt-BR", voice="Polly.Camila")
    response.play("https://voice.example.test/clips/hold.wav", loop=2)
    response.pause(length=3)
    response.redirect("/hold?n=1", method="GET")
    response.dial("+15550002222", action="/dialled")
    response.hangup()
    response.reject(reason="busy")
    assert read(response) == (
        Say("Olá & bem-vindo", "pt-BR", "Polly.Camila"),
        Play("https://voice.example.test/clips/hold.wav", 2),
        Pause(3),
        Redirect("/hold?n=1", "GET"),
        Dial(("+15550002222",), "/dialled", "POST"),
        Hangup(),
        Reject("busy"),
    )


def test_numbers_nested_in_a_dial_are_found() -> None:
    response = VoiceResponse()
    dial = response.dial(None)
    dial.number("+15550002222")
    dial.sip("sip:a@example.test")
    assert read(response) == (Dial(("+15550002222", "sip:a@example.test"), "", "POST"),)


def test_a_stream_brings_its_parameters_callbacks_and_action() -> None:
    twiml = stream_twiml(
        "wss://voice.example.test/media/x",
        action="/call-ended/x",
        parameters={"from": "+55", "quote": "\"<>&'"},
        name="c1",
        status_callback="https://voice.example.test/status",
        status_callback_method="GET",
    )
    assert parse(twiml.encode()) == (
        Stream(
            "wss://voice.example.test/media/x",
            "c1",
            (("from", "+55"), ("quote", "\"<>&'")),
            "https://voice.example.test/status",
            "GET",
            "/call-ended/x",
            "POST",
        ),
    )


def test_verbs_of_other_kinds_are_kept_as_unknown() -> None:
    response = VoiceResponse()
    response.gather()
    connect = Connect()
    connect.room("r")
    response.append(connect)
    assert read(response) == (Unknown("Gather"), Unknown("Connect"))


def test_an_empty_response_has_no_verbs() -> None:
    assert parse(b"<Response/>") == ()


@pytest.mark.parametrize(
    ("document", "code"),
    [
        (b"", 12100),
        (b"<Response>", 12100),
        (b"<html/>", 12102),
        (b'<Response><Pause length="soon"/></Response>', 12200),
        (b"<Response><Connect><Stream/></Connect></Response>", 31923),
        (stream_twiml(parameters={"long": "x" * 496}).encode(), 12200),
    ],
)
def test_a_document_that_cannot_run_has_the_vendors_error_number(document: bytes, code: int) -> None:
    with pytest.raises(TwimlError) as refused:
        parse(document)
    assert refused.value.code == code


def test_a_parameter_just_below_the_limit_passes() -> None:
    parse(stream_twiml(parameters={"long": "x" * 495}).encode())
