"""Cartesia, asked as the workers ask it. Source: Cartesia docs, "TTS (WebSocket)", "STT manual finalize", "Turn detection"."""

import json
from typing import Any, Final
from urllib.parse import quote, urlencode

from worker.doctor.case import Case, Stopwatch
from worker.doctor.trouble import Refused
from worker.doctor.wire import said_by, socket_to
from worker.providers.languages import CARTESIA_TURNS, base_language, cartesia_model

API_VERSION: Final = "2026-03-01"
RATE_HZ: Final = 8000
EAR_RATE_HZ: Final = 16_000
SILENCE: Final = bytes(EAR_RATE_HZ * 2 // 5)
"""0.2 s of it: a model is looked up when there is something to hear."""


def _headers(case: Case) -> dict[str, str]:
    return {"X-API-Key": case.conf.cartesia_api_key.get_secret_value(), "Cartesia-Version": API_VERSION}


async def speak(case: Case, text: str, voice: str, language: str) -> tuple[float, float]:
    """Have something said; give the milliseconds until connected, and from there until the first sound."""
    watch = Stopwatch()
    async with socket_to(case.conf.cartesia_tts_url, _headers(case), case.tls) as socket:
        connected_ms, watch = watch.ms, Stopwatch()
        wanted = {
            "transcript": text,
            "continue": False,
            "context_id": "doctor",
            "model_id": case.conf.cartesia_tts_model,
            "voice": {"mode": "id", "id": voice},
            "language": base_language(language),
            "output_format": {"container": "raw", "encoding": "pcm_s16le", "sample_rate": RATE_HZ},
        }
        await socket.send(json.dumps(wanted))
        while (said := await said_by(socket)).get("type") != "chunk":
            _refuse(said)
            if said.get("type") == "done":
                raise Refused(0, "said nothing")
        return connected_ms, watch.ms


async def hear(case: Case, language: str) -> float:
    """Open an ear; give the milliseconds until it hears."""
    language = case.conf.cartesia_stt_language or base_language(language)
    model = cartesia_model(case.conf.cartesia_stt_model, language)
    turns = model.startswith(CARTESIA_TURNS)
    query = {"model": model, "encoding": "pcm_s16le", "sample_rate": str(EAR_RATE_HZ)}
    query |= {} if turns else {"language": language}
    path = "stt/turns/websocket" if turns else "stt/websocket"
    url = f"{case.conf.cartesia_stt_url}/{path}?{urlencode(query, quote_via=quote)}"
    watch = Stopwatch()
    async with socket_to(url, _headers(case), case.tls) as socket:
        wanted = "connected" if turns else "flush_done"
        connected_ms = watch.ms
        if not turns:
            await socket.send(SILENCE)
            await socket.send("finalize")
        while (said := await said_by(socket)).get("type") != wanted:
            _refuse(said)
        return watch.ms if turns else connected_ms


def _refuse(said: dict[str, Any]) -> None:
    if said.get("type") == "error":
        status = said.get("status_code")
        raise Refused(status if isinstance(status, int) else 0, str(said.get("message") or said.get("error") or said))
