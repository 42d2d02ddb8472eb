"""The error tree: whose fault it is decides the type.

    OffhookError
    ├── SettingsError          the operator's: a setting or a file it names is wrong (exit 2 before anything listens)
    ├── ClipError              the operator's: a recording is missing, corrupt or unusable
    ├── ReadinessUnavailable   Redis does not answer
    ├── TicketRefused          the caller of the upgrade: forged, expired, spent
    ├── StreamProtocolError    the other end of a stream or of a channel broke its protocol
    ├── IllegalTransition      ours: a state machine was asked for what its table forbids
    └── WarmupFailed           a worker could not become ready; names the resource

Each leaf has a `reason`, used as log field and as metric label. "No worker is free" is an outcome, not an error.
"""

import errno
import os
from typing import ClassVar


def system_words(error: OSError) -> str:
    """Say why the system refused, without the numbers and addresses Python puts around its words.

    `socket.create_server` repeats the address behind them; the resolver has negative numbers, which mean nothing to strerror.
    """
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return (error.strerror or str(error)).partition(" (while")[0]


def blames_host(error: OSError) -> bool:
    """Say whether an address could not be had because of its host; otherwise it was the port."""
    return (error.errno or 0) < 0 or error.errno == errno.EADDRNOTAVAIL


class OffhookError(Exception):
    """The base of every error this project raises on purpose. Never raised itself."""

    reason: ClassVar[str] = "error"


class SettingsError(OffhookError):
    """One or more settings are wrong; the message has one line per problem, each naming the setting."""

    reason = "settings"


class ClipError(OffhookError):
    """One or more clips are missing or unusable; the message has one line per problem."""

    reason = "clip"


class ReadinessUnavailable(OffhookError):
    """Redis did not answer; what depends on it must go on without."""

    reason = "readiness_unavailable"


class TicketRefused(OffhookError):
    """A ticket does not admit this upgrade; the message says why in one word, without the ticket."""

    reason = "ticket"


class StreamProtocolError(OffhookError):
    """The peer of a stream or channel sent what its protocol does not allow."""

    reason = "protocol"


class IllegalTransition(OffhookError):
    """A state machine was asked for a transition its table does not have: a bug of ours."""

    reason = "illegal_transition"


class WarmupFailed(OffhookError):
    """A worker could not become ready; `resource` says what was missing, `limited` that a provider's plan is used up.

    The message is for the operator: it stands in `/readyz`.
    """

    reason = "warmup"

    def __init__(self, resource: str, message: str, *, limited: bool = False) -> None:
        super().__init__(message)
        self.resource = resource
        self.limited = limited
