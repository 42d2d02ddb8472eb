"""Who hears, who speaks and who thinks: every provider, model and voice that the settings or an agent name, once each."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Final

from shared.agents import Agent
from shared.processes import FOR_SPEECH
from worker.doctor import cartesia, elevenlabs, openai
from worker.doctor.case import Case
from worker.doctor.findings import Finding, not_tried, timed
from worker.doctor.trouble import Service, trouble
from worker.providers.languages import base_language

SLOW_VOICE_MS: Final = 500.0
"""From a sentence to its first sound: on top of the model's time it is all that a caller waits for."""

SLOW_EAR_MS: Final = 1500.0
"""It is opened while Twilio dials the stream, which takes about that long with the greeting."""

SLOW_MODEL_MS: Final = 1500.0
"""To the first token, on a connection that has to be made first: two thirds of it is what an answer takes in a call."""

ASKING_S: Final = 9.0
"""For each: one that never answers must not hide what the others said, so it is less than the whole check has."""

SAYING: Final = {"pt": "Pronto.", "es": "Listo.", "fr": "Prêt.", "de": "Bereit.", "it": "Pronto."}
NEAR: Final = "run it nearer to the provider (region), or take a faster model"

VENDORS: Final[Mapping[str, ModuleType]] = {"cartesia": cartesia, "elevenlabs": elevenlabs, "openai": openai}
NAMES: Final = {"cartesia": "Cartesia", "elevenlabs": "ElevenLabs", "openai": "OpenAI"}
EAR_URLS: Final = {"cartesia": "CARTESIA_STT_URL", "elevenlabs": "ELEVENLABS_URL", "openai": "OPENAI_BASE_URL"}
VOICE_URLS: Final = EAR_URLS | {"cartesia": "CARTESIA_TTS_URL"}


@dataclass(frozen=True, slots=True)
class _Use:
    """Something that is used: `said` names it, `chosen` is where it was chosen."""

    provider: str
    said: str
    chosen: str
    model: str = ""
    voice: str = ""
    language: str = ""


async def voices(case: Case) -> AsyncGenerator[Finding, None]:
    """Have each voice say a word."""
    for finding in await _each(_once(_voice(case, agent) for agent in _agents(case)), lambda use: _speak(case, use)):
        yield finding


async def ears(case: Case) -> AsyncGenerator[Finding, None]:
    """Open each ear."""
    for finding in await _each(_once(_ear(case, agent) for agent in _agents(case)), lambda use: _hear(case, use)):
        yield finding


async def models(case: Case) -> AsyncGenerator[Finding, None]:
    """Ask each model for a word."""
    for finding in await _each(_once(_model(case, agent) for agent in _agents(case)), lambda use: _think(case, use)):
        yield finding


def _agents(case: Case) -> list[Agent]:
    """List the agents; and the settings' providers, which have to be complete even if no agent has them."""
    every = [*case.agents.all]
    hears, speaks = ({getattr(agent, kind) or usual for agent in every} for kind, usual in _usual(case))
    if case.conf.stt_provider not in hears or case.conf.tts_provider not in speaks:
        every.append(Agent())
    return every


def _usual(case: Case) -> tuple[tuple[str, str], ...]:
    return ("stt", case.conf.stt_provider), ("tts", case.conf.tts_provider)


async def _each(uses: Iterable[_Use], ask: Callable[[_Use], Awaitable[Finding]]) -> list[Finding]:
    return await asyncio.gather(*map(ask, uses))


def _once(uses: Iterable[_Use]) -> list[_Use]:
    """Keep the first of those that ask a provider for the same."""
    kept: dict[tuple[str, str, str, str], _Use] = {}
    for use in uses:
        kept.setdefault((use.provider, use.model, use.voice, base_language(use.language)), use)
    return list(kept.values())


def _voice(case: Case, agent: Agent) -> _Use:
    conf, provider = case.conf, agent.tts or case.conf.tts_provider
    usual = {
        "cartesia": conf.cartesia_voice_id,
        "elevenlabs": conf.elevenlabs_voice_id,
        "openai": conf.openai_tts_voice,
    }
    settings = {"cartesia": "CARTESIA_VOICE_ID", "elevenlabs": "ELEVENLABS_VOICE_ID", "openai": "OPENAI_TTS_VOICE"}
    own = f"AGENTS_FILE: agent {agent.name}: voice"
    voice = agent.voice or usual[provider]
    chosen = f"{own if agent.voice else settings[provider]}, or {provider.upper()}_TTS_MODEL"
    return _Use(provider, f"voice {voice} in {agent.language}", chosen, "", voice, agent.language)


def _ear(case: Case, agent: Agent) -> _Use:
    provider = agent.stt or case.conf.stt_provider
    model = str(getattr(case.conf, f"{provider}_stt_model"))
    return _Use(
        provider, f"ear {model} in {agent.language}", f"{provider.upper()}_STT_MODEL", model, "", agent.language
    )


def _model(case: Case, agent: Agent) -> _Use:
    model = agent.model or case.conf.openai_model
    chosen = f"AGENTS_FILE: agent {agent.name}: model" if agent.model else "OPENAI_MODEL"
    return _Use("openai", f"model {model}", chosen, model)


async def _speak(case: Case, use: _Use) -> Finding:
    service = _service(use, VOICE_URLS, "TTS_MAX_CONNECTIONS")
    text = SAYING.get(base_language(use.language), "Ready.")

    async def ask() -> Finding:
        connected_ms, first_ms = await VENDORS[use.provider].speak(case, text, use.voice, use.language)
        connected = f"connected in {connected_ms:.0f} ms, " if connected_ms else ""
        return timed(f"{service.name} {use.said}: {connected}first sound", first_ms, SLOW_VOICE_MS, NEAR)

    return await _asked(case, service, use, ask)


async def _hear(case: Case, use: _Use) -> Finding:
    service = _service(use, EAR_URLS, "STT_MAX_CONNECTIONS")

    async def ask() -> Finding:
        ms = await VENDORS[use.provider].hear(case, use.language)
        return timed(f"{service.name} {use.said}: connected", ms, SLOW_EAR_MS, NEAR)

    return await _asked(case, service, use, ask)


async def _think(case: Case, use: _Use) -> Finding:
    service = _service(use, EAR_URLS, "")

    async def ask() -> Finding:
        return timed(f"{use.said}: first token", await openai.think(case, use.model), SLOW_MODEL_MS, NEAR)

    return await _asked(case, service, use, ask)


async def _asked(case: Case, service: Service, use: _Use, ask: Callable[[], Awaitable[Finding]]) -> Finding:
    """Ask, and make a finding of whatever goes wrong: others are asked at the same time."""
    if not getattr(case.conf, service.key.lower()).get_secret_value():
        return not_tried(f"{service.name} {use.said}: there is no {service.key}")
    try:
        async with asyncio.timeout(ASKING_S):
            return await ask()
    except Exception as error:  # noqa: BLE001 - whatever a provider does is what is to be found out
        return trouble(service, error, use.said)


def _service(use: _Use, urls: Mapping[str, str], limits: str) -> Service:
    return Service(NAMES[use.provider], FOR_SPEECH[use.provider][0], urls[use.provider], use.chosen, limits)
