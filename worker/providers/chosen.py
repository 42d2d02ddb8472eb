"""Providers by name: which class serves `STT_PROVIDER`, `TTS_PROVIDER` and the agents' own choices. Imported when named."""

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any, Final

from pipecat.processors.frame_processor import FrameProcessor

from shared.agents import Agent
from shared.logs import get
from shared.messages import Problem
from shared.settings import Settings
from shared.workers import Resource
from worker.providers.interface import Ear, Voice
from worker.providers.languages import CARTESIA_OTHERS, CARTESIA_TURNS, cartesia_model
from worker.providers.retry import Trouble

log = get(__name__)

EARS: Final[dict[str, str]] = {
    "cartesia": "worker.providers.cartesia_stt:CartesiaEar",
    "cartesia turns": "worker.providers.cartesia_turns:CartesiaTurnsEar",
    "elevenlabs": "worker.providers.elevenlabs_stt:ElevenLabsEar",
    "openai": "worker.providers.openai_stt:OpenAIEar",
}
VOICES: Final[dict[str, str]] = {
    "cartesia": "worker.providers.cartesia_tts:CartesiaVoice",
    "elevenlabs": "worker.providers.elevenlabs_tts:ElevenLabsVoice",
    "openai": "worker.providers.openai_tts:OpenAIVoice",
}


def ear_of(settings: Settings, agent: Agent) -> str:
    """Name the ear of an agent."""
    name = agent.stt or settings.stt_provider
    model = cartesia_model(settings.cartesia_stt_model, settings.cartesia_stt_language or agent.language)
    return "cartesia turns" if name == "cartesia" and model.startswith(CARTESIA_TURNS) else name


def voice_of(settings: Settings, agent: Agent) -> str:
    """Name the voice of an agent."""
    return agent.tts or settings.tts_provider


def ears(settings: Settings, agents: Iterable[Agent], trouble: Trouble) -> dict[str, Ear]:
    """Make every ear that one of the agents has, by name."""
    names = sorted(_ears_named(settings, agents))
    return {name: _class(EARS[name])(settings, trouble) for name in names}


def voices(
    settings: Settings, agents: Iterable[Agent], on_lost: Callable[[str], None], trouble: Callable[[], Trouble]
) -> dict[str, Voice]:
    """Make every voice that one of the agents has, by name, with a trouble each: one that fails is no trouble of the others.

    `on_lost` is called when the active one is lost while parked.
    """
    names = sorted({settings.tts_provider, *(voice_of(settings, agent) for agent in agents)})
    return {name: _class(VOICES[name])(settings, on_lost, trouble()) for name in names}


def away(voices: Mapping[str, Voice]) -> tuple[Problem, ...]:
    """Say which voices cannot speak now, beside the active one."""
    silent = {name: voice for name, voice in voices.items() if not (voice.active or voice.warm())}
    return tuple(
        Problem(resource=f"{Resource.TTS} {name}", detail=voice.last_error or "is not connected")
        for name, voice in silent.items()
    )


def processors(services: Mapping[str, Ear] | Mapping[str, Voice]) -> list[FrameProcessor]:
    """Give the services as what they are to a pipeline."""
    return [service for service in services.values() if isinstance(service, FrameProcessor)]


def load(settings: Settings, agents: Iterable[Agent]) -> None:
    """Import what the agents need: for the zygote, so that no worker does."""
    every = list(agents)
    for name in (ears := _ears_named(settings, every)):
        _class(EARS[name])
    if "cartesia" in ears and settings.cartesia_stt_model.startswith(CARTESIA_TURNS):
        log.warning("hears English only", model=settings.cartesia_stt_model, others=CARTESIA_OTHERS)
    for name in {settings.tts_provider, *(voice_of(settings, agent) for agent in every)}:
        _class(VOICES[name])


def _ears_named(settings: Settings, agents: Iterable[Agent]) -> set[str]:
    return {ear_of(settings, agent) for agent in (Agent(), *agents)}


def _class(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
