"""Twilio's own client, as a job needs it: bounded in time, at the address that is set, and clear about what was sent.

Twilio knows no idempotency key for messages, so the one question about a failure is whether a message may have gone out.
"""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from requests.exceptions import RequestException
from twilio.base.exceptions import TwilioException, TwilioRestException, TwilioServiceException
from twilio.http.http_client import TwilioHttpClient
from twilio.rest import Client
from urllib3.exceptions import ConnectTimeoutError, MaxRetryError, NewConnectionError

from shared.letters import TWILIO_TIMEOUT_S

NOT_TAKEN: Final = frozenset({429, 503})
"""Statuses of requests that were not processed. Source: Twilio error 20429, and its article about retries (Retry-After)."""

SERVER_ERROR: Final = 500
LONGEST_WAIT_S: Final = 600.0

CHANNEL: Final = "whatsapp:"


class NotTaken(Exception):  # none of these leaves worker.jobs: the error tree is for what crosses rooms
    """No message went out, and the same may be tried after `wait_s` seconds."""

    def __init__(self, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class NoAnswer(Exception):
    """Nobody knows whether a message went out."""


class Refused(Exception):
    """Twilio does not want this message; `code` is the number of its error."""

    def __init__(self, code: str, status: int) -> None:
        super().__init__(f"error {code}, status {status}")
        self.code = code


@dataclass(frozen=True, slots=True)
class Sent:
    """A message Twilio has taken: its sid, its status so far, and the number of an error that is known already."""

    sid: str
    status: str
    error_code: str


class WhatsApp:
    """Sends WhatsApp messages from one number. For one thread at a time; building one takes no network.

    Connections are not kept: one that has been idle for an hour may be dead without our knowing, and then nobody could say
    whether the message on it went out.
    """

    def __init__(
        self, account_sid: str, token: str, base_url: str, sender: str, timeout_s: float = TWILIO_TIMEOUT_S
    ) -> None:
        logger = logging.getLogger("twilio.http_client")
        logger.setLevel(logging.WARNING)  # it writes five lines for each request
        http = TwilioHttpClient(timeout=timeout_s, logger=logger)
        http.session.headers["Connection"] = "close"
        self._client = Client(account_sid, token, http_client=_Clear(http))
        self._client.api.base_url = base_url  # the client has no argument for it
        self._from = CHANNEL + sender
        self._http = http

    def text(self, to: str, body: str, callback: str) -> Sent:
        """Send free text to an E.164 number.

        Raises:
            NotTaken, NoAnswer, Refused: as they say.
        """
        return self._create(to=CHANNEL + to, body=body, status_callback=callback)

    def template(self, to: str, body: str, callback: str, template_sid: str) -> Sent:
        """Send the template whose first variable is the text; raises as `text` does.

        A variable may hold neither line breaks nor tabs nor a row of spaces: they become one space.

        Source: WhatsApp Business Platform, template parameters; Twilio error 21656 (a JSON string, no empty value).
        """
        variables = json.dumps({"1": " ".join(body.split())}, ensure_ascii=False)
        return self._create(
            to=CHANNEL + to, content_sid=template_sid, content_variables=variables, status_callback=callback
        )

    def read(self, sid: str) -> tuple[str, str]:
        """Give the E.164 number and the text of a message that was sent; raises as `text` does."""
        message = _asked(lambda: self._client.messages(sid).fetch())
        return str(message.to).removeprefix(CHANNEL), str(message.body or "")

    def close(self) -> None:
        """Close what is open."""
        self._http.session.close()

    def _create(self, **fields: str) -> Sent:
        message = _asked(lambda: self._client.messages.create(from_=self._from, **fields))
        error = message.error_code
        return Sent(str(message.sid), str(message.status), "" if error is None else str(error))


class _Clear:
    """Twilio's HTTP client, whose failures say whether anything was sent."""

    is_async = False

    def __init__(self, inner: TwilioHttpClient) -> None:
        self._inner = inner

    def request(self, *args: Any, **kwargs: Any) -> Any:
        try:
            response = self._inner.request(*args, **kwargs)
        except RequestException as error:
            if _never_connected(error):
                raise NotTaken(f"no connection: {type(error).__name__}") from error
            raise NoAnswer(type(error).__name__) from error
        if response.status_code in NOT_TAKEN:
            raise NotTaken(f"status {response.status_code}", _wait_s(response.headers))
        return response


def _asked(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except (TwilioRestException, TwilioServiceException) as error:
        if error.status >= SERVER_ERROR:
            raise NoAnswer(f"status {error.status}") from error
        raise Refused(str(error.code), error.status) from error
    except (TwilioException, ValueError, TypeError, KeyError, AttributeError) as error:  # an answer that is none
        raise NoAnswer(type(error).__name__) from error


def _never_connected(error: RequestException) -> bool:
    """Say whether a request failed before a byte of it was sent."""
    cause = error.args[0] if error.args else None
    return isinstance(cause, MaxRetryError) and isinstance(cause.reason, NewConnectionError | ConnectTimeoutError)


def _wait_s(headers: Mapping[str, str] | None) -> float:
    """Read `Retry-After`, when it is a number of seconds."""
    written = (headers or {}).get("Retry-After", "")
    return min(float(written), LONGEST_WAIT_S) if written.isascii() and written.isdigit() else 0.0
