"""The caller's audio on its way to the listener: kept until that may hear it, and on the tape for a successor."""

from worker.call.listener import Listener
from worker.call.recorder import Recorder
from worker.call.tape import Tape, pieces


class Hearing:
    """The caller's audio of one call, 8 kHz mono mu-law."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._tape: Tape | None = None
        self._early = bytearray()
        self.recorder: Recorder | None = None
        self._keeping = False
        self._listening = False
        self._first = 0  # where on the tape that begins which the listener hears

    def record_on(self, tape: Tape | None) -> None:
        """Write what comes to this tape."""
        self._tape = tape

    def keep(self) -> None:
        """Keep what comes from now on until `listen`: the stream has begun."""
        self._keeping = True

    def take_over(self) -> None:
        """Keep what a predecessor had heard and not written down, and what comes."""
        self._keeping = True
        if self._tape is not None:
            self._early += self._tape.unheard()

    def listen(self) -> None:
        """Let the agent hear, first what was kept: in small pieces, since the listener looks at the voice once in each."""
        early, self._early = bytes(self._early), bytearray()
        if self._tape is not None:
            self._first = self._tape.position - len(early)
        for piece in pieces(early):
            self._listener.hear(piece)
        self._listening = True

    def audio(self, ulaw: bytes) -> None:
        """Take a piece of audio, of any length."""
        if self._tape is not None:
            self._tape.write(ulaw)
        if self.recorder is not None:
            self.recorder.caller(ulaw)
        if self._listening:
            self._listener.hear(ulaw)
        elif self._keeping:
            self._early += ulaw

    def voice(self, speaking: bool, seen: int) -> None:  # noqa: FBT001 - the signature is the listener's
        """Note that the caller began or ceased to speak, when the listener had heard so many bytes."""
        if self._tape is not None and speaking:
            self._tape.speech_began(self._first + seen)
        elif self._tape is not None:
            self._tape.speech_ended(self._first + seen)

    def written_down(self, _text: str) -> None:
        """Note that what the caller said stands in the journal."""
        if self._tape is not None:
            self._tape.written_down()
