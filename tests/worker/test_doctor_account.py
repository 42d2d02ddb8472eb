"""The doctor and Twilio's account: the numbers whose calls should come here, and making them do so."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from twilio.rest import Client

from tests.doctoring import case_of, found, only, words
from tests.standins import process as standins
from worker.doctor import account
from worker.doctor.findings import State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.standins.process import Standin
    from worker.doctor.case import Case

ACCOUNT, TOKEN = "AC00000000000000000000000000000001", "the-token-of-the-stand-in"
FIRST, SECOND = "+15550001111", "+15550001112"
PUBLIC = "https://voice.example.test"
WEBHOOK = f"{PUBLIC}/incoming-call"
ELSEWHERE = "https://elsewhere.example.test/voice"


@pytest.fixture
def carrier() -> Iterator[Standin]:
    with standins.started("carrier", account_sid=ACCOUNT, auth_token=TOKEN) as made:
        yield made


def case(carrier: Standin, *named: str, **settings: Any) -> Case:
    usual = {
        "twilio_account_sid": ACCOUNT,
        "twilio_auth_token": TOKEN,
        "twilio_api_base_url": carrier.url,
        "public_base_url": PUBLIC,
    }
    return case_of(*named, **usual | settings)


async def put(carrier: Standin, number: str = FIRST, **fields: str) -> None:
    """Set a number in the vendor's own way, as an operator has in the console."""

    def change() -> None:
        client = Client(ACCOUNT, TOKEN)
        client.api.base_url = carrier.url
        [owned] = client.incoming_phone_numbers.list(phone_number=number)
        owned.update(**fields)

    await asyncio.to_thread(change)


async def test_an_account_that_lets_us_in_is_active(carrier: Standin) -> None:
    finding = await only(account.account, case(carrier))
    assert finding.state is State.OK, words(finding)


async def test_a_wrong_token_is_named_by_its_setting(carrier: Standin) -> None:
    finding = await only(account.account, case(carrier, twilio_auth_token="another-token"))
    assert finding.state is State.FAILED
    assert "TWILIO_AUTH_TOKEN" in finding.remedy
    assert "another-token" not in words(finding)


async def test_a_missing_account_is_asked_for(carrier: Standin) -> None:
    assert "TWILIO_ACCOUNT_SID" in (await only(account.account, case(carrier, twilio_account_sid=""))).said


async def test_an_address_where_nobody_listens_is_named_by_its_setting(carrier: Standin) -> None:
    finding = await only(account.account, case(carrier, twilio_api_base_url="http://127.0.0.1:1"))
    assert "TWILIO_API_BASE_URL" in finding.remedy


async def test_a_number_whose_calls_go_elsewhere_is_shown_with_where_and_offered(carrier: Standin) -> None:
    await put(carrier, voice_url=ELSEWHERE)
    finding = await only(account.numbers, case(carrier))
    assert finding.state is State.FAILED
    assert ELSEWHERE in finding.said
    assert finding.number == FIRST
    assert "--set-webhook" in finding.remedy


async def test_a_number_whose_calls_come_by_get_is_offered(carrier: Standin) -> None:
    await put(carrier, voice_url=WEBHOOK, voice_method="GET")
    assert (await only(account.numbers, case(carrier))).number == FIRST


async def test_a_number_of_an_application_or_a_trunk_does_not_call_here_whatever_its_url(carrier: Standin) -> None:
    await put(carrier, voice_url=WEBHOOK, voice_application_sid="AP1")
    assert "application" in (await only(account.numbers, case(carrier))).said
    await put(carrier, voice_application_sid="", trunk_sid="TK1")
    finding = await only(account.numbers, case(carrier))
    assert "trunk" in finding.said
    assert finding.number == ""


@pytest.mark.parametrize(
    ("fallback", "said"), [("", "no fallback"), (f"{PUBLIC}/sorry", "on this host"), (ELSEWHERE, "is elsewhere")]
)
async def test_a_fallback_is_to_be_there_and_not_here(carrier: Standin, fallback: str, said: str) -> None:
    await put(carrier, voice_url=WEBHOOK, voice_fallback_url=fallback, status_callback=f"{PUBLIC}/call-status")
    findings = await found(account.numbers, case(carrier))
    assert findings[0].state is State.OK
    assert said in findings[1].said
    assert (findings[1].state is State.OK) == (fallback == ELSEWHERE)


async def test_the_parameters_of_a_connection_are_no_part_of_its_address(carrier: Standin) -> None:
    await put(carrier, voice_url=f"{WEBHOOK}#rc=2")
    assert (await found(account.numbers, case(carrier)))[0].state is State.OK


async def test_a_number_that_is_not_ours_is_named_by_its_end(carrier: Standin) -> None:
    finding = await only(account.numbers, case(carrier, "+15559998888"))
    assert finding.state is State.FAILED
    assert "...8888" in finding.said


async def test_of_several_numbers_nobody_named_those_that_call_here_count(carrier: Standin) -> None:
    await carrier.control(numbers=f"{FIRST},{SECOND}")
    assert "--number" in (await only(account.numbers, case(carrier))).remedy
    await put(carrier, SECOND, voice_url=WEBHOOK)
    findings = await found(account.numbers, case(carrier))
    assert [("...1112" in finding.said) for finding in findings] == [True, True]


async def test_an_account_without_a_number_is_said_to_have_none(carrier: Standin) -> None:
    await carrier.control(numbers="")
    assert "no number" in (await only(account.numbers, case(carrier))).said


async def test_a_number_is_made_to_call_here_and_nothing_else_of_it_changes(carrier: Standin) -> None:
    await put(carrier, voice_url=ELSEWHERE, voice_fallback_url=ELSEWHERE, status_callback=ELSEWHERE)
    findings = await account.point_here(case(carrier), FIRST)
    assert findings[0].state is State.OK
    assert ELSEWHERE in findings[0].said
    after = await found(account.numbers, case(carrier))
    assert [finding.state for finding in after] == [
        State.OK,
        State.OK,
        State.NOT_TRIED,
    ]  # its own status callback is left


async def test_a_number_without_a_status_callback_gets_ours(carrier: Standin) -> None:
    await put(carrier, voice_url=ELSEWHERE, voice_fallback_url=ELSEWHERE, voice_application_sid="AP1")
    await account.point_here(case(carrier), FIRST)
    assert [finding.state for finding in await found(account.numbers, case(carrier))] == [State.OK, State.OK]


async def test_a_number_that_is_gone_when_it_is_to_be_set_is_a_failure(carrier: Standin) -> None:
    [finding] = await account.point_here(case(carrier), "+15559998888")
    assert finding.state is State.FAILED
