"""A caller by script, for calls that another process asks for: wait, speak recorded utterances, press keys, hang up.

`[{"wait": "greeting"}, {"say": "what-time"}, {"wait": "reply"}, {"wait_s": 2}, {"hangup": true}]`
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from tests.standins.carrier_settings import CallFailed

if TYPE_CHECKING:
    from tests.standins.carrier_call import Call
    from tests.standins.carrier_playout import Playout

QUIET_S = 0.8  # silence that makes a caller believe the agent has finished


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One thing a caller does.

    `wait`: `stream` (the media stream is up), `speech` (the agent begins to speak), `greeting` and `reply` (the agent
    has spoken since the caller last did, and is quiet again), `words` (the agent has said `text`, modem speech only).
    `say` is the id of a recording.
    """

    wait: Literal["stream", "speech", "greeting", "reply", "words", ""] = ""
    text: str = ""
    wait_s: float = 0.0
    say: str = ""
    dtmf: str = ""
    hangup: bool = False
    timeout_s: float = 30.0


def parse_script(text: str | bytes) -> tuple[Step, ...]:
    """Read the steps. Raises ValueError with one line."""
    try:
        return msgspec.json.decode(text, type=tuple[Step, ...])
    except msgspec.MsgspecError as error:
        raise ValueError(f"script: {error}") from error


def recording(lexicon: str, name: str) -> bytes:
    """The recording `name` of the folder `lexicon`: 8 kHz mono mu-law. Raises `CallFailed` when there is none."""
    path = Path(lexicon) / f"{name}.ulaw"
    if not lexicon or Path(name).name != name or not path.is_file():
        raise CallFailed(f"no recording {name!r} in the lexicon {lexicon!r}")
    return path.read_bytes()


async def play_script(call: Call, steps: tuple[Step, ...], lexicon: str) -> None:
    """Act out `steps`. Raises `CallFailed` at the first that cannot be done."""
    spoken_until = 0.0  # agent audio heard when the caller last spoke
    for step in steps:
        if step.wait:
            await _wait(call, step, spoken_until)
        if step.wait_s:
            await call.pause(step.wait_s)
        if step.say:
            await call.say(recording(lexicon, step.say))
            spoken_until = call.heard.duration_s
        if step.dtmf:
            await call.dtmf(step.dtmf)
        if step.hangup:
            await call.hangup()


async def _wait(call: Call, step: Step, spoken_until: float) -> None:
    def begun(heard: Playout) -> bool:
        return heard.duration_s > spoken_until

    def finished(heard: Playout) -> bool:
        return begun(heard) and not heard.playing and heard.quiet_s >= QUIET_S

    def said(heard: Playout) -> bool:
        return step.text.lower() in heard.text().lower()

    if step.wait == "stream":
        await call.streaming(timeout_s=step.timeout_s)
        return
    conditions = {"speech": begun, "greeting": finished, "reply": finished, "words": said}
    await call.hears(conditions[step.wait], step.timeout_s)
