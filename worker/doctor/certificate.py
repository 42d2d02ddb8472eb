"""The certificate of the public address, looked at as Twilio does: is it believed, for whom, until when, and by which chain."""

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from worker.doctor.case import Case, Stopwatch
from worker.doctor.findings import Finding, bad, doubtful, good, not_tried
from worker.doctor.trouble import unreachable

CONNECT_S: Final = 5.0
HTTPS_PORT: Final = 443
EARLY_DAYS: Final = 14
"""Automatic renewal happens 30 days ahead: half of that means that it does not work."""

DAY_S: Final = 86_400

EXPIRED: Final = 10
NOT_YET: Final = 9
SELF_SIGNED: Final = 18
ROOT_UNKNOWN: Final = 19
ISSUER_UNKNOWN: Final = frozenset({20, 21})
OTHER_HOST: Final = frozenset({62, 64})
"""Source: OpenSSL, x509_vfy.h (X509_V_ERR_*)."""

OWN_AUTHORITY: Final = "an authority of your own may be named by SSL_CERT_FILE, but Twilio believes public ones only"


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a server showed: certificates as `getpeercert` writes them, its own first."""

    chain: Sequence[dict[str, Any]]
    version: str
    ms: float

    @property
    def own(self) -> dict[str, Any]:
        return self.chain[0] if self.chain else {}


async def tls(case: Case) -> AsyncGenerator[Finding, None]:
    """Say who vouches for the public address, and until when; or why nobody does."""
    parts = urlsplit(case.conf.public_base_url)
    host, port = parts.hostname or "", parts.port or HTTPS_PORT
    if not host:
        yield not_tried("there is no PUBLIC_BASE_URL")
        return
    if parts.scheme != "https":
        yield good("none: PUBLIC_BASE_URL is of this machine only")
        return
    try:
        seen = await asyncio.to_thread(_shake, host, port, case.tls)
    except ssl.SSLCertVerificationError as error:
        yield await asyncio.to_thread(_why, host, port, error)
    except (OSError, ssl.SSLError) as error:
        words = unreachable(error)
        yield bad(
            f"{host}:{port}: {words}", "PUBLIC_BASE_URL: does TLS end there? See the edge, the DNS and the firewall"
        )
    else:
        yield _believed(host, seen, time.time())


def _believed(host: str, seen: _Seen, now: float) -> Finding:
    days = (ssl.cert_time_to_seconds(str(seen.own["notAfter"])) - now) / DAY_S
    chain = f"{len(seen.chain)} certificates, the chain is complete" if len(seen.chain) > 1 else "believed as it is"
    said = f"{host}: issued by {_name(seen.own, 'issuer')}, expires in {days:.0f} days; {chain}; {seen.version}"
    if days < EARLY_DAYS:
        return doubtful(said, "renew it: see why that does not happen by itself", seen.ms)
    return good(said, seen.ms)


def _why(host: str, port: int, error: ssl.SSLCertVerificationError) -> Finding:
    """Look again without believing, to say what is wrong."""
    seen = _Seen((), "", 0.0)
    with contextlib.suppress(OSError, ssl.SSLError):
        seen = _shake(host, port, _blind())
    own, issuer = seen.own, _name(seen.own, "issuer")
    until, since = own.get("notAfter", ""), own.get("notBefore", "")
    match error.verify_code:
        case code if code in OTHER_HOST:
            names = ", ".join(name for _, name in own.get("subjectAltName", ())) or _name(own, "subject")
            return bad(
                f"the certificate is for {names}, not for {host}", f"get one for {host}, or correct PUBLIC_BASE_URL"
            )
        case code if code == EXPIRED:
            return bad(
                f"the certificate, or one of its chain, is expired ({until})",
                "renew it, and reload the edge",
            )
        case code if code == NOT_YET:
            return bad(
                f"the certificate is not valid before {since}",
                "see the clocks of this host and of the edge",
            )
        case code if code == SELF_SIGNED:
            return bad(
                "the certificate is signed by itself", f"get one of a public authority (the edge can); {OWN_AUTHORITY}"
            )
        case code if code == ROOT_UNKNOWN:
            return bad(f"the authority is not believed: {_name(seen.chain[-1:], 'subject')}", OWN_AUTHORITY)
        case code if code in ISSUER_UNKNOWN and len(seen.chain) <= 1:
            return bad(
                f"the chain is not complete, or its authority unknown: only the certificate itself is sent, issued by {issuer}",
                f"have the edge send the intermediates too (the file called fullchain); {OWN_AUTHORITY}",
            )
    return bad(f"the certificate is not believed: {error.verify_message} (issued by {issuer})", OWN_AUTHORITY)


def _shake(host: str, port: int, context: ssl.SSLContext) -> _Seen:
    watch = Stopwatch()
    with (
        socket.create_connection((host, port), CONNECT_S) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
    ):
        return _Seen(_chain(secure), secure.version() or "", watch.ms)


def _chain(secure: ssl.SSLSocket) -> list[dict[str, Any]]:
    """Give the certificates as they were sent. Python shows them publicly from 3.13 on, and only as DER."""
    certificates: Any = secure._sslobj.get_unverified_chain()  # type: ignore[attr-defined]  # noqa: SLF001 - see above
    return [certificate.get_info() for certificate in certificates or ()]


def _blind() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _name(certificate: dict[str, Any] | Sequence[dict[str, Any]], of: str) -> str:
    """Give the name of a certificate's subject or issuer: the organisation and the common name, as far as there are any."""
    one = certificate if isinstance(certificate, dict) else next(iter(certificate), {})
    parts = dict(pair for group in one.get(of, ()) for pair in group)
    names = [parts[field] for field in ("organizationName", "commonName") if field in parts]
    return " ".join(dict.fromkeys(names)) or "nobody"
