"""What all stand-ins share: settings as command-line flags, `/_control`, and the server around an application.

A stand-in is one process. Its latencies and faults are one frozen dataclass of plain fields (int, float, bool, str):
each field is a flag at the start and a key of `POST /_control` while it runs. Nothing here knows any vendor.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import itertools
import json
import os
import signal
import socket
import sys
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_type_hints

import msgspec
import uvicorn
from starlette.responses import JSONResponse
from starlette.routing import Route
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    from asyncio import BaseTransport
    from collections.abc import Callable, Mapping
    from types import FrameType

    from _typeshed import DataclassInstance
    from starlette.requests import Request
    from starlette.types import ASGIApp

SettingsT = TypeVar("SettingsT", bound="DataclassInstance")

LOG_LENGTH = 10_000  # entries; a bench of 200 calls fits, a forgotten stand-in does not eat the machine
KEEP_ALIVE_S = 600  # clients decide when an idle HTTP connection ends, as far as a test is concerned


class Control(Generic[SettingsT]):
    """The present settings, the counters and the log of one stand-in, and the route that shows and changes them.

    `actions` are further keys of a POST which do something now (`close_all`, `script`); each gets the JSON value and
    raises ValueError with one line when it cannot use it. The action `reset` (any value) is always there: it empties
    log and counters, except the counters named in `gauges`.
    """

    def __init__(
        self,
        settings: SettingsT,
        *,
        actions: Mapping[str, Callable[[Any], None]] | None = None,
        gauges: frozenset[str] = frozenset(),
    ) -> None:
        self.settings = settings
        self.counters: Counter[str] = Counter()
        self.log: deque[dict[str, object]] = deque(maxlen=LOG_LENGTH)
        self.on_change: list[Callable[[], None]] = []
        self._actions = {**(actions or {}), "reset": self._reset}
        self._gauges = gauges

    def note(self, kind: str, **fields: object) -> dict[str, object]:
        """Append one entry to the log, with the time (`time.monotonic()`, seconds) under `at`; returns it."""
        entry: dict[str, object] = {"at": time.monotonic(), "kind": kind, **fields}
        self.log.append(entry)
        return entry

    def merge(self, changes: Mapping[str, object]) -> None:
        """Change settings and run actions; nothing is changed when one key is unknown or has the wrong type.

        Raises:
            ValueError: one line naming the key.
        """
        fields = {key: value for key, value in changes.items() if key not in self._actions}
        settings = dataclasses.replace(self.settings, **_checked(type(self.settings), fields))
        before, self.settings = self.settings, settings  # actions see the settings that came with them
        try:
            for key in changes.keys() & self._actions.keys():
                self._actions[key](changes[key])
        except ValueError:
            self.settings = before
            raise
        for listener in self.on_change:
            listener()

    def state(self) -> dict[str, object]:
        """Everything `GET /_control` shows."""
        return {
            "settings": dataclasses.asdict(self.settings),
            "counters": dict(self.counters),
            "log": list(self.log),
            "now": time.monotonic(),
        }

    def route(self) -> Route:
        """`GET /_control` shows the state; `POST /_control` merges and shows the settings that hold from then on."""

        async def endpoint(request: Request) -> JSONResponse:
            if request.method != "POST":
                return JSONResponse(self.state())
            try:
                self.merge(msgspec.json.decode(await request.body(), type=dict[str, Any]))
            except (ValueError, msgspec.MsgspecError) as error:
                return JSONResponse({"error": str(error)}, status_code=400)
            return JSONResponse({"settings": dataclasses.asdict(self.settings)})

        return Route("/_control", endpoint, methods=["GET", "POST"])

    def _reset(self, _: object) -> None:
        self.log.clear()
        for name in self.counters.keys() - self._gauges:
            del self.counters[name]


def _checked(settings: type[DataclassInstance], values: Mapping[str, object]) -> dict[str, object]:
    """Return the values with ints made floats where a float is meant; unknown names and wrong types raise."""
    hints = get_type_hints(settings)
    checked: dict[str, object] = {}
    for name, value in values.items():
        if name not in hints:
            raise ValueError(f"{name}: no such setting")
        wanted = hints[name]
        if wanted is float and isinstance(value, int) and not isinstance(value, bool):
            checked[name] = float(value)
        elif type(value) is wanted:
            checked[name] = value
        else:
            raise ValueError(f"{name}: {wanted.__name__} expected, not {type(value).__name__}")
    return checked


def parser(name: str, description: str, settings: type[DataclassInstance]) -> argparse.ArgumentParser:
    """Make the command line of a stand-in: `--port`, `--host`, one flag for each field of its settings (`_` becomes `-`)."""
    result = argparse.ArgumentParser(prog=f"python -m tests.standins.{name}", description=description)
    result.add_argument("--port", type=int, default=0, help="0 picks a free one")
    result.add_argument("--host", default="127.0.0.1", help="the address to listen on, default loopback")
    result.add_argument(
        "--until-stdin-closes", action="store_true", help="exit when stdin ends, so that a dead parent leaves nothing"
    )
    hints = get_type_hints(settings)
    for field in dataclasses.fields(settings):
        flag = "--" + field.name.replace("_", "-")
        if hints[field.name] is bool:
            result.add_argument(flag, action=argparse.BooleanOptionalAction, default=field.default)
        else:
            result.add_argument(flag, type=hints[field.name], default=field.default, help="default %(default)s")
    return result


def settings_from(options: argparse.Namespace, settings: type[SettingsT]) -> SettingsT:
    """Read the fields of the settings back from what `parser` parsed."""
    return settings(**{field.name: getattr(options, field.name) for field in dataclasses.fields(settings)})


class NumberedHttp(HttpToolsProtocol):
    """uvicorn's HTTP protocol; `scope["state"]` tells the `connection` number and its `transport`.

    The number tells TCP connections apart (keep-alive can be checked), the transport lets a fault abort one abruptly.
    """

    _numbers = itertools.count(1)

    def connection_made(self, transport: BaseTransport) -> None:
        """Put both into the state that uvicorn copies into every scope of this connection, WebSockets included."""
        super().connection_made(transport)  # type: ignore[arg-type]  # TCP: it is a Transport
        self.app_state = {**self.app_state, "connection": next(self._numbers), "transport": transport}


class _Server(uvicorn.Server):
    """Announces itself when it listens, and leaves at once when asked to: there is nothing to save."""

    def __init__(self, config: uvicorn.Config, name: str, *, watch_stdin: bool) -> None:
        super().__init__(config)
        self._name = name
        self._watch_stdin = watch_stdin

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self._watch_stdin:
            asyncio.get_running_loop().add_reader(sys.stdin.fileno(), _leave_at_end_of_stdin)
        port = (sockets or [])[0].getsockname()[1]
        print(json.dumps({"name": self._name, "port": port}), flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        del sig, frame
        os._exit(0)


def _leave_at_end_of_stdin() -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        os._exit(0)


def serve(name: str, app: ASGIApp, options: argparse.Namespace) -> None:
    """Serve the application until SIGTERM; prints `{"name": ..., "port": ...}` when it listens."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # uvicorn's own handler comes only with its loop
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a killed stand-in returns on its port
        listener.bind((options.host, options.port))
        config = uvicorn.Config(
            app,
            http=NumberedHttp,
            ws="websockets-sansio",
            ws_per_message_deflate=False,
            ws_ping_interval=None,
            ws_ping_timeout=None,
            log_config=None,
            access_log=False,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        _Server(config, name, watch_stdin=options.until_stdin_closes).run(sockets=[listener])
