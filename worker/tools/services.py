"""What tools of the host may use of the world: the database, by its functions, and the messenger. Interfaces, no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


class ServiceTrouble(Exception):
    """The database or the messenger did not do what was asked; the message is for the log, without personal data.

    `maybe_done`: nobody knows whether it was done (no answer came in time).
    """

    def __init__(self, message: str, *, maybe_done: bool = False) -> None:
        super().__init__(message)
        self.maybe_done = maybe_done


class Database(Protocol):
    """The functions of `deploy/supabase/migrations`."""

    async def call(self, function: str, arguments: Mapping[str, Any]) -> Any:
        """Call a function and give its JSON document.

        Raises:
            ServiceTrouble: no usable answer in time.
        """


class Messenger(Protocol):
    """Sends messages to customers."""

    async def send_whatsapp(self, key: str, to: str, body: str, call_sid: str) -> str:
        """Send free text, or the installation's template where WhatsApp allows nothing else. The same `key` sends once.

        Gives what is known of it within the time a caller would wait: `delivered`, `taken` (the provider has it, and may
        still fail to deliver it), `queued` (it will be sent), or a sentence that says why it was refused. A failure that comes
        later is told to nobody: the database has it.

        Raises:
            ServiceTrouble: it could not even be queued.
        """


@dataclass(frozen=True, slots=True)
class Services:
    """What there is of them; None where it is not configured."""

    database: Database | None = None
    messenger: Messenger | None = None

    async def ask(self, function: str, **arguments: Any) -> Any:
        """Call a function of the database, whose arguments are named `p_...` there, and give its document.

        Raises:
            ServiceTrouble: there is no database, or no usable answer in time.
        """
        if self.database is None:
            raise ServiceTrouble("no database is configured")
        return await self.database.call(function, {f"p_{name}": value for name, value in arguments.items()})
