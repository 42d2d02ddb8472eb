"""A stand-in for OpenAI's chat completions: scripted answers first, then the rules of tests.standins.rules.

    python -m tests.standins.openai_api --port 0 --llm-first-token-ms 300 --lexicon tests/data/speech

Its speech is in tests.standins.openai_speech.

`POST /_control` knows the settings of `OpenAISettings` and the action `script`: a list of answers
`{"text": ...}` or `{"tool": ..., "arguments": {...}, "text": ...}`, used up in order by the requests that follow.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.standins import openai_wire as wire
from tests.standins import rules
from tests.standins.control import Control, parser, serve, settings_from
from tests.standins.openai_cache import CHARACTERS_PER_TOKEN, PromptCache, written
from tests.standins.openai_speech import Desk, SpeechSettings
from tests.standins.openai_speech_wire import SPEECH_MODELS, TRANSCRIPTION_MODELS
from tests.standins.speech import ScriptedSpeech

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

LONGEST_CACHE_KEY = 64  # characters
MODELS = ("gpt-4.1", "gpt-4.1-mini", "gpt-4o", "gpt-4o-mini", *SPEECH_MODELS, *TRANSCRIPTION_MODELS)


@dataclass(frozen=True, slots=True)
class OpenAISettings(SpeechSettings):
    """Latencies in ms and faults; 0 and empty mean none."""

    api_key: str = ""  # the only one accepted; empty accepts any, but one must be there
    llm_first_token_ms: float = 300.0
    token_ms: float = 10.0  # between tokens
    fail_status: int = 0  # answer requests with this HTTP status
    fail_code: str = ""  # and this `code` in the error, for instance insufficient_quota
    fail_next: int = 0  # only so many requests fail (with 500 if no status is set), then all is well again
    retry_after: str = ""  # sent with the failures, as the header `retry-after`
    stall: bool = False  # take requests, never answer
    drop_before_stream: bool = False  # cut the connection instead of answering
    drop_mid_stream: bool = False  # cut the connection after half of a stream
    stall_mid_stream: bool = False  # say nothing more after half of a stream
    break_next: int = 0  # only so many requests stall or are cut, then all is well again
    keep_alive_s: float = 0.0  # close connections that are idle for so long; 0 leaves that to the client
    cache_idle_s: float = 300.0  # how long a prompt is known that nobody asks for
    refuse_cache_key: bool = False  # as servers of others do, which do not know that parameter


class ChatRequest(msgspec.Struct, frozen=True):
    """What is read of a request; the rest is the business of a real model."""

    model: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] = msgspec.field(default_factory=list)
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    prompt_cache_key: str = ""


class ScriptedAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row of the script."""

    text: str = ""
    tool: str | None = None
    arguments: dict[str, Any] = msgspec.field(default_factory=dict)


