"""Supabase's data API, asked for functions of the migrations: what its client in threads and its client in a loop share.

Supabase's own clients do the talking. What is ours is that an answer is small, that a failure is said without secrets, numbers
or what a caller said, and that it is known whether a request that failed may have been done all the same.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import httpx
from postgrest import APIError

CONTEXT_FUNCTION: Final = "customer_context"
"""A document about a caller in one round trip, null for an unknown one."""

NOBODY: Final = "+0"
"""Asked to keep a connection warm: no number begins with a zero, so the answer is null after one index lookup."""

WARM_EVERY_S: Final = 25.0
"""How long a connection may be idle: below the 60 s after which proxies commonly close it."""

LISTS: Final = frozenset({"busy_between"})
"""The functions that give a list; all others give an object or null."""

HEADERS: Final[Mapping[str, str]] = {"Accept-Encoding": "identity"}
"""So that the limit on a body is one on the document too."""

_SQLSTATE: Final = re.compile(r"[0-9A-Z]{5}")
_COMMIT_UNKNOWN: Final = ("08", "40003", "57P")
"""Source: PostgreSQL, appendix A: the connection broke, the completion is unknown, the server is shut down."""

_NEVER_RUN: Final = frozenset({"429"})
_UNSOUND: Final = re.compile("[\x00\ud800-\udfff]")
"""What JSON may carry and PostgreSQL's text may not."""

_SHOWN_CHARS: Final = 200


class LookupFailed(Exception):  # it never leaves the rooms that ask: the error tree is for what crosses them
    """Supabase gave no usable answer; the message says why, without personal data.

    `refused`: it did answer, and nothing was done.
    """

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


class Counted:
    """Counts the bytes of a body and ends it when they are too many."""

    def __init__(self, most: int) -> None:
        self._left = most
        self._most = most

    def add(self, chunk: bytes) -> bytes:
        """Count a piece and give it back.

        Raises:
            httpx.ReadError: the body is too long.
        """
        self._left -= len(chunk)
        if self._left < 0:
            raise httpx.ReadError(f"answer of more than {self._most} bytes")
        return chunk


def failed(error: Exception) -> LookupFailed:
    """Say what went wrong with a request: an error of the connection, of the API, or an answer that cannot be read."""
    match error:
        case APIError():
            return _refused(error)
        case httpx.LocalProtocolError():
            return LookupFailed("LocalProtocolError")  # its words repeat the header, and the key is in one
        case httpx.HTTPError():
            return LookupFailed(f"{type(error).__name__}: {error}"[:_SHOWN_CHARS])
        case _:
            return LookupFailed(f"unreadable answer: {type(error).__name__}")


def checked(function: str, document: Any) -> Any:
    """Give a document that has the shape its function gives; the client hands on whatever came with status 200.

    Raises:
        LookupFailed: it has another one.
    """
    shape = list if function in LISTS else dict
    if not isinstance(document, shape) and (document is not None or function in LISTS):
        raise LookupFailed(f"{function} gave no {shape.__name__}: {type(document).__name__}")
    return document


def sound(value: Any) -> Any:
    """Give arguments as the database can take them: without zero characters and halves of characters in their texts."""
    match value:
        case str():
            return _UNSOUND.sub("\N{REPLACEMENT CHARACTER}", value)
        case Mapping():
            return {sound(key): sound(each) for key, each in value.items()}
        case list() | tuple():
            return [sound(each) for each in value]
        case _:
            return value


def _refused(error: APIError) -> LookupFailed:
    """Read an error of PostgREST, PostgreSQL or a gateway before them.

    The words of PostgREST name functions and arguments; PostgreSQL's repeat values, so they are left out.

    Source: docs.postgrest.org, "Errors"; supabase-py 2.34: the code of an answer that is no JSON is its HTTP status.
    """
    code = error.code or ""
    if code.startswith("PGRST") or not code:
        return LookupFailed(f"error {code or '-'}: {error.message}"[:_SHOWN_CHARS], refused=bool(code or error.message))
    done = not code.startswith(_COMMIT_UNKNOWN) if _SQLSTATE.fullmatch(code) else code.startswith("4")
    return LookupFailed(f"error {code}"[:_SHOWN_CHARS], refused=done)
