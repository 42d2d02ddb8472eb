"""What a test's caller does: say a recording and listen for the answer; and who serves it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.stack import LEXICON

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.stack import Stack
    from tests.standins.carrier_call import Call


def recording(name: str) -> bytes:
    """Give what a caller says: 8 kHz mono mu-law."""
    return (LEXICON / f"{name}.ulaw").read_bytes()


async def ask(call: Call, name: str, *expected: str) -> str:
    """Say a recording and wait until every expected word was heard since; gives everything heard since."""
    before = len(call.heard.words())
    await call.say(recording(name))

    def since() -> str:
        return " ".join(word.text for word in call.heard.words()[before:])

    await call.hears(lambda _heard: all(word in since() for word in expected))
    return since()


async def greeted(call: Call) -> None:
    """Wait until the greeting is being heard."""
    await call.streaming()
    await call.hears(lambda heard: heard.duration_s > 0.3)


def worker_of(stack: Stack, call_sid: str) -> int:
    """Give the process id of the worker that serves a call, from the pool's log; 0 while it is not there."""
    return worker_in(stack.pool.lines(), call_sid)


def worker_in(lines: Sequence[Mapping[str, Any]], call_sid: str) -> int:
    """Give the process id of the worker that serves a call, from the lines of a pool's log; 0 when it serves it not."""
    serves = [
        line["worker"]
        for line in lines
        if line.get("event") in {"bound", "call resumed"}
        and line.get("process") == "pool"
        and line["call_sid"] == call_sid
    ]
    pids = {line["worker"]: int(line["pid"]) for line in lines if line.get("event") == "parked"}
    return pids[serves[-1]] if serves else 0
