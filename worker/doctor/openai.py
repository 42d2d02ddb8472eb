"""OpenAI, or any server with its interface, asked as the workers ask it.

Source: OpenAI docs, "Chat completions" (streams), "Text to speech", "Realtime transcription".
"""

import json
from typing import Any, Final

from websockets.exceptions import ConnectionClosed

from worker.doctor.case import Case, Stopwatch
from worker.doctor.trouble import Refused
from worker.doctor.wire import answer_to, said_by, socket_to
from worker.providers.languages import base_language

STATUS: Final = {"invalid_api_key": 401, "insufficient_quota": 402, "model_not_found": 404, "rate_limit_exceeded": 429}
CUSTOM_VOICE: Final = "voice_"
SEVERAL_LANGUAGES: Final = ("gpt-live-transcribe", "gpt-transcribe")
QUESTION: Final = "Answer with the one word: ready"
BAD_REQUEST: Final = 400
REFUSED_CLOSE: Final = 3000
"""The close code of what is refused; its reason ends with the code of the error event, which may be missed."""


def _headers(case: Case) -> dict[str, str]:
    return {"Authorization": f"Bearer {case.conf.openai_api_key.get_secret_value()}"}


async def think(case: Case, model: str) -> float:
    """Ask for one word; give the milliseconds until the first token, connecting included. The rest is not waited for."""
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": QUESTION}]}
    watch = Stopwatch()
    async with answer_to(f"{case.conf.openai_base_url}/chat/completions", _headers(case), body, case.tls) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data:") and _token(line.removeprefix("data:").strip()):
                return watch.ms
    raise Refused(0, "said nothing")


def _token(text: str) -> bool:
    """Say whether an event brings something; an error among them is raised."""
    if text == "[DONE]":
        return False
    try:
        said = json.loads(text)
    except ValueError:
        raise Refused(0, "what it says is no JSON") from None
    if "error" in said:
        raise _refusal(said["error"], 0)
    return any((choice.get("delta") or {}).get("content") for choice in said.get("choices") or ())


async def speak(case: Case, text: str, voice: str, _language: str) -> tuple[float, float]:
    """Have something said; nothing is connected before. Give the milliseconds until the first sound."""
    chosen: object = {"id": voice} if voice.startswith(CUSTOM_VOICE) else voice
    body = {"model": case.conf.openai_tts_model, "voice": chosen, "input": text, "response_format": "pcm"}
    watch = Stopwatch()
    async with answer_to(f"{case.conf.openai_base_url}/audio/speech", _headers(case), body, case.tls) as answer:
        async for piece in answer.aiter_raw():
            if piece:
                return 0.0, watch.ms
    raise Refused(0, "said nothing")


async def hear(case: Case, language: str) -> float:
    """Open an ear; give the milliseconds until it hears."""
    model, code = case.conf.openai_stt_model, base_language(language)
    spoken = {"languages": [code]} if model.startswith(SEVERAL_LANGUAGES) else {"language": code}
    hearing = {
        "format": {"type": "audio/pcmu"},
        "transcription": {"model": model, **spoken},
        "turn_detection": None,
    }
    session = {"type": "transcription", "audio": {"input": hearing}}
    url = f"ws{case.conf.openai_base_url.removeprefix('http')}/realtime?intent=transcription"
    watch = Stopwatch()
    async with socket_to(url, _headers(case), case.tls) as socket:
        try:
            await socket.send(json.dumps({"type": "session.update", "session": session}))
            while (said := await said_by(socket)).get("type") != "session.updated":
                if said.get("type") == "error":
                    raise _refusal(said.get("error"), BAD_REQUEST)
        except ConnectionClosed as closed:
            if closed.rcvd is None or closed.rcvd.code != REFUSED_CLOSE:
                raise
            raise _refusal({"code": closed.rcvd.reason.rpartition(".")[2]}, BAD_REQUEST) from None
        return watch.ms


def _refusal(error: Any, status: int) -> Refused:
    given = error if isinstance(error, dict) else {}
    code = str(given.get("code") or given.get("type") or "failed")
    return Refused(STATUS.get(code, status), f"{code}: {given.get('message') or ''}")
