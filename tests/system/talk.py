"""What a test's caller does: say a recording and listen for the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.stack import LEXICON

if TYPE_CHECKING:
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
