"""Every target of the project that a bench judges, in one place: seconds, bytes, shares, ratios, counts.

The numbers are those of the issues that asked for them; a figure is `ok` when all of its targets are met and nothing is missing.
"""

from __future__ import annotations

from typing import Final

from tests.bench.figures import Target
from tests.bench.options import LLM_FIRST_TOKEN_MS, STT_FINAL_MS, TTS_FIRST_BYTE_MS

P50, P95, P99, WORST = 0.5, 0.95, 0.99, 1.0

PROVIDERS_S: Final = (STT_FINAL_MS + LLM_FIRST_TOKEN_MS + TTS_FIRST_BYTE_MS) / 1000
"""What the providers themselves take of an answer: finalise, first token, first byte of speech."""

WEBHOOK: Final = (Target(P99, 0.025),)
WEBHOOK_WITHOUT_REDIS: Final = (Target(P99, 0.125),)
FIRST_MEDIA: Final = (Target(P50, 0.002), Target(P99, 0.010))
FIRST_MEDIA_AT_ONCE: Final = (Target(P99, 0.06),)
"""The targets for the first media say nothing about the carrier's pause before the upgrade, so both are held to them."""
FIRST_MEDIA_OF_A_BURST: Final = (Target(P99, 0.1),)
READY_PAUSED: Final = (Target(P99, 0.0),)
READY: Final = (Target(P99, 0.2),)
READY_AT_ONCE: Final = (Target(P99, 0.35),)
KNOWING: Final = (Target(P50, 1.0, least=True),)
BUILD: Final = (Target(P99, 0.4),)
READY_WORKER_BYTES: Final = (Target(P99, 60e6),)
EVERY_CALL: Final = (Target(P50, 1.0, least=True),)
NONE_LOST: Final = (Target(WORST, 0.0),)
BRIDGING: Final = (Target(P99, 0.25),)
OWN_WORDS: Final = (Target(P99, 1.5 + (LLM_FIRST_TOKEN_MS + TTS_FIRST_BYTE_MS) / 1000),)
STALLED_BRIDGING: Final = (Target(WORST, 2.5),)
BECOMING: Final = (Target(P99, 0.005),)
ONE_SLOT: Final = (Target(WORST, 1.0), Target(WORST, 1.0, least=True))

BEYOND_PROVIDERS: Final = (Target(P50, 0.25), Target(P95, 0.4))
BARGE_IN: Final = (Target(P50, 0.3),)
LATER_CONNECTIONS: Final = (Target(WORST, 0.0),)
TEN_CALLS_GAP: Final = (Target(WORST, 0.04),)
"""The longest outgoing gap at ten live calls on one core."""
REPLY_RATIO: Final = (Target(P50, 0.6),)
CALLS_RATIO: Final = (Target(P50, 1.6, least=True),)

GROWN: Final = 1.2
"""Reply latency has grown when its median is this many times that of the lightest load."""

GAP_S: Final = 0.04
"""A longer silence inside of what an agent says is an outgoing gap."""
