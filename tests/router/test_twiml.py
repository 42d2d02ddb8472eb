import xml.etree.ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from router.twilio import Form, incoming_call
from router.twiml import APOLOGY, Twiml, hang_up, nothing
from shared.calls import TraceId
from tests.router.harness import BASE, SID

START = b'<?xml version="1.0" encoding="UTF-8"?>'


@given(st.text(max_size=600))
def test_any_caller_gives_twiml_that_parses_to_it_with_short_parameters(caller: str) -> None:
    call = incoming_call(Form({"CallSid": [SID], "From": [caller], "To": [caller]}), 0, TraceId("f" * 32))
    content = Twiml(BASE, apology_clip=False).stream("a.b", call, call.trace_id)
    parameters = list(ET.fromstring(content).iter("Parameter"))  # noqa: S314 - our own words
    assert [each.attrib["name"] for each in parameters] == ["caller", "called", "trace"]
    assert parameters[0].attrib["value"] == call.caller
    assert all(len(each.attrib["name"] + each.attrib["value"]) < 500 for each in parameters)


def test_the_same_call_always_gives_the_same_bytes() -> None:
    call = incoming_call(Form({"CallSid": [SID]}), 0, TraceId("t"))
    twiml = Twiml("http://localhost:8080", apology_clip=False)
    assert twiml.stream("a.b", call, call.trace_id) == twiml.stream("a.b", call, call.trace_id)
    assert b'<Stream url="ws://localhost:8080/media/a.b">' in twiml.stream("a.b", call, call.trace_id)
    assert b'<Connect action="http://localhost:8080/call-ended/a.b" method="POST">' in twiml.stream(
        "a.b", call, call.trace_id
    )


def test_the_apology_is_played_when_there_is_a_clip_and_said_when_not() -> None:
    said, played = Twiml(BASE, apology_clip=False).apology(), Twiml(BASE, apology_clip=True).apology()
    assert said == START + f"<Response><Say>{APOLOGY}</Say><Hangup /></Response>".encode()
    assert played == START + f"<Response><Play>{BASE}/clips/apology.wav</Play><Hangup /></Response>".encode()


def test_the_shortest_answers() -> None:
    assert hang_up() == START + b"<Response><Hangup /></Response>"
    assert nothing() == START + b"<Response />"
