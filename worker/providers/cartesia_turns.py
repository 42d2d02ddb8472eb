"""Cartesia's ear that knows itself when a turn is over: the model ink-2, which hears English only.

It is sent audio and nothing else, and says when the caller's turn begins, what was said in it so far, and that it is over. Our
voice detector still runs, because it is quicker to notice a voice; what it says is not asked of the server, but measures what
the server owes. Two things are bounded here: a server that never says the end, and a voice that it takes for none.

Source: Cartesia docs, "Turn detection" (the life of a turn; the words of a turn only grow, no text is revised; the order of the
thresholds), API reference "Realtime Speech-to-Text (Auto)" (an error in place of `connected`; audio that stops in a turn leaves
it open).
"""

import asyncio
import contextlib
import json
import time
from typing import Any, Final
from urllib.parse import urlencode

from pipecat.frames.frames import EagerTranscriptionFrame, InterimTranscriptionFrame, TranscriptionFrame
from pipecat.transcriptions.language import Language
from pipecat.utils.time import time_now_iso8601
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from shared.agents import Agent
from shared.settings import Settings
from shared.turns import Turns
from worker.providers.cartesia_stt import CartesiaEar, failed
from worker.providers.connection import welcomed
from worker.providers.interface import TurnGoesOn, TurnOver
from worker.providers.retry import Trouble

API_VERSION: Final = "2026-03-01"
"""As Pipecat's services of this vendor."""

START: Final = 0.8
EAGER_END: Final = 0.5
END: Final = 0.3
"""How likely (0-1) the caller is in a turn: above the first it has begun, below the second it may be over, below the third it is.
Written out, because the sources disagree on what the vendor takes otherwise (eager end 0.4 or 0.6, end 0.2 or 0.3); these are
within the ranges of all."""

LEAST_PATIENCE_S: Final = 0.64
MOST_PATIENCE_S: Final = 11.2
"""What the vendor takes as the longest silence within a turn."""

GRACE_S: Final = 0.7
"""How long after a voice its turn may still begin; after that there were no words in it. The vendor says "quickly"."""

GRACE_AGAIN_S: Final = 3.0
"""The same for what a lost connection had heard and a new one is told in one go."""

SPEECH_S: Final = 0.4
"""A voice for so long may have had words: when no turn comes of it, another connection is asked. A cough is shorter."""

ONSET_S: Final = 0.3
"""How long a voice may be there before the voice detector notices it (0.2 s, and what it takes to be sure)."""

OVERDUE_S: Final = 1.0
"""So long after its patience a server still hears a turn in what is silence to us: its words are given for what they are."""


class ServerTurn:
    """The turn that the server is in. Its words only grow; what was given of them is not given again."""

    def __init__(self) -> None:
        self.open = False
        self._given = 0

    def begin(self) -> None:
        """Note that it has begun."""
        self.open, self._given = True, 0

    def rest(self, transcript: str) -> str:
        """Give what is new of its words so far."""
        return transcript[self._given :].strip()

    def give(self, transcript: str) -> str:
        """Give what is new of its words so far, for good."""
        new, self._given = self.rest(transcript), len(transcript)
        return new


