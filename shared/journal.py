"""The journal of a call: what must be known to resume it, as small entries written ahead of what they announce. Pure.

The worker writes, its pool holds. An entry that was sent survives `kill -9` of its sender.
"""

import time
from typing import Final, Literal

from shared.messages import Entry

MAX_TEXT_CHARS: Final = 10_000
"""Keeps an entry below the 64 KiB of a message, whatever the characters (a control character is 6 bytes, escaped)."""

EntryKind = Literal["user", "agent", "heard", "tool", "result", "customer"]


def entry(kind: EntryKind, text: str, key: str = "") -> Entry:
    """Write an entry now; a text too long or not encodable is cut or mended: what does not fit must not cost the call."""
    sound = text[:MAX_TEXT_CHARS].encode(errors="replace").decode()
    return Entry(kind=kind, text=sound, at=time.time(), key=key)
