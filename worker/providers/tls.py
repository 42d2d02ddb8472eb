"""What every connection of a worker to a provider shares, made once in the zygote.

Reading the certificate store takes 19 ms of CPU (measured), and every client would do it for itself: three times per worker.
The modules below are imported by the clients at their first connection and first completion, 34 ms in all, which a call would
pay.
"""

import ssl
from typing import Any, Final
from urllib.parse import urlsplit

import anyio._backends._asyncio  # noqa: F401 - see above
import httpcore2  # noqa: F401 - see above
import openai.resources.chat.chat  # noqa: F401 - see above

CONTEXT: Final = ssl.create_default_context()


def websocket_options(url: str) -> dict[str, Any]:
    """Give the options of a WebSocket connection to `url`: the shared context where there is TLS."""
    return {"ssl": CONTEXT} if urlsplit(url).scheme == "wss" else {}
