"""The doctor and the certificate of the public address: each way in which Twilio would not believe it, by its name."""

from __future__ import annotations

import ssl
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.doctoring import case_of, only, words
from tests.stack import free_ports
from tests.tls_front import HOST, Authority, Certificate, authority, front, self_signed
from worker.doctor import certificate
from worker.doctor.findings import Finding, State

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("authority"))


async def seen(trusted: Authority, shown: Certificate, *, believed: bool = True) -> Finding:
    """Look at a server that shows a certificate, as one who believes the authority or does not."""
    [port] = free_ports(1)
    case = case_of(public_base_url=f"https://{HOST}:{port}")
    if believed:
        case = replace(case, tls=ssl.create_default_context(cafile=str(trusted.root)))
    async with front(port, 1, shown):
        return await only(certificate.tls, case)


async def test_a_good_certificate_says_who_issued_it_and_how_long_it_lasts(trusted: Authority) -> None:
    finding = await seen(trusted, trusted.issue("good"))
    assert finding.state is State.OK, words(finding)
    assert "issued by Tests middle" in finding.said
    assert "2 certificates, the chain is complete" in finding.said
    assert finding.ms


async def test_one_that_expires_soon_is_a_warning(trusted: Authority) -> None:
    finding = await seen(trusted, trusted.issue("soon", days=10))
    assert finding.state is State.WARNING
    assert "renew" in finding.remedy


@pytest.mark.parametrize(
    ("shown", "said", "remedy"),
    [
        ("expired", "is expired", "renew it"),
        ("other", "is for voice.example.org, not for localhost", "PUBLIC_BASE_URL"),
        ("short", "the chain is not complete", "fullchain"),
    ],
)
async def test_what_is_wrong_with_a_certificate_is_said_with_what_to_do(
    trusted: Authority, shown: str, said: str, remedy: str
) -> None:
    made = {
        "expired": lambda: trusted.issue("expired", days=-1),
        "other": lambda: trusted.issue("other", "voice.example.org"),
        "short": lambda: trusted.issue("short", whole=False),
    }
    finding = await seen(trusted, made[shown]())
    assert finding.state is State.FAILED
    assert said in finding.said, words(finding)
    assert remedy in finding.remedy


async def test_one_that_nobody_vouches_for_is_said_to_be_signed_by_itself(trusted: Authority, tmp_path: Path) -> None:
    finding = await seen(trusted, self_signed(tmp_path))
    assert finding.state is State.FAILED
    assert "signed by itself" in finding.said


async def test_an_authority_of_ones_own_is_not_believed_until_it_is_named(trusted: Authority) -> None:
    finding = await seen(trusted, trusted.issue("private"), believed=False)
    assert finding.state is State.FAILED
    assert "SSL_CERT_FILE" in finding.remedy


async def test_a_port_where_nobody_listens_is_said_to_be_one() -> None:
    finding = await only(certificate.tls, case_of(public_base_url="https://localhost:1"))
    assert finding.state is State.FAILED
    assert "nobody listens" in finding.said


async def test_a_host_that_is_not_there_is_said_to_be_none() -> None:
    finding = await only(certificate.tls, case_of(public_base_url="https://nowhere.invalid"))
    assert "no such host" in finding.said


async def test_without_an_address_there_is_nothing_to_look_at_and_loopback_needs_no_certificate() -> None:
    assert (await only(certificate.tls, case_of())).state is State.NOT_TRIED
    assert (await only(certificate.tls, case_of(public_base_url="http://127.0.0.1:8080"))).state is State.OK


def test_days_are_counted_from_now() -> None:
    shown = certificate._Seen(({"notAfter": "Jan 31 00:00:00 2027 GMT"},), "TLSv1.3", 1.0)
    now = time.mktime(time.strptime("2027-01-01", "%Y-%m-%d")) - time.timezone
    assert "expires in 30 days" in certificate._believed("a", shown, now).said
