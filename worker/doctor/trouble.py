"""What goes wrong with a service, in the operator's words: which setting it is, or whose plan."""

import socket
import ssl
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import httpx
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from worker.doctor.findings import Finding, bad

WORDS_KEPT: Final = 160
OUT_OF_QUOTA: Final = "insufficient_quota"
"""OpenAI says so with a 429, which other vendors mean otherwise."""


class Refused(Exception):  # it never leaves this package
    """A service answered, and does not want what was asked. `status` is as in HTTP, 0 where nobody knows."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


@dataclass(frozen=True, slots=True)
class Service:
    """A service, and the settings that may be wrong about it; `chosen` is what names a model or a voice."""

    name: str
    key: str
    url: str
    chosen: str = ""
    limits: str = ""


def trouble(service: Service, error: Exception, what: str = "") -> Finding:
    """Make a finding of an error. `what` was asked for."""
    about = f"{service.name} {what}".strip()
    match error:
        case Refused():
            return _refused(service, about, error.status, str(error))
        case InvalidStatus():
            body = error.response.body or b""
            return _refused(service, about, error.response.status_code, bytes(body).decode(errors="replace"))
        case ConnectionClosed():
            words = error.rcvd.reason if error.rcvd else ""
            return _refused(service, about, 0, f"closed the connection {words}".strip())
    return bad(f"{about}: {unreachable(error)}", _way(service, error))


def unreachable(error: BaseException) -> str:
    """Say why somebody cannot be reached."""
    for each in _causes(error):
        match each:
            case ssl.SSLCertVerificationError():
                return f"its certificate is not believed: {each.verify_message}"
            case ssl.SSLError():
                return f"no TLS there: {each.reason or each}"
            case socket.gaierror():
                return "there is no such host"
            case ConnectionRefusedError():
                return "the connection is refused: nobody listens there"
            case TimeoutError() | httpx.TimeoutException():
                return "no answer in time"
            case InvalidHandshake():
                return f"no WebSocket there: {each}"
    return f"{type(error).__name__}: {error}"[:WORDS_KEPT]


def _way(service: Service, error: BaseException) -> str:
    if any(isinstance(each, ssl.SSLCertVerificationError) for each in _causes(error)):
        return f"{service.url}: is it this host? With an authority of your own set SSL_CERT_FILE"
    return f"{service.url}: see whether it is right, and whether this machine may connect there (DNS, firewall, proxy)"


def _refused(service: Service, about: str, status: int, words: str) -> Finding:
    if OUT_OF_QUOTA in words:
        status = HTTPStatus.PAYMENT_REQUIRED
    kept = (
        "" if status == HTTPStatus.UNAUTHORIZED else " ".join(words.split())[:WORDS_KEPT]
    )  # some repeat parts of the key
    said = f"{about}: refused{f' with {status}' if status else ''}{f': {kept}' if kept else ''}"
    match status:
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
            return bad(said, f"{service.key}: put a valid key there, one that may do this")
        case HTTPStatus.PAYMENT_REQUIRED:
            return bad(said, f"the account of {service.key} has no credit left: see its plan")
        case HTTPStatus.TOO_MANY_REQUESTS:
            limits = f", or set {service.limits} to what it allows" if service.limits else ""
            return bad(said, f"the plan of {service.key} is used up: take a larger one{limits}")
        case HTTPStatus.BAD_REQUEST | HTTPStatus.NOT_FOUND | HTTPStatus.UNPROCESSABLE_ENTITY:
            return bad(said, f"{service.chosen or service.url}: does not exist there, or not for this key")
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return bad(said, f"{service.name} has trouble of its own: see its status page, and try again")
    return bad(said, f"see {service.key}, {service.chosen or service.url}")


def _causes(error: BaseException) -> list[BaseException]:
    """Give an error and what it came of, the last cause first."""
    found: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in found:
        found.insert(0, at)
        at = at.__cause__ or at.__context__
    return [*found, *(each for group in found if isinstance(group, ExceptionGroup) for each in group.exceptions)]
