"""`python -m shared.healthcheck URL...`: exit 0 when every URL answers 2xx, else 1 and one line that says why.

For the health checks of containers, which run it every few seconds beside calls: of the library only `socket` is imported, and
not even `typing`. Docker shows the line in `docker inspect`; it has the `reason` of our `/readyz`. Plain http only, without
redirects: it asks its own container.
"""

import socket
import sys
import time

TIMEOUT_S = 3.0
"""For all URLs together, so that it ends by itself before the usual limit of a health check."""

MOST_BYTES = 262_144
PIECE_BYTES = 65_536
MOST_WORDS = 500
SCHEME = "http://"
UNIX = "unix:"
SUCCESS = range(200, 300)


class Unhealthy(Exception):
    """The answer was not what it should be, or there was none; the message says why."""


def main(arguments: list[str]) -> int:
    """Check every URL; give the exit status."""
    ends = time.monotonic() + TIMEOUT_S
    failed = [] if arguments else ["usage: python -m shared.healthcheck URL..."]
    for url in arguments:
        try:
            check(url, ends)
        except Unhealthy as error:
            failed.append(f"{url}: {error}")
    if failed:
        sys.stdout.write(_line("; ".join(failed)) + "\n")
    return 1 if failed else 0


def check(url: str, ends: float) -> None:
    """Ask one URL until `ends` (CLOCK_MONOTONIC).

    Raises:
        Unhealthy: it answers something else than 2xx, or nothing in time.
    """
    try:
        answer = _get_at(url, ends) if url.startswith(UNIX) else _get(*_split(url), ends)
    except TimeoutError:
        raise Unhealthy("no answer in time") from None
    except OSError as error:
        raise Unhealthy(error.strerror or str(error)) from None
    head, _, body = answer.partition(b"\r\n\r\n")
    version, _, rest = head.partition(b"\r\n")[0].partition(b" ")
    status = rest[:3].decode("ascii", "replace")
    if not version.startswith(b"HTTP/") or not status.isdecimal():
        raise Unhealthy("does not answer with HTTP")
    if int(status) not in SUCCESS:
        raise Unhealthy(f"{status}: {_reason(body)}")


def _split(url: str) -> tuple[str, int, str]:
    authority, slash, path = url.removeprefix(SCHEME).partition("/")
    host, colon, port = authority.rpartition(":") if not authority.endswith("]") else (authority, "", "")
    if not colon:
        host, port = authority, "80"
    if not url.startswith(SCHEME) or not host or not port.isdecimal() or not url.isascii() or not url.isprintable():
        raise Unhealthy("is no URL of the form http://host:port/path")
    return host.removeprefix("[").removesuffix("]"), int(port), f"{slash or '/'}{path}"


def _get(host: str, port: int, target: str, ends: float) -> bytes:
    address = (host.encode(), port)  # of text a codec for names in all languages would be loaded, which takes 10 ms
    with socket.create_connection(address, timeout=_left(ends)) as sock:  # type: ignore[arg-type]  # bytes are a name too
        return _ask(sock, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", target, ends)


def _get_at(url: str, ends: float) -> bytes:
    """Ask at a Unix socket: `unix:<path of the socket>:<path of the page>`."""
    path, colon, target = url.removeprefix(UNIX).rpartition(":")
    if not colon or not path or not target.startswith("/"):
        raise Unhealthy("is not of the form unix:/path/of/socket:/page")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(_left(ends))
        sock.connect(path)
        return _ask(sock, "localhost", target, ends)


def _ask(sock: socket.socket, host: str, target: str, ends: float) -> bytes:
    """Make the request; HTTP/1.0, so that the answer ends with the connection and is in one piece."""
    sock.sendall(f"GET {target.replace(' ', '%20')} HTTP/1.0\r\nhost: {host}\r\n\r\n".encode())
    answer = b""
    while len(answer) < MOST_BYTES:
        sock.settimeout(_left(ends))
        piece = sock.recv(PIECE_BYTES)
        if not piece:
            break
        answer += piece
    return answer


def _left(ends: float) -> float:
    left_s = ends - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


def _reason(body: bytes) -> str:
    """Give what a JSON answer has as its `reason`, else its first line."""
    import json  # 3 ms, which an answer that is fine does not need

    try:
        said = json.loads(body)
    except (ValueError, RecursionError):  # also text that is no UTF-8
        said = None
    reason = said.get("reason") if isinstance(said, dict) else None
    words = reason if isinstance(reason, str) and reason else body.decode("utf-8", "replace").strip().partition("\n")[0]
    return words.strip()[:MOST_WORDS] or "says nothing"


def _line(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
