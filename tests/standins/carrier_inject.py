"""Messages Twilio would never send, one of each kind a call asks for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tests.standins.carrier_messages import QUIET_FRAME, QUIET_PAYLOAD, Numbering, payload

if TYPE_CHECKING:
    from tests.standins.carrier_settings import CallFaults
    from tests.standins.carrier_wire import Wire

OVERSIZE_FRAMES = 512  # 20 ms frames in one message: 109 kB of base64, more than 64 KiB
LOST_FRAMES = 5


class Injector:
    """Sends what `faults` names, in the order of the fields."""

    def __init__(self, faults: CallFaults) -> None:
        self._faults = faults

    def inject(self, wire: Wire, numbering: Numbering) -> None:
        """Send each message once."""
        faults = self._faults
        if faults.binary_frame:
            wire.send_binary(QUIET_FRAME)
        if faults.invalid_json:
            wire.send_text('{"event":"media","media":{')
        if faults.unknown_event:
            wire.send_text(f'{{"event":"weather","streamSid":"{numbering.ids.stream_sid}"}}')
        if faults.oversize_frame:
            wire.send_text(numbering.media(payload(QUIET_FRAME * OVERSIZE_FRAMES)))
        if faults.wrong_stream_sid:
            wire.send_text(Numbering(replace(numbering.ids, stream_sid="MZ" + "f" * 32)).media(QUIET_PAYLOAD))
        if faults.sequence_gap:
            numbering.lose(LOST_FRAMES)
