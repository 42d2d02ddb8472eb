"""Place calls, listen to them, and gather what they took."""

import asyncio
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from deploy.demo.caller import Turn, converse
from deploy.demo.ear import Hearing
from deploy.demo.judge import Expected, problems
from deploy.demo.scene import LOG_OF, Site
from deploy.demo.trouble import Trouble
from tests.bench.measure import Measured, last_words, measured
from tests.standins.carrier import Carrier
from tests.standins.carrier_call import Call
from tests.standins.carrier_settings import CarrierSettings

ANSWER_DELAY_S: Final = 0.5
"""Between TwiML and media upgrade. Source: Twilio takes about that."""

AS_HEARD: Final = {"end_reason": "the agent hung up"}
"""What is known of an end without the logs of the pool: `converse` has seen that much."""

WRITTEN_DEADLINE_S: Final = 10.0
LOOK_AGAIN_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Told:
    """One call: what it took, what was said, and what was heard of the answers, turn by turn."""

    name: str
    code: str  # what only its record knows; empty when nothing was planted
    measured: Measured
    turns: list[Turn]
    heard: list[str]


async def call_each(site: Site, names: dict[str, str], ear: Hearing) -> list[Told | Trouble]:
    """Place calls at once (name by caller's number); when they are over and were listened to, give what came of each."""
    settings = CarrierSettings(
        target=site.router_url,
        public_base_url=site.public_url,
        auth_token=site.auth_token,
        answer_delay_s=ANSWER_DELAY_S,
        allow_ws=site.public_url.startswith("http:"),
    )
    async with Carrier(settings) as carrier:
        over = await asyncio.gather(*(_call(site, carrier, phone, name) for phone, name in names.items()))
    calls = [one[0] for one in over if not isinstance(one, Trouble)]
    ended = await _last_words(Path(site.logs) / "pool.log", calls) if site.logs else {}
    told: list[Told | Trouble] = []
    for one, (phone, name) in zip(over, names.items(), strict=True):
        if isinstance(one, Trouble):
            told.append(one)
            continue
        call, turns = one
        took = measured(call, ended.get(call.call_sid, {} if site.logs else AS_HEARD))
        told.append(Told(name, site.codes.get(phone, ""), took, turns, [await ear.hear(turn.answer) for turn in turns]))
    return told


async def _call(site: Site, carrier: Carrier, phone: str, name: str) -> tuple[Call, list[Turn]] | Trouble:
    try:
        call = await _dial(site, carrier, phone, name)
        return call, await converse(call, name, site.see("pool"))
    except Trouble as trouble:
        return trouble


def check(told: Told, see: str = f"see {LOG_OF['pool']}") -> None:
    """Judge a call by what was heard; `see` is where to look when that was not enough.

    Raises:
        Trouble: something was not heard that must be; the first such thing.
    """
    heard = {turn.recording: text for turn, text in zip(told.turns, told.heard, strict=True)}
    found = problems(heard, Expected(told.code, datetime.now(UTC)))
    if found:
        raise Trouble(f"{told.name}: {found[0]}", see)


async def _dial(site: Site, carrier: Carrier, phone: str, name: str) -> Call:
    call = await carrier.dial(from_=phone)
    webhook = call.record().webhook
    match webhook.status if webhook is not None else 0:
        case 0:
            raise Trouble(f"{name}: the router does not answer", site.see("router"))
        case HTTPStatus.FORBIDDEN:
            remedy = f"PUBLIC_BASE_URL ({site.public_url}) and TWILIO_AUTH_TOKEN must be the router's"
            raise Trouble(f"{name}: the router refuses the signature", remedy)
        case status if status != HTTPStatus.OK:
            raise Trouble(f"{name}: the router answers with {status}", site.see("router"))
    return call


async def _last_words(log: Path, calls: list[Call]) -> dict[str, Any]:
    """Read what the workers wrote when the calls ended; what is not there in time is left out."""
    wanted = {call.call_sid for call in calls}
    ends = time.monotonic() + WRITTEN_DEADLINE_S
    while True:
        text = await asyncio.to_thread(log.read_text, errors="replace")
        found = last_words(json.loads(row) for row in text.splitlines() if row.startswith("{") and row.endswith("}"))
        if wanted <= found.keys() or time.monotonic() > ends:
            return dict(found)
        await asyncio.sleep(LOOK_AGAIN_S)
