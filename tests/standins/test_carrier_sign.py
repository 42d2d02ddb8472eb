"""The carrier's signatures are those the vendor's library accepts."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twilio.request_validator import RequestValidator, get_signature_algorithm

from tests.standins.carrier_settings import CarrierSettings
from tests.standins.carrier_sign import call_parameters, new_sid, signature, signature_headers

URL = "https://voice.example.test/incoming-call?n=1"
PARAMS = call_parameters("AC1", "CA1", "+5511999990000", "+15550001111", "inbound")


@pytest.mark.parametrize("algorithm", ["HMAC_SHA1", "HMAC_SHA256"])
def test_a_form_is_signed_as_the_vendors_validator_expects(algorithm: str) -> None:
    made = CarrierSettings(algorithm=algorithm)
    headers = signature_headers(made, URL, PARAMS)
    named = get_signature_algorithm(headers.get("X-Twilio-Webhooks-Signature-Settings", ""))
    assert named == algorithm
    assert RequestValidator(made.auth_token).validate(URL, PARAMS, headers["X-Twilio-Signature"], named)


def test_sha1_has_no_settings_header_because_old_webhooks_have_none() -> None:
    assert list(signature_headers(CarrierSettings(), URL, PARAMS)) == ["X-Twilio-Signature"]


def test_wrong_is_a_signature_by_somebody_else_and_missing_is_no_header() -> None:
    made = CarrierSettings()
    forged = signature_headers(made, URL, PARAMS, "wrong")["X-Twilio-Signature"]
    assert not RequestValidator(made.auth_token).validate(URL, PARAMS, forged)
    assert signature_headers(made, URL, PARAMS, "missing") == {}


@settings(max_examples=50)
@given(st.dictionaries(st.text(min_size=1, max_size=8), st.text(max_size=8), max_size=6))
def test_any_parameters_are_signed_like_the_vendor_does(params: dict[str, str]) -> None:
    assert signature("token", URL, params) == RequestValidator("token").compute_signature(URL, params)


def test_the_media_upgrade_is_signed_over_the_wss_url_alone() -> None:
    made = CarrierSettings()
    url = "wss://voice.example.test/media/a.b%2Fc"
    value = signature_headers(made, url, {})["X-Twilio-Signature"]
    assert RequestValidator(made.auth_token).validate(url, {}, value)
    assert not RequestValidator(made.auth_token).validate(url.replace("wss", "https"), {}, value)


def test_identifiers_have_the_vendors_shape() -> None:
    sid = new_sid("CA")
    assert re.fullmatch("CA[0-9a-f]{32}", sid)
