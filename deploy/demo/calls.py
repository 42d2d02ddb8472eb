"""Place calls, listen to them, and gather what they took."""

import asyncio
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from deploy.demo.caller import Turn, converse
from deploy.demo.ear import Ear
from deploy.demo.judge import Expected, problems
from deploy.demo.scene import LOG_OF, Site
from deploy.demo.trouble import Trouble
from tests.bench.measure import Measured, last_words, measured
from tests.stack import AUTH_TOKEN, PUBLIC
from tests.standins.carrier import Carrier
from tests.standins.carrier_call import Call
from tests.standins.carrier_settings import CarrierSettings

ANSWER_DELAY_S: Final = 0.5
"""Between TwiML and media upgrade. Source: Twilio takes about that."""

WRITTEN_DEADLINE_S: Final = 10.0
LOOK_AGAIN_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Told:
    """One call: what only its record knows, what it took, what was said, and what was heard of the answers, turn by turn."""

    name: str
    code: str
    measured: Measured
    turns: list[Turn]
    heard: list[str]


async def call_each(site: Site, names: dict[str, str], ear: Ear) -> list[Told]:
    """Place calls at once (name by caller's number) and return them when they are over and were listened to.

    Raises:
        Trouble: a call failed.
    """
    settings = CarrierSettings(
        target=site.router_url, public_base_url=PUBLIC, auth_token=AUTH_TOKEN, answer_delay_s=ANSWER_DELAY_S
    )
    async with Carrier(settings) as carrier:
        calls = [await _dial(carrier, phone, name) for phone, name in names.items()]
        over = await asyncio.gather(*(converse(call, name) for call, name in zip(calls, names.values(), strict=True)))
    ended = await _last_words(Path(site.logs) / "pool.log", calls)
    told = []
    for call, turns, (phone, name) in zip(calls, over, names.items(), strict=True):
        heard = [await ear.hear(turn.answer) for turn in turns]
        told.append(Told(name, site.codes[phone], measured(call, ended.get(call.call_sid, {})), turns, heard))
    return told


def check(told: Told) -> None:
    """Judge a call by what was heard.

    Raises:
        Trouble: something was not heard that must be; the first such thing.
    """
    heard = {turn.recording: text for turn, text in zip(told.turns, told.heard, strict=True)}
    found = problems(heard, Expected(told.code, datetime.now(UTC)))
    if found:
        raise Trouble(f"{told.name}: {found[0]}", f"see {LOG_OF['pool']}")


async def _dial(carrier: Carrier, phone: str, name: str) -> Call:
    call = await carrier.dial(from_=phone)
    webhook = call.record().webhook
    if webhook is None or not webhook.status:
        raise Trouble(f"{name}: the router does not answer", f"see {LOG_OF['router']}")
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