class CartesiaTurnsEar(CartesiaEar):
    """The ear that ends turns."""

    ends_turns = True

    def __init__(self, settings: Settings, trouble: Trouble | None = None) -> None:
        super().__init__(settings, trouble)
        self._url = settings.cartesia_stt_url.rstrip("/") + "/stt/turns/websocket"
        self._key = settings.cartesia_api_key.get_secret_value()
        self._patience_s = Turns().patience
        self._turn = ServerTurn()
        self._ended = False  # a turn has ended since the voice began
        self._voice_since: float | None = None
        self._owed_since = 0.0
        self._voiced_s = 0.0  # of the voices that no turn has come of yet
        self._told_again = False  # a new connection was told what a lost one had heard
        self._grace: asyncio.TimerHandle | None = None
        self._settling: asyncio.Task[None] | None = None

    async def open(self, agent: Agent) -> None:
        """Connect with the patience of an agent, and stay connected; returns after the first attempt."""
        patience_s = agent.turns.patience if agent.turns.smart else LEAST_PATIENCE_S
        self._patience_s = min(MOST_PATIENCE_S, max(LEAST_PATIENCE_S, patience_s))
        await super().open(agent)

    def hear(self, pcm: bytes) -> None:
        """Take a piece of the caller's audio; what the server needs to find the end goes out at once, not in the usual pieces."""
        super().hear(pcm)
        if self._unheard.turns:
            self._outgoing.set()

    def speech_began(self) -> None:
        """Note that the caller speaks."""
        super().speech_began()
        self._ended = False
        self._voice_since = time.monotonic()

    def speech_ended(self) -> None:
        """Note that the caller is silent: from now on the end of the turn is owed, or that there was none."""
        if self._voice_since is not None:
            self._voiced_s += time.monotonic() - self._voice_since
            self._voice_since = None
        super().speech_ended()

    # --- what is owed -------------------------------------------------------------------------------------------------

    async def _ask(self, _word: str) -> bool:
        """Have the end be owed from here on: everything up to the silence was sent."""
        # what is sent again comes in one go, and may be heard at the pace at which it was said
        self._owed_since = time.monotonic() + (self._unheard.kept_s if self._told_again else 0.0)
        if self._ended and not self._turn.open:
            await self._settle()
        else:
            self._owe()
        return True

    def _owe(self) -> None:
        self._relent()
        if self._turn.open:
            self._line.expect(self._patience_s)
        else:
            self._line.expect()
            after_s = GRACE_AGAIN_S if self._told_again else GRACE_S
            self._grace = asyncio.get_running_loop().call_later(after_s, self._no_turn)

    def _relent(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None

    def _no_turn(self) -> None:
        self._grace = None
        if self._turn.open or self._voice_since is not None or not self._line.up:
            return
        unlikely = self._voiced_s >= SPEECH_S and not self._told_again
        self._settling = self.create_task(self.push_frame(TurnOver()) if unlikely else self._settle())

    async def _settle(self) -> None:
        """Have what was sent be understood, and the caller's turn be over unless they speak."""
        self._relent()
        self._told_again, self._voiced_s = False, 0.0
        speaks_s = 0.0 if self._voice_since is None else time.monotonic() - self._voice_since + ONSET_S
        self._unheard.covered(speaks_s)
        self._unheard.speaking = self._voice_since is not None
        self._line.relax()
        self._trouble.works(time.monotonic())
        if not self._unheard.turns:
            self._trouble.idle()
        if self._voice_since is None:
            await self.push_frame(TurnOver())

    # --- the connection -----------------------------------------------------------------------------------------------

    async def _dial(self) -> ClientConnection:
        self._websocket = None
        query = {
            "model": self._model,
            "encoding": "pcm_s16le",
            "sample_rate": self.sample_rate,
            "turn_start_threshold": START,
            "turn_eager_end_threshold": EAGER_END,
            "turn_end_threshold": END,
            "turn_end_timeout_ms": round(self._patience_s * 1000),
        }
        socket = await welcomed(
            f"{self._url}?{urlencode(query)}",
            {"X-API-Key": self._key, "Cartesia-Version": API_VERSION},
            ("type", "connected"),
            failed,
        )
        self._websocket = socket
        return socket

    async def _lost(self, why: str) -> bool:
        self._relent()
        self._turn = ServerTurn()
        self._told_again = self._unheard.turns > 0
        return await super()._lost(why)

    async def _disconnect_websocket(self) -> None:
        self._relent()
        socket, self._websocket = self._websocket, None
        if socket is not None:
            with contextlib.suppress(ConnectionClosed, OSError):
                await socket.send('{"type":"close"}')
            await socket.close()

    # --- words in -----------------------------------------------------------------------------------------------------

    async def _hear(self, message: str | bytes) -> None:
        said = json.loads(message)
        if said.get("type") == "error":
            raise failed(said)
        self._trouble.works(time.monotonic())
        transcript = str(said.get("transcript") or "")
        match said.get("type"):
            case "turn.start":
                self._ended, self._told_again, self._voiced_s = False, False, 0.0
                self._turn.begin()
                self._unheard.speaking = True
                self._owe_on()
            case "turn.update":
                self._owe_on()
                await self._update(transcript, said)
            case "turn.eager_end" if text := self._turn.rest(transcript):
                await self.push_frame(EagerTranscriptionFrame(text, "", time_now_iso8601(), Language.EN, result=said))
            case "turn.resume":
                await self.push_frame(TurnGoesOn())
            case "turn.end":
                self._turn.open, self._ended = False, True
                await self._give(transcript, said)
            case _:
                pass

    def _owe_on(self) -> None:
        """Give the server more time: it has said something."""
        if self._unheard.asked:
            self._owe()

    async def _update(self, transcript: str, said: dict[str, Any]) -> None:
        text = self._turn.rest(transcript)
        late_s = time.monotonic() - self._owed_since - self._patience_s
        if text and self._voice_since is None and self._unheard.asked and late_s > OVERDUE_S:
            await self._give(transcript, said)
        elif text:
            await self.push_frame(InterimTranscriptionFrame(text, "", time_now_iso8601(), Language.EN, result=said))

    async def _give(self, transcript: str, said: dict[str, Any]) -> None:
        """Give the words of a turn, and that it is over; while the caller speaks it is not."""
        if text := self._turn.give(transcript):
            await self.push_frame(TranscriptionFrame(text, "", time_now_iso8601(), Language.EN, result=said))
        await self._settle()