class Model:
    """Answers requests, one script for all of them."""

    def __init__(self, settings: OpenAISettings, desk: Desk) -> None:
        self.control = Control(settings, actions={"script": self._set_script, **desk.actions}, gauges=desk.gauges)
        desk.control = self.control
        self._script: deque[ScriptedAnswer] = deque()
        self._number = 0
        self._connections: set[int] = set()
        self._cache = PromptCache()

    async def completions(self, request: Request) -> Response:
        """Serve `POST /v1/chat/completions`."""
        settings = self.control.settings
        fresh = self._count(request)
        if refusal := self._refusal(request):
            return refusal
        try:
            asked = msgspec.json.decode(await request.body(), type=ChatRequest)
        except msgspec.MsgspecError as error:
            return JSONResponse(wire.error(400, str(error)), 400)
        if asked.prompt_cache_key and settings.refuse_cache_key:
            words = "Unrecognized request argument supplied: prompt_cache_key"
            return JSONResponse(wire.error(400, words), 400)
        if len(asked.prompt_cache_key) > LONGEST_CACHE_KEY:
            words = f"Invalid 'prompt_cache_key': string too long. Expected at most {LONGEST_CACHE_KEY} characters."
            return JSONResponse(wire.error(400, words, "string_above_max_length"), 400)
        entry = self.control.note(
            "completion",
            messages=asked.messages,
            model=asked.model,
            stream=asked.stream,
            tools=[tool.get("function", {}).get("name") for tool in asked.tools],
            prompt_cache_key=asked.prompt_cache_key,
            connection=request.scope["state"]["connection"],
            fresh=fresh,  # nothing was asked on that connection before
        )
        self._spend(settings)
        if settings.drop_before_stream:
            self.control.counters["dropped"] += 1
            request.scope["state"]["transport"].abort()
        if settings.stall or settings.drop_before_stream:
            self.control.counters["stalled"] += settings.stall
            await _gone(request.receive)
            self.control.counters["cancelled"] += 1
            return Response(status_code=499)  # nobody is there to read it
        completion = self._completion(asked)
        entry.update(answer=msgspec.to_builtins(completion.answer), usage=completion.usage)
        if asked.stream:
            options = asked.stream_options or {}
            blocks = list(completion.chunks(include_usage=bool(options.get("include_usage"))))
            return TokenStream(self.control, settings, entry, blocks)
        await asyncio.sleep(settings.llm_first_token_ms / 1000)
        entry["done_at"] = time.monotonic()
        return JSONResponse(completion.whole())

    async def models(self, request: Request) -> Response:
        """Serve `GET /v1/models`, which clients also use to open a connection early."""
        return self._about_models(request, {"object": "list", "data": [wire.model(name) for name in MODELS]})

    async def model(self, request: Request) -> Response:
        """Serve `GET /v1/models/{model}`: the same of one."""
        name = request.path_params["name"]
        return self._about_models(request, wire.model(name) if name in MODELS else None)

    def _about_models(self, request: Request, answer: dict[str, object] | None) -> Response:
        fresh = self._count(request)
        if refusal := self._refusal(request, asked_for=False):
            return refusal
        self.control.note("models", connection=request.scope["state"]["connection"], fresh=fresh)
        if answer is None:
            return JSONResponse(wire.error(404, "The model does not exist", "model_not_found"), 404)
        return JSONResponse(answer)

    def _completion(self, asked: ChatRequest) -> wire.Completion:
        self._number += 1
        if self._script:
            row = self._script.popleft()
            answer = rules.Answer(row.text, row.tool, row.arguments)
        else:
            answer = rules.answer(asked.messages, asked.tools)
        prompt = written(asked.messages, asked.tools)
        cached = self._cache.read(prompt, asked.prompt_cache_key, time.monotonic(), self.control.settings.cache_idle_s)
        usage = wire.usage(len(prompt) // CHARACTERS_PER_TOKEN, cached, answer)
        return wire.Completion(f"chatcmpl-{self._number:06}", int(time.time()), asked.model, answer, usage)

    def _spend(self, settings: OpenAISettings) -> None:
        """Use up one of the breaks that were ordered; after the last one there are no more."""
        breaks = ("stall", "drop_before_stream", "drop_mid_stream", "stall_mid_stream")
        if settings.break_next and any(getattr(settings, name) for name in breaks):
            left = settings.break_next - 1
            over: dict[str, Any] = {} if left else dict.fromkeys(breaks, False)
            self.control.settings = dataclasses.replace(self.control.settings, break_next=left, **over)

    def _count(self, request: Request) -> bool:
        """Count the request, and its TCP connection if it is the first on it; say whether it is."""
        self.control.counters["requests"] += 1
        connection = request.scope["state"]["connection"]
        fresh = connection not in self._connections
        self.control.counters["connections"] += fresh
        self._connections.add(connection)
        return fresh

    def _refusal(self, request: Request, *, asked_for: bool = True) -> JSONResponse | None:
        """Refuse a request, if it is to be. Failures that are counted are those of completions."""
        settings = self.control.settings
        key = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        if not key or (settings.api_key and key != settings.api_key):
            return JSONResponse(wire.error(401, "Incorrect API key provided.", "invalid_api_key"), 401)
        if not settings.fail_next and not settings.fail_status:
            return None
        if settings.fail_next and not asked_for:
            return None
        status = settings.fail_status or 500
        if settings.fail_next:
            left = settings.fail_next - 1
            self.control.settings = dataclasses.replace(
                settings, fail_next=left, fail_status=settings.fail_status if left else 0
            )
        self.control.counters["failed"] += 1
        self.control.note("failed", status=status)
        headers = {"retry-after": settings.retry_after} if settings.retry_after else None
        return JSONResponse(wire.error(status, "made to fail", settings.fail_code or None), status, headers)

    def _set_script(self, rows: object) -> None:
        try:
            self._script = deque(msgspec.convert(rows, list[ScriptedAnswer]))
        except msgspec.ValidationError as error:
            raise ValueError(f"script: {error}") from None


class TokenStream(Response):
    """Server-sent events at the pace of a model. Stops when the client goes away, as a barge-in makes it do."""

    media_type = "text/event-stream"

    def __init__(
        self,
        control: Control[OpenAISettings],
        settings: OpenAISettings,
        entry: dict[str, object],
        blocks: list[str],
    ) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._control = control
        self._settings = settings
        self._entry = entry
        self._blocks = blocks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the blocks."""
        settings = self._settings
        due = time.monotonic() + settings.llm_first_token_ms / 1000
        gone = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({gone}, timeout=max(0.0, due - time.monotonic()))
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            self._entry["first_token_at"] = time.monotonic()
            for index, block in enumerate(self._blocks):
                await asyncio.wait({gone}, timeout=max(0.0, due - time.monotonic()))
                if gone.done():
                    self._control.counters["cancelled"] += 1
                    self._entry["cancelled_at"] = time.monotonic()
                    return
                if index > len(self._blocks) // 2 and (settings.drop_mid_stream or settings.stall_mid_stream):
                    self._control.counters["broken"] += 1
                    if settings.drop_mid_stream:
                        scope["state"]["transport"].abort()
                    await gone
                    return
                await send({"type": "http.response.body", "body": block.encode(), "more_body": True})
                if index < len(self._blocks) - 3:  # finish, usage and the end follow at once
                    due += settings.token_ms / 1000
            await send({"type": "http.response.body", "body": b""})
            self._entry["done_at"] = time.monotonic()
        finally:
            gone.cancel()


async def _gone(receive: Receive) -> None:
    """Return when the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


class IdleClosing:
    """Closes connections on which nothing was asked for `keep_alive_s` after an answer, as every server does sooner or later."""

    def __init__(self, app: ASGIApp, control: Control[OpenAISettings]) -> None:
        self._app = app
        self._control = control
        self._requests: Counter[int] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, and look at its connection later."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        connection = scope["state"]["connection"]
        self._requests[connection] += 1
        await self._app(scope, receive, send)
        idle_s = self._control.settings.keep_alive_s
        if idle_s:
            number, loop = self._requests[connection], asyncio.get_running_loop()
            loop.call_later(idle_s, self._close, connection, number, scope["state"]["transport"])

    def _close(self, connection: int, number: int, transport: asyncio.Transport) -> None:
        if self._requests[connection] == number and not transport.is_closing():
            self._control.counters["idle_closed"] += 1
            transport.close()


def application(settings: OpenAISettings, desk: Desk | None = None) -> Starlette:
    """Build the ASGI application."""
    desk = desk or Desk()
    model = Model(settings, desk)
    return Starlette(
        routes=[
            model.control.route(),
            Route("/v1/chat/completions", model.completions, methods=["POST"]),
            Route("/v1/models", model.models),
            Route("/v1/models/{name:path}", model.model),
            *desk.routes(),
        ],
        middleware=[Middleware(IdleClosing, control=model.control)],
        exception_handlers={404: _not_found},
    )


async def _not_found(request: Request, _: Exception) -> JSONResponse:
    return JSONResponse(wire.error(404, f"Unknown request URL: {request.method} {request.url.path}"), 404)


def main() -> None:
    """Run the stand-in."""
    arguments = parser("openai_api", "OpenAI chat completions and speech", OpenAISettings)
    arguments.add_argument("--lexicon", type=Path, help="folder of known recordings")
    options = arguments.parse_args()
    desk = Desk(ScriptedSpeech.from_folder(options.lexicon))
    serve("openai_api", application(settings_from(options, OpenAISettings), desk), options)


if __name__ == "__main__":
    main()
