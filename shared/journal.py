"""The journal of a call: what must be known to resume it, as small entries written ahead of what they announce. Pure.

The worker writes, its pool holds. An entry that was sent survives `kill -9` of its sender.
"""

import time
from typing import Final, Literal

from shared.messages import Entry

MAX_TEXT_CHARS: Final = 12_000
"""Keeps an entry far below the 64 KiB of a message, whatever the characters (4 bytes each, escaped)."""

EntryKind = Literal["user", "agent", "heard", "tool", "result", "customer"]


def entry(kind: EntryKind, text: str, key: str = "") -> Entry:
    """Write an entry now; a longer text is cut, since what does not fit must not cost the call."""
    return Entry(kind=kind, text=text[:MAX_TEXT_CHARS], at=time.time(), key=key)
