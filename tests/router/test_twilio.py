import string
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from router.twilio import (
    MAX_ADDRESS_CHARS,
    Form,
    MalformedRequest,
    SignatureRefusal,
    Signatures,
    attempt_of,
    call_sid,
    incoming_call,
    stream_base,
)
from shared.calls import TraceId
from tests.router.harness import BASE, SID, TOKEN, params_for, signature
from tests.standins import carrier_sign

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
PARAMS = st.dictionaries(TEXT, TEXT, max_size=8)
# Without ";": the library takes what follows the last one for something else, and drops an empty one.
PATHS = st.text(string.ascii_letters + string.digits + "/-._~%!$&'()*+,=:@", max_size=40)
checks = Signatures(TOKEN, BASE)


def headers(*signatures: str, settings: tuple[str, ...] = ()) -> Headers:
    named = [(b"x-twilio-signature", value.encode("latin-1", "replace")) for value in signatures]
    return Headers(raw=named + [(b"x-twilio-webhooks-signature-settings", value.encode()) for value in settings])


def form(params: dict[str, str]) -> Form:
    return Form.decode(urlencode(params).encode())


@given(PATHS, PARAMS, st.sampled_from(["HMAC_SHA1", "HMAC_SHA256"]))
def test_what_twilios_library_signs_is_accepted_over_the_path_as_it_was_sent(
    path: str, params: dict[str, str], algorithm: str
) -> None:
    target = "/incoming-call" + path
    signed = signature(BASE + target, params, algorithm)
    settings = () if algorithm == "HMAC_SHA1" else (f"key=k,algorithm={algorithm}",)
    assert checks.webhook(target, form(params), headers(signed, settings=settings)) is None
    assert checks.webhook(target + "x", form(params), headers(signed, settings=settings)) is SignatureRefusal.WRONG


@given(PATHS, PARAMS)
def test_the_carrier_of_our_tests_signs_as_twilios_library_does(path: str, params: dict[str, str]) -> None:
    assert carrier_sign.signature(TOKEN, BASE + path, params) == signature(BASE + path, params)


@given(PARAMS, TEXT, TEXT)
def test_one_parameter_more_is_refused(params: dict[str, str], name: str, value: str) -> None:
    signed = signature(f"{BASE}/hold", params)
    more = form({**params, name: value + "!"})
    assert checks.webhook("/hold", more, headers(signed)) is SignatureRefusal.WRONG


def test_a_percent_escape_is_not_what_it_decodes_to() -> None:
    signed = signature(f"{BASE}/call-ended/a%2Eb", {})
    assert checks.webhook("/call-ended/a%2Eb", Form(), headers(signed)) is None
    assert checks.webhook("/call-ended/a.b", Form(), headers(signed)) is SignatureRefusal.WRONG


def test_several_values_of_a_parameter_all_take_part() -> None:
    twice = Form.decode(b"a=2&a=1&a=2")
    assert checks.webhook("/hold", twice, headers(signature(f"{BASE}/hold", Form({"a": ["1", "2"]})))) is None
    assert checks.webhook("/hold", twice, headers(signature(f"{BASE}/hold", {"a": "1"}))) is SignatureRefusal.WRONG


def test_a_json_body_hash_in_the_query_signs_nothing_of_a_form() -> None:
    target = "/hold?bodySHA256=0"
    assert checks.webhook(target, form({"a": "1"}), headers(signature(BASE + target))) is SignatureRefusal.WRONG


@pytest.mark.parametrize(
    ("given_headers", "refusal"),
    [
        (headers(), SignatureRefusal.MISSING),
        (headers(""), SignatureRefusal.MISSING),
        (headers("a", "a"), SignatureRefusal.REPEATED),
        (headers("a", settings=("algorithm=HMAC_SHA256", "algorithm=HMAC_SHA1")), SignatureRefusal.REPEATED),
        (headers("a", settings=("algorithm=none",)), SignatureRefusal.ALGORITHM),
        (headers("a", settings=("key=1",)), SignatureRefusal.WRONG),
        (headers("\u00e9" * 28), SignatureRefusal.WRONG),
    ],
)
def test_a_signature_that_proves_nothing_is_refused_by_name(given_headers: Headers, refusal: SignatureRefusal) -> None:
    assert checks.webhook("/hold", Form(), given_headers) is refusal


def test_an_upgrade_is_signed_over_its_wss_url_without_parameters() -> None:
    assert checks.upgrade("/media/t", headers(signature("wss://voice.example.test/media/t"))) is None
    assert checks.upgrade("/media/t", headers(signature(f"{BASE}/media/t"))) is SignatureRefusal.WRONG
    assert stream_base("http://127.0.0.1:8080") == "ws://127.0.0.1:8080"


@given(st.binary(max_size=200))
def test_any_bytes_are_a_form_or_malformed(body: bytes) -> None:
    try:
        read = Form.decode(body)
    except MalformedRequest:
        return
    assert all(values for values in read.values())


@given(PARAMS)
def test_a_form_is_read_as_it_was_written(params: dict[str, str]) -> None:
    read = form(params)
    assert {name: read.first(name) for name in params} == params
    assert read.first("no such name at all, ever") == ""


@given(TEXT.filter(lambda text: text != SID))
def test_only_twilios_form_of_a_call_sid_is_taken(value: str) -> None:
    with pytest.raises(MalformedRequest):
        call_sid(form({"CallSid": value}))


def test_two_different_call_sids_are_malformed() -> None:
    other = SID[:-1] + "0"
    with pytest.raises(MalformedRequest):
        call_sid(Form.decode(f"CallSid={SID}&CallSid={other}".encode()))
    assert call_sid(Form.decode(f"CallSid={SID}&CallSid={SID}".encode())) == SID


@given(st.text(max_size=600))
def test_whatever_the_caller_is_called_can_be_written_and_is_bounded(caller: str) -> None:
    call = incoming_call(Form({"CallSid": [SID], "From": [caller]}), 2, TraceId("t"))
    assert len(call.caller) <= MAX_ADDRESS_CHARS
    assert call.caller.isprintable()
    call.caller.encode()
    assert (call.attempt, call.called) == (2, "")


def test_an_attempt_is_a_digit() -> None:
    assert attempt_of(Form()) == 0
    assert attempt_of(Form.decode(b"attempt=2")) == 2
    for text in ("-1", "10", "1.0", " 1", quote("²"), quote("٣")):
        with pytest.raises(MalformedRequest):
            attempt_of(Form.decode(f"attempt={text}".encode()))


def test_a_webhook_is_read() -> None:
    call = incoming_call(form(params_for()), 0, TraceId("t"))
    assert (call.call_sid, call.caller, call.called) == (SID, "+5511999990000", "+15005550006")
