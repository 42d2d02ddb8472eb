"""Logs: one JSON object per line on stdout, for our own words and for those of every library.

Call SID, trace id and worker stand in every line: a process that serves one call binds them once (`bind`), one that serves
many passes them with each line or binds a task's context (`structlog.contextvars`). Phone numbers and secrets are masked
here and nowhere else, so that no caller of a logger has to think of it. Secrets should not get here, since `SecretStr`
hides them; but what a library or a provider says in an error is not ours, and some repeat the key they refuse.
"""

import json
import logging
import re
import sys
from typing import Any, Final
from urllib.parse import quote

import structlog
from structlog.types import EventDict, Processor, WrappedLogger

MIN_SECRET_CHARS: Final = 6
"""Anything shorter is no secret, and stands in innocent words."""

HIDDEN: Final = "[secret]"

_secrets: Final[set[str]] = set()
_process_fields: Final[dict[str, str]] = {}
# E.164 has at most 15 digits and begins with + ; 7 digits is the shortest number worth hiding.
_PHONE: Final = re.compile(r"(\+|%2[Bb])(\d{4})\d{3,11}(?!\d)")


def hide(*secrets: str) -> None:
    """Mask these values from now on, also as a URL and as JSON write them."""
    for secret in secrets:
        if len(secret) >= MIN_SECRET_CHARS:
            _secrets.update({secret, quote(secret, safe=""), json.dumps(secret)[1:-1]})


def mask(text: str) -> str:
    """Hide every secret in a text, and the end of every phone number: `+5511****`."""
    for secret in sorted(_secrets, key=len, reverse=True):  # one may be the beginning of another
        text = text.replace(secret, HIDDEN)
    return _PHONE.sub(r"\1\2****", text)


def configure(level: str, **fields: str) -> None:
    """Send everything logged in this process to stdout as JSON, with these fields in each line."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _add_process_fields,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.PositionalArgumentsFormatter(),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
                _mask_line,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("httpx", "httpx2", "httpcore", "httpcore2", "websockets", "openai", "rq.worker"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
    bind(**fields)


def bind(**fields: str) -> None:
    """Put these fields into every line of this process from now on."""
    _process_fields.update(fields)


def get(name: str) -> structlog.stdlib.BoundLogger:
    """Give the logger of a module."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def _add_process_fields(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {**_process_fields, **event}


def _mask_line(_logger: WrappedLogger, _method: str, line: Any) -> str:
    """Mask the finished line: keys, errors and objects that only their `repr` writes out are in it as well."""
    return mask(line)
