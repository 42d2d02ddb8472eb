"""The doctor asks every provider that is named, as the workers do, and turns what goes wrong into what to do about it."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import pytest

from tests.doctoring import case_of, found, only, words
from tests.standins import process as standins
from worker.doctor import speech
from worker.doctor.findings import State

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.standins.process import Standin
    from worker.doctor.case import Case
    from worker.doctor.rounds import Ask

KEY = "the-key-of-a-stand-in"
WORKS = {State.OK, State.WARNING}
"""How fast it was is no matter: that is the machine the tests run on."""

CLOSED = "ws://127.0.0.1:1"


@pytest.fixture(scope="module")
def running() -> Iterator[dict[str, Standin]]:
    with (
        standins.started("cartesia", connect_ms=1) as cartesia,
        standins.started("elevenlabs", connect_ms=1) as elevenlabs,
        standins.started("openai_api", realtime_connect_ms=1, llm_first_token_ms=1) as openai,
    ):
        yield {"cartesia": cartesia, "elevenlabs": elevenlabs, "openai": openai}


@pytest.fixture
async def vendors(running: dict[str, Standin]) -> AsyncIterator[dict[str, Standin]]:
    """Give the stand-ins, which are well again after each test."""
    before = {name: (await standin.state())["settings"] for name, standin in running.items()}
    yield running
    for name, standin in running.items():
        await standin.control(**before[name])


def case(vendors: dict[str, Standin], **settings: Any) -> Case:
    cartesia, openai = vendors["cartesia"], vendors["openai"]
    usual: dict[str, Any] = {
        "cartesia_api_key": KEY,
        "cartesia_tts_url": f"ws://127.0.0.1:{cartesia.port}/tts/websocket",
        "cartesia_stt_url": f"ws://127.0.0.1:{cartesia.port}",
        "cartesia_voice_id": "a-voice",
        "elevenlabs_api_key": KEY,
        "elevenlabs_url": vendors["elevenlabs"].url,
        "elevenlabs_voice_id": "another-voice",
        "openai_api_key": KEY,
        "openai_base_url": f"{openai.url}/v1",
    }
    return case_of(**usual | settings)


@pytest.mark.parametrize("provider", ["cartesia", "elevenlabs", "openai"])
async def test_a_voice_that_speaks_is_well_and_timed(vendors: dict[str, Standin], provider: str) -> None:
    finding = await only(speech.voices, case(vendors, tts_provider=provider))
    assert finding.state in WORKS, words(finding)
    assert finding.ms


@pytest.mark.parametrize(
    ("provider", "more"),
    [("cartesia", {}), ("cartesia", {"cartesia_stt_model": "ink-2"}), ("elevenlabs", {}), ("openai", {})],
)
async def test_an_ear_that_hears_is_well_and_timed(
    vendors: dict[str, Standin], provider: str, more: dict[str, str]
) -> None:
    finding = await only(speech.ears, case(vendors, stt_provider=provider, **more))
    assert finding.state in WORKS, words(finding)
    assert finding.ms


async def test_a_model_that_answers_is_well_and_timed(vendors: dict[str, Standin]) -> None:
    finding = await only(speech.models, case(vendors))
    assert finding.state in WORKS, words(finding)
    assert finding.ms


ASKS = [
    (speech.voices, "cartesia", "CARTESIA_API_KEY"),
    (speech.ears, "cartesia", "CARTESIA_API_KEY"),
    (speech.voices, "elevenlabs", "ELEVENLABS_API_KEY"),
    (speech.ears, "elevenlabs", "ELEVENLABS_API_KEY"),
    (speech.voices, "openai", "OPENAI_API_KEY"),
    (speech.ears, "openai", "OPENAI_API_KEY"),
    (speech.models, "openai", "OPENAI_API_KEY"),
]
NAMES = [f"{ask.__name__} of {provider}" for ask, provider, _ in ASKS]


@pytest.mark.parametrize(("ask", "provider", "key"), ASKS, ids=NAMES)
async def test_a_wrong_key_is_named_by_its_setting_and_never_shown(
    vendors: dict[str, Standin], ask: Ask, provider: str, key: str
) -> None:
    await vendors[provider].control(api_key="the-right-one")
    finding = await only(ask, case(vendors, stt_provider=provider, tts_provider=provider))
    assert finding.state is State.FAILED
    assert "401" in finding.said
    assert key in finding.remedy
    assert KEY not in words(finding)


@pytest.mark.parametrize(("ask", "provider", "key"), ASKS, ids=NAMES)
async def test_a_key_that_is_not_there_is_not_tried(
    vendors: dict[str, Standin], ask: Ask, provider: str, key: str
) -> None:
    conf = {"stt_provider": provider, "tts_provider": provider, key.lower(): ""}
    finding = await only(ask, case(vendors, **conf))
    assert finding.state is State.NOT_TRIED
    assert key in finding.said


@pytest.mark.parametrize(
    ("ask", "provider", "settings", "named"),
    [
        (speech.voices, "cartesia", {"cartesia_tts_url": CLOSED}, "CARTESIA_TTS_URL"),
        (speech.ears, "cartesia", {"cartesia_stt_url": CLOSED}, "CARTESIA_STT_URL"),
        (speech.voices, "elevenlabs", {"elevenlabs_url": "http://127.0.0.1:1"}, "ELEVENLABS_URL"),
        (speech.models, "openai", {"openai_base_url": "http://127.0.0.1:1/v1"}, "OPENAI_BASE_URL"),
        (speech.ears, "openai", {"openai_base_url": "http://127.0.0.1:1/v1"}, "OPENAI_BASE_URL"),
    ],
)
async def test_an_address_where_nobody_listens_is_named_by_its_setting(
    vendors: dict[str, Standin], ask: Ask, provider: str, settings: dict[str, str], named: str
) -> None:
    finding = await only(ask, case(vendors, stt_provider=provider, tts_provider=provider, **settings))
    assert finding.state is State.FAILED
    assert "refused: nobody listens" in finding.said
    assert named in finding.remedy


async def test_a_host_that_is_not_there_is_said_to_be_none(vendors: dict[str, Standin]) -> None:
    finding = await only(speech.models, case(vendors, openai_base_url="http://nowhere.invalid/v1"))
    assert "there is no such host" in finding.said
    assert "OPENAI_BASE_URL" in finding.remedy


async def test_a_model_that_does_not_exist_is_named_by_its_setting(vendors: dict[str, Standin]) -> None:
    await vendors["openai"].control(fail_status=404, fail_code="model_not_found")
    finding = await only(speech.models, case(vendors, openai_model="gpt-0"))
    assert "gpt-0" in finding.said
    assert "OPENAI_MODEL" in finding.remedy


async def test_an_account_without_credit_is_said_to_be_one(vendors: dict[str, Standin]) -> None:
    await vendors["openai"].control(fail_status=429, fail_code="insufficient_quota")
    assert "no credit" in (await only(speech.models, case(vendors))).remedy


async def test_a_plan_that_is_used_up_is_said_to_be_one_and_its_limit_named(vendors: dict[str, Standin]) -> None:
    await vendors["cartesia"].control(refuse_status=429)
    finding = await only(speech.voices, case(vendors))
    assert "used up" in finding.remedy
    assert "TTS_MAX_CONNECTIONS" in finding.remedy


async def test_a_provider_in_trouble_is_not_ours_to_mend(vendors: dict[str, Standin]) -> None:
    await vendors["openai"].control(fail_status=500)
    assert "trouble of its own" in (await only(speech.models, case(vendors))).remedy


async def test_a_voice_that_does_not_exist_is_named_by_where_it_was_chosen(
    vendors: dict[str, Standin], tmp_path: Path
) -> None:
    agents = tmp_path / "agents.toml"
    agents.write_text('[agents.default]\n[agents.other]\nvoice = "nobody"\nnumbers = ["+15550001111"]\n')
    await vendors["cartesia"].control(tts_error_code=404, tts_error_next=2)
    findings = await found(speech.voices, case(vendors, agents_file=agents))
    assert ["CARTESIA_VOICE_ID" in findings[0].remedy, "agent other: voice" in findings[1].remedy] == [True, True]


async def test_every_provider_that_an_agent_names_is_asked_and_each_only_once(
    vendors: dict[str, Standin], tmp_path: Path
) -> None:
    agents = tmp_path / "agents.toml"
    agents.write_text(
        "[agents.default]\n"
        '[agents.a]\ntts = "elevenlabs"\nstt = "openai"\nmodel = "gpt-4.1-mini"\nnumbers = ["+15550001111"]\n'
        '[agents.b]\ntts = "elevenlabs"\nlanguage = "pt-BR"\nnumbers = ["+15550001112"]\n'
        '[agents.c]\nnumbers = ["+15550001113"]\n'
    )
    asked = case(vendors, agents_file=agents)
    voices, ears, models = [
        [finding.said.partition(":")[0] for finding in await found(ask, asked)]
        for ask in (speech.voices, speech.ears, speech.models)
    ]
    assert voices == [
        "Cartesia voice a-voice in en", "ElevenLabs voice another-voice in en", "ElevenLabs voice another-voice in pt-BR",
    ]  # fmt: skip
    assert ears == [
        "Cartesia ear ink-whisper in en", "OpenAI ear gpt-live-transcribe in en", "Cartesia ear ink-whisper in pt-BR",
    ]  # fmt: skip
    assert models == ["model gpt-4.1", "model gpt-4.1-mini"]


async def test_the_providers_of_the_settings_are_asked_though_no_agent_has_them(
    vendors: dict[str, Standin], tmp_path: Path
) -> None:
    agents = tmp_path / "agents.toml"
    agents.write_text('[agents.default]\ntts = "elevenlabs"\n')
    assert len(await found(speech.voices, case(vendors, agents_file=agents))) == 2


async def test_a_provider_that_never_answers_hides_nothing_of_another(
    vendors: dict[str, Standin], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speech, "ASKING_S", 3.0)
    agents = tmp_path / "agents.toml"
    agents.write_text('[agents.default]\n[agents.a]\ntts = "elevenlabs"\nnumbers = ["+15550001111"]\n')
    await vendors["cartesia"].control(stall_tts=True)
    silent, speaking = await found(speech.voices, case(vendors, agents_file=agents))
    assert silent.state is State.FAILED
    assert "no answer in time" in silent.said
    assert speaking.state in WORKS, words(speaking)


async def test_a_certificate_that_is_not_believed_is_said_to_be_one() -> None:
    from worker.doctor.trouble import Service, trouble

    error = ConnectionError("no TLS")
    error.__cause__ = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.__cause__.verify_message = "self-signed certificate"
    finding = trouble(Service("A", "A_KEY", "A_URL"), error)
    assert "not believed: self-signed certificate" in finding.said
    assert "SSL_CERT_FILE" in finding.remedy
