"""Requests to speak, by HTTP, and what their answers mean.

Source: openai 3.54 SDK (`resources/audio/speech.py`); OpenAI docs, "Error codes" (`insufficient_quota` is a 429 that no retry
changes); issue 32989 of microsoft/PowerToys (what a key of few permissions is answered).
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, Final
from urllib.parse import quote

import httpx2
import msgspec

from shared.metrics import Setback
from shared.settings import Settings
from worker.providers.line import Failed, cause_of
from worker.providers.openai_connections import Spares, WarmClient
from worker.providers.retry import Trouble

PROBE_S: Final = 3.0

OK: Final = 200
UNWELCOME: Final = frozenset({401, 403, 429})
OUT_OF_QUOTA: Final = "insufficient_quota"
NO_SUCH_MODEL: Final = "model_not_found"


class Refusal(Failed):
    """An answer that is no sound. `about` is the parameter that it names."""

    def __init__(self, status: int, code: str, about: str) -> None:
        super().__init__(" ".join(str(each) for each in (status, code, about) if each), status)
        self.code = code
        self.about = about


class SpeechClient:
    """Asks for sound, on connections that are open before. `may_ask` says whether any may be opened ahead now."""

    def __init__(self, settings: Settings, model: str, may_ask: Callable[[], bool]) -> None:
        base = settings.openai_base_url.rstrip("/")
        self._url = f"{base}/audio/speech"
        self._probe = f"{base}/models/{quote(model, safe='')}"
        self._headers = {"Authorization": f"Bearer {settings.openai_api_key.get_secret_value()}"}
        self._http = WarmClient()
        self._spares = Spares(self._http, self._probe, self._headers, may_ask)

    def warm(self) -> bool:
        """Say whether a connection is open and idle."""
        return self._spares.warm()

    def look(self) -> None:
        """Have another connection opened, if one is missing."""
        self._spares.look()

    async def open(self) -> Exception | None:
        """Open a connection, and keep some open from now on; say why requests would be refused, or where nobody answers.

        What is asked is the cheapest there is. Not every server knows it, and not every key may ask it (the answer is a 401
        that names the missing scope); then the answer says nothing.
        """
        try:
            async with asyncio.timeout(PROBE_S):
                answer = await self._http.get(self._probe, headers=self._headers)
        except (TimeoutError, httpx2.HTTPError) as error:
            await self._spares.open()
            return error
        refusal = refusal_of(answer.status_code, answer.content)
        if (refusal.status in UNWELCOME and b"scope" not in answer.content) or refusal.code == NO_SUCH_MODEL:
            return refusal
        await self._spares.open()
        return None

    async def close(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    async def speak(self, body: Mapping[str, object], trouble: Trouble) -> AsyncGenerator[bytes, None]:
        """Give the sound of one answer as it comes.

        Raises:
            Refusal: there is none.
            TimeoutError: the vendor says nothing any more, for longer than the trouble has patience.
            httpx2.HTTPError: the connection cannot be made, or is lost.
        """
        async with contextlib.AsyncExitStack() as stack:
            async with asyncio.timeout(trouble.patience_s):
                asking = self._http.stream("POST", self._url, headers=self._headers, json=body)
                answer = await stack.enter_async_context(asking)
                if answer.status_code != OK:
                    raise refusal_of(answer.status_code, await answer.aread())
            sound = answer.aiter_raw()
            while True:
                try:
                    async with asyncio.timeout(trouble.patience_s):
                        piece = await anext(sound)
                except StopAsyncIteration:
                    return
                trouble.works(time.monotonic())
                self._spares.works()
                yield piece


def refusal_of(status: int, body: bytes) -> Refusal:
    """Read an answer that is no sound. Its message is left out: to a wrong key it repeats parts of it."""
    try:
        error = msgspec.json.decode(body, type=dict[str, Any]).get("error")
    except msgspec.MsgspecError:
        error = None
    given: dict[str, Any] = error if isinstance(error, dict) else {}
    return Refusal(status, str(given.get("code") or ""), str(given.get("param") or ""))


def setback_of(error: Exception) -> Setback | None:
    """Say what kind of failure this is; None for one that no other try will change."""
    if isinstance(error, Refusal) and error.code == OUT_OF_QUOTA:
        return None
    if isinstance(error, httpx2.TimeoutException):
        return Setback.SILENT
    return cause_of(error)
