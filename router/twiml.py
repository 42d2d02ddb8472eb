"""The TwiML this project answers with. Pure: the same input always gives the same bytes.

Source: Twilio docs, TwiML `<Connect>`, `<Stream>`, `<Play>`, `<Say>`, `<Pause>`, `<Redirect>`, `<Dial>`, `<Hangup>`.
"""

from dataclasses import dataclass
from typing import Final

from twilio.twiml.voice_response import Connect, VoiceResponse

from router.hold import Hold
from router.twilio import stream_base
from shared.calls import IncomingCall, TraceId

APOLOGY_CLIP: Final = "apology"
APOLOGY: Final = "We are sorry, we cannot take your call right now. Please call again in a few minutes."
HOLD_CLIP: Final = "hold"
HOLD: Final = "All our lines are busy right now. Please stay on the line, you will be connected in a moment."
"""What is said when a clip is missing; an installation in another language brings its clips."""


@dataclass(frozen=True, slots=True)
class Twiml:
    """Writes TwiML for one public base URL (without a slash at its end)."""

    base_url: str
    apology_clip: bool
    hold_clip: bool = False

    def stream(self, segment: str, call: IncomingCall, trace_id: TraceId) -> bytes:
        """Connect a call to its worker by a signed ticket; `trace_id` is the ticket's, which a repeat shares.

        `<Connect action>` is requested when the stream ends, whoever ended it. Each parameter's name and value together
        stay below 500 characters because addresses are cut at 256.
        """
        connect = Connect(action=f"{self.base_url}/call-ended/{segment}", method="POST")
        stream = connect.stream(url=f"{stream_base(self.base_url)}/media/{segment}")
        for name, value in (("caller", call.caller), ("called", call.called), ("trace", trace_id)):
            stream.parameter(name=name, value=value)
        response = VoiceResponse()
        response.append(connect)
        return _bytes(response)

    def hold(self, hold: Hold, attempt: int) -> bytes:
        """Keep the caller, who comes back by itself."""
        response = VoiceResponse()
        if hold.clip and self.hold_clip:
            response.play(f"{self.base_url}/clips/{HOLD_CLIP}.wav")
        elif hold.clip:
            response.say(HOLD)
        if hold.tell:
            response.say(f"You are number {hold.tell} in line.")
        response.pause(length=hold.pause_s)
        response.redirect(f"{self.base_url}/hold?{hold.place.query(attempt)}", method="POST")
        return _bytes(response)

    def overflow(self, number: str) -> bytes:
        """Connect the caller to somebody else; the action decides what follows, also when nobody answers."""
        return self._dial(number, "overflow")

    def transfer(self, number: str) -> bytes:
        """Connect a caller who asked for a person; the action as for an overflow call."""
        return self._dial(number, "transfer")

    def _dial(self, number: str, why: str) -> bytes:
        response = VoiceResponse()
        response.dial(number, action=f"{self.base_url}/hold?dialled={why}", method="POST")
        return _bytes(response)

    def apology(self) -> bytes:
        """Say that nobody can talk now, then hang up."""
        response = VoiceResponse()
        if self.apology_clip:
            response.play(f"{self.base_url}/clips/{APOLOGY_CLIP}.wav")
        else:
            response.say(APOLOGY)
        response.hangup()
        return _bytes(response)


def hang_up() -> bytes:
    """End the call."""
    response = VoiceResponse()
    response.hangup()
    return _bytes(response)


def nothing() -> bytes:
    """Do nothing: the call is over already."""
    return _bytes(VoiceResponse())


def _bytes(response: VoiceResponse) -> bytes:
    return str(response).encode()
