"""What a media stream is given: its plan, and the call it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from tests.standins.carrier_messages import StreamIds
    from tests.standins.carrier_settings import CallFaults, CarrierSettings
    from tests.standins.carrier_wire import Upgrade


class Host(Protocol):
    """The call a stream belongs to."""

    def changed(self) -> None:
        """Something was sent, received or played: whoever waits for it may look again."""

    def started(self) -> None:
        """`start` was sent."""

    def notice(self, code: int, text: str) -> None:
        """Twilio would log this."""

    def caller_hangs_up(self) -> None:
        """A fault made the caller hang up."""


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """All a stream needs to know. `url` is the wss URL without its query string; `parameters` become custom ones."""

    settings: CarrierSettings
    faults: CallFaults
    ids: StreamIds
    url: str
    upgrade: Upgrade
    parameters: tuple[tuple[str, str], ...]
