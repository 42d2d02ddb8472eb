"""The database of the tools: the functions of the migrations, asked by a loop on a connection that is already open.

Supabase's own client does the talking, as in `worker.jobs.lookup`. Every function may be asked twice with the same arguments
(its key sees to that), except the one that tells what it deleted; so a connection that broke is opened and used again, once.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextvars import ContextVar
from typing import Any, Final

import httpx
from postgrest import APIError
from supabase import AsyncClient, AsyncClientOptions, acreate_client

from shared import logs
from shared.settings import Settings
from worker.dataapi import (
    CONTEXT_FUNCTION,
    HEADERS,
    NOBODY,
    WARM_EVERY_S,
    Counted,
    LookupFailed,
    checked,
    failed,
    sound,
)
from worker.tools.services import ServiceTrouble

TIMEOUT_S: Final = 5.0
"""Half of what a tool may take: a caller waits in silence or with filler words."""

MAX_ANSWER_BYTES: Final = 1_048_576
"""A full calendar of some months."""

ONCE: Final = frozenset({"forget_caller"})
"""What is not asked again when its answer is lost: the second answer would be another."""

_log = logs.get(__name__)


class _Progress:
    """Whether a request has begun to leave this machine."""

    def __init__(self) -> None:
        self.sent = False

    async def trace(self, event: str, _info: Mapping[str, Any]) -> None:
        """Be told by the HTTP client what it does (httpx, extension `trace`)."""
        self.sent = self.sent or event.endswith("send_request_headers.started")


_PROGRESS: ContextVar[_Progress] = ContextVar("progress of a request")


class SupabaseDatabase:
    """`Database` on Supabase's data API. For one event loop; opens nothing before it is asked. The caller closes it.

    `timeout_s` bounds each step of a call (connecting, each read), and the whole to a quarter more. `tls` is built once and
    may be shared.
    """

    def __init__(self, conf: Settings, timeout_s: float = TIMEOUT_S, tls: Any = None) -> None:
        self._url = conf.supabase_url
        self._key = conf.supabase_secret_key.get_secret_value()
        self._within_s = timeout_s * 1.25
        transport = httpx.AsyncHTTPTransport(
            verify=httpx.create_ssl_context() if tls is None else tls,
            http2=True,
            limits=httpx.Limits(max_connections=16, max_keepalive_connections=2, keepalive_expiry=None),
        )
        self._http = httpx.AsyncClient(transport=_Bounded(transport), timeout=timeout_s, headers=HEADERS)
        self._client: AsyncClient | None = None

    async def call(self, function: str, arguments: Mapping[str, Any]) -> Any:
        """Call a function and give its JSON document.

        Raises:
            ServiceTrouble: no usable answer in time; `maybe_done` only when the request may have come to the database and
                nothing was heard of what became of it.
        """
        progress = _Progress()
        _PROGRESS.set(progress)
        again = function not in ONCE
        try:
            async with asyncio.timeout(self._within_s):
                try:
                    return await self._ask(function, arguments)
                except (httpx.NetworkError, httpx.RemoteProtocolError):
                    if not again and progress.sent:
                        raise
                    return await self._ask(function, arguments)
        except TimeoutError:
            raise ServiceTrouble(f"{function}: no answer in time", maybe_done=progress.sent) from None
        except LookupFailed as error:
            raise ServiceTrouble(f"{function}: {error}", maybe_done=progress.sent) from None
        except (httpx.HTTPError, APIError, ValueError, RecursionError) as error:
            why = failed(error)
            raise ServiceTrouble(f"{function}: {why}", maybe_done=progress.sent and not why.refused) from None

    async def warm(self) -> None:
        """Open the connection, or keep it open, with a question about nobody.

        Raises:
            ServiceTrouble: as for a real question: also a wrong key or a missing function show here.
        """
        await self.call(CONTEXT_FUNCTION, {"p_phone": NOBODY})

    async def keep_warm(self) -> None:
        """Warm it again and again until cancelled; that it does not answer is logged, and that it does again."""
        away = False
        while True:
            try:
                await self.warm()
            except ServiceTrouble as error:
                if not away:
                    _log.warning("database is away", why=str(error))
                away = True
            else:
                if away:
                    _log.info("database is back")
                away = False
            await asyncio.sleep(WARM_EVERY_S * random.uniform(0.8, 1.0))  # noqa: S311 - spreads the pools of a machine

    async def close(self) -> None:
        """Close the connection."""
        await self._http.aclose()

    async def _ask(self, function: str, arguments: Mapping[str, Any]) -> Any:
        if self._client is None:
            options = AsyncClientOptions(httpx_client=self._http, auto_refresh_token=False, persist_session=False)
            self._client = await acreate_client(self._url, self._key, options)
        answer = await self._client.rpc(function, sound(arguments)).execute()
        return checked(function, answer.data)


class _Bounded(httpx.AsyncBaseTransport):
    """Notes when a request leaves, and ends a body that is too long."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.extensions["trace"] = _PROGRESS.get().trace
        response = await self._inner.handle_async_request(request)
        assert isinstance(response.stream, httpx.AsyncByteStream)  # noqa: S101 - what an async transport returns
        response.stream = _BoundedStream(response.stream)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class _BoundedStream(httpx.AsyncByteStream):
    def __init__(self, inner: httpx.AsyncByteStream) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        length = Counted(MAX_ANSWER_BYTES)
        async for chunk in self._inner:
            yield length.add(chunk)

    async def aclose(self) -> None:
        await self._inner.aclose()
