"""The carrier as a process: Twilio's REST API, `/_calls` to place inbound calls, `/_control`.

`POST /_calls {"from": ..., "to": ..., "script": [...], "faults": {...}}` answers `{"call_sid": ...}` at once;
`GET /_calls/{sid}` shows the record, with what the script could not do under `script_error`;
`GET /_calls/{sid}/ended` does so when the call is over.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.standins.carrier import CALLED, CALLER, Carrier
from tests.standins.carrier_call import Call, Dialling
from tests.standins.carrier_numbers import NumbersApi
from tests.standins.carrier_outbox import MessagesApi
from tests.standins.carrier_rest import CallsApi
from tests.standins.carrier_script import Step, parse_script, play_script
from tests.standins.carrier_settings import CallFailed, CallFaults, CarrierSettings
from tests.standins.carrier_sign import new_sid
from tests.standins.control import Control, parser, serve, settings_from

if TYPE_CHECKING:
    from starlette.datastructures import FormData
    from starlette.requests import Request


@dataclass(frozen=True, slots=True)
class ProcessSettings(CarrierSettings):
    """The carrier's settings and those of its scripted callers."""

    lexicon: str = ""  # folder of recordings, <id>.ulaw
    script: str = "[]"  # of calls that bring none, JSON
    faults: str = "{}"  # of calls that bring none, JSON


class InboundCall(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /_calls`."""

    from_: str = msgspec.field(default=CALLER, name="from")
    to: str = CALLED
    call_sid: str = ""
    script: tuple[Step, ...] | None = None
    faults: dict[str, Any] | None = None


class CarrierProcess:
    """The carrier process: its calls, their scripts and what is told about them."""

    def __init__(self, settings: ProcessSettings) -> None:
        self.control = Control(settings, gauges=frozenset({"calls_active"}))
        self.control.on_change.append(self._changed)
        self.carrier = Carrier(settings)
        self._errors: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def app(self) -> Starlette:
        """Everything it serves."""
        return Starlette(
            routes=[
                *CallsApi(self.carrier, self._ordered).routes(),
                *MessagesApi(self.carrier, self.control.note).routes(),
                *NumbersApi(self.carrier).routes(),
                Route("/_calls", self._place, methods=["POST"]),
                Route("/_calls/{sid}", self._show, methods=["GET"]),
                Route("/_calls/{sid}/ended", self._show, methods=["GET"]),
                self.control.route(),
            ]
        )

    async def _place(self, request: Request) -> JSONResponse:
        settings = self.control.settings
        try:
            wanted = msgspec.json.decode(await request.body(), type=InboundCall)
            steps = parse_script(settings.script) if wanted.script is None else wanted.script
            faults = read_faults(settings.faults if wanted.faults is None else wanted.faults)
        except (ValueError, msgspec.MsgspecError) as error:
            return JSONResponse({"error": str(error)}, 400)
        sid = wanted.call_sid or new_sid("CA")
        call = self.carrier.place(Dialling(sid, wanted.from_, wanted.to, faults=faults))
        self._follow(call, steps)
        return JSONResponse({"call_sid": call.call_sid}, 201)

    async def _show(self, request: Request) -> JSONResponse:
        call = self.carrier.calls.get(request.path_params["sid"])
        if call is None:
            return JSONResponse({"error": "no such call"}, 404)
        if request.url.path.endswith("/ended"):
            await call.ended(timeout_s=float("inf"))
        shown = msgspec.to_builtins(call.record())
        shown["documents"] = [document.decode() for document in call.documents]
        shown["over"] = call.ended_at is not None
        shown["heard_s"] = call.heard.duration_s
        shown["gaps"] = msgspec.to_builtins(call.heard.gaps())
        shown["script_error"] = self._errors.get(call.call_sid, "")
        return JSONResponse(shown)

    def _ordered(self, call: Call, form: FormData) -> None:
        """A REST request placed `call`; the form field `Script` is the person's who answers it."""
        script = form.get("Script")
        self._follow(call, parse_script(script if isinstance(script, str) else self.control.settings.script))

    def _follow(self, call: Call, steps: tuple[Step, ...]) -> None:
        self.control.counters["calls"] += 1
        self.control.counters["calls_active"] += 1
        self.control.note("call", call_sid=call.call_sid, direction=call.dialling.direction, to=call.dialling.to)
        for work in (self._watch(call), self._act(call, steps)):
            task = asyncio.get_running_loop().create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _watch(self, call: Call) -> None:
        """Log the end of `call`."""
        record = await call.ended(timeout_s=float("inf"))
        self.control.counters["calls_active"] -= 1
        self.control.counters[f"calls_{record.outcome}"] += 1
        self.control.note("ended", call_sid=call.call_sid, outcome=record.outcome, codes=list(record.codes))

    async def _act(self, call: Call, steps: tuple[Step, ...]) -> None:
        try:
            if steps:
                await call.streaming()
                await play_script(call, steps, self.control.settings.lexicon)
        except CallFailed as failed:
            self._errors[call.call_sid] = str(failed)
            self.control.note("script_error", call_sid=call.call_sid, error=str(failed))

    def _changed(self) -> None:
        self.carrier.settings = self.control.settings


def read_faults(given: str | dict[str, Any]) -> CallFaults:
    """Read faults from JSON or from what was decoded. Raises ValueError with one line."""
    try:
        values = msgspec.json.decode(given, type=dict[str, Any]) if isinstance(given, str) else given
        faults = msgspec.convert(values, CallFaults)
    except msgspec.MsgspecError as error:
        raise ValueError(f"faults: {error}") from error
    unknown = sorted(values.keys() - CallFaults.__slots__)
    if unknown:
        raise ValueError(f"faults: no such fault: {', '.join(unknown)}")
    return faults


def main() -> None:
    """Run the carrier until SIGTERM."""
    options = parser("carrier", "Twilio carrier stand-in", ProcessSettings).parse_args()
    settings = settings_from(options, ProcessSettings)
    parse_script(settings.script)
    read_faults(settings.faults)
    serve("carrier", CarrierProcess(settings).app(), options)
