"""The question to Supabase, asked by a thread: one remote procedure call on a connection that is already open.

Supabase's own client does the talking; what is ours is that it answers or fails within its time, whatever the other end
does: a body that never ends, one that drips, one of a gigabyte. `worker.tools.database` is the same for a loop.
"""

import ssl
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import httpx
from postgrest import APIError
from supabase import ClientOptions, create_client

from worker.dataapi import CONTEXT_FUNCTION, HEADERS, NOBODY, Counted, LookupFailed, checked, failed, sound

__all__ = ["MAX_BODY_BYTES", "CustomerLookup", "LookupFailed"]

MAX_BODY_BYTES: Final = 32_768
"""A record goes into a prompt and through a 64 KiB message; far more than a receptionist can use."""


class CustomerLookup:
    """Asks who a caller is, on one warm connection. For one thread at a time.

    `timeout_s` bounds every step (connect, each read) and the whole answer to about twice that at the very worst, when
    the other end drips. Building one takes tens of milliseconds and no network. The caller closes it.

    Source: supabase-py 2.34, `SyncClientOptions.httpx_client` (its own client would wait 120 s and close an idle
    connection after 5 s); a POST to an rpc is never retried by it.
    """

    def __init__(self, url: str, key: str, timeout_s: float, tls: ssl.SSLContext) -> None:
        transport = httpx.HTTPTransport(
            verify=tls, http2=True, limits=httpx.Limits(max_connections=2, keepalive_expiry=None)
        )
        self._http = httpx.Client(
            transport=_Bounded(transport, timeout_s),
            timeout=timeout_s,
            headers=HEADERS,
        )
        options = ClientOptions(httpx_client=self._http, auto_refresh_token=False, persist_session=False)
        self._client = create_client(url, key, options)

    def __call__(self, phone: str) -> Any:
        """Give what Supabase knows about an E.164 number, as decoded JSON; None when it knows nobody.

        Raises:
            LookupFailed: no answer in time, an error, or something that is no JSON.
        """
        return self.call(CONTEXT_FUNCTION, {"p_phone": phone})

    def call(self, function: str, arguments: Mapping[str, Any]) -> Any:
        """Call any function of the migrations and give its JSON document.

        Raises:
            LookupFailed: as for a lookup; whether the function ran is not known when no answer came.
        """
        try:
            answer = self._client.rpc(function, sound(arguments)).execute()
        except (httpx.HTTPError, APIError, ValueError, RecursionError) as error:
            raise failed(error) from error
        return checked(function, answer.data)

    def warm(self) -> None:
        """Open the connection, or keep it open, with a question about nobody.

        Raises:
            LookupFailed: as for a real question: also a wrong key or a missing function show here.
        """
        self(NOBODY)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()


class _Bounded(httpx.BaseTransport):
    """Ends a body that is too long, or still coming when its time is over."""

    def __init__(self, inner: httpx.BaseTransport, timeout_s: float) -> None:
        self._inner = inner
        self._timeout_s = timeout_s

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        until = time.monotonic() + self._timeout_s
        response = self._inner.handle_request(request)
        assert isinstance(response.stream, httpx.SyncByteStream)  # noqa: S101 - what a sync transport returns
        response.stream = _BoundedStream(response.stream, until)
        return response

    def close(self) -> None:
        self._inner.close()


class _BoundedStream(httpx.SyncByteStream):
    def __init__(self, inner: httpx.SyncByteStream, until: float) -> None:
        self._inner = inner
        self._until = until

    def __iter__(self) -> Iterator[bytes]:
        length = Counted(MAX_BODY_BYTES)
        for chunk in self._inner:
            length.add(chunk)
            if time.monotonic() > self._until:
                raise httpx.ReadTimeout("answer still coming when its time was over")
            yield chunk

    def close(self) -> None:
        self._inner.close()
