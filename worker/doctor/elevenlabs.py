"""ElevenLabs, asked as the workers ask it.

A wrong key, voice or model is told after the upgrade, in a message. Source: ElevenLabs docs, "Multi-Context Websocket", API
reference "Realtime"; the words of errors as `worker.providers` has them.
"""

import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

from worker.doctor.case import Case, Stopwatch
from worker.doctor.trouble import Refused
from worker.doctor.wire import said_by, socket_to
from worker.providers.languages import base_language

STATUS: Final[Mapping[str, int]] = {
    "invalid_api_key": 401,
    "missing_api_key": 401,
    "auth_error": 401,
    "unauthorized": 401,
    "needs_authorization": 401,
    "quota_exceeded": 402,
    "payment_required": 402,
    "unaccepted_terms": 403,
    "voice_id_does_not_exist": 404,
    "voice_not_found": 404,
    "model_not_found": 404,
    "unsupported_model": 404,
    "invalid_request": 400,
    "too_many_concurrent_requests": 429,
    "concurrent_limit_exceeded": 429,
    "rate_limit_exceeded": 429,
    "rate_limited": 429,
    "system_busy": 503,
    "resource_exhausted": 503,
}


def _base(case: Case) -> str:
    return "ws" + case.conf.elevenlabs_url.removeprefix("http")


def _headers(case: Case) -> dict[str, str]:
    return {"xi-api-key": case.conf.elevenlabs_api_key.get_secret_value()}


async def speak(case: Case, text: str, voice: str, _language: str) -> tuple[float, float]:
    """Have something said; give the milliseconds until connected, and from there until the first sound."""
    query = urlencode({"model_id": case.conf.elevenlabs_tts_model, "output_format": "pcm_8000"})
    url = f"{_base(case)}/v1/text-to-speech/{quote(voice, safe='')}/multi-stream-input?{query}"
    watch = Stopwatch()
    async with socket_to(url, _headers(case), case.tls) as socket:
        connected_ms, watch = watch.ms, Stopwatch()
        for wanted in (
            {"text": " ", "context_id": "doctor"},
            {"text": f"{text} ", "context_id": "doctor", "flush": True},
            {"context_id": "doctor", "close_context": True},
        ):
            await socket.send(json.dumps(wanted))
        while not (said := await said_by(socket)).get("audio"):
            _refuse(said)
            if said.get("isFinal"):
                raise Refused(0, "said nothing")
        return connected_ms, watch.ms


async def hear(case: Case, language: str) -> float:
    """Open an ear; give the milliseconds until it hears."""
    query = {
        "model_id": case.conf.elevenlabs_stt_model,
        "audio_format": "pcm_8000",
        "commit_strategy": "manual",
        "language_code": base_language(language),
    }
    watch = Stopwatch()
    url = f"{_base(case)}/v1/speech-to-text/realtime?{urlencode(query)}"
    async with socket_to(url, _headers(case), case.tls) as socket:
        while (said := await said_by(socket)).get("message_type") != "session_started":
            _refuse(said)
        return watch.ms


def _refuse(said: dict[str, Any]) -> None:
    if "error" in said:
        kind = str(said.get("message_type") or said["error"])
        words = str(said.get("message") or said["error"])
        raise Refused(STATUS.get(kind, STATUS.get(str(said["error"]), 0)), f"{kind}: {words}")
