"""The journal of a call: what must be known to resume it, as small entries written ahead of what they announce. Pure.

The worker writes, its pool holds. An entry that was sent survives `kill -9` of its sender. `came_back` is the pool's own.

| kind | `text` | `key` |
|---|---|---|
| `greeting` | the words of the greeting that begins now; empty when nobody knows them | its mark |
| `sent` | | how many bytes of a long greeting have been sent by now |
| `user` | what the caller said, before its completion is asked for | |
| `tool` | JSON `{"name", "arguments"}`, before it runs | tool call id |
| `result` | JSON, what the model is told | tool call id |
| `agent` | a sentence whose audio is on its way | its mark |
| `heard` | what a returned mark proves the caller heard | the mark |
| `spoken` | | how many demands (`user`, `result` and `came_back` entries) stood in the journal when this speech began |
| `interrupted` | what of the greeting had been heard, when it was interrupted | |
| `cleared` | a successor takes back what is not played yet, to say it again | |
| `halted` | the carrier drops what it has not played, for now; how many bytes of a greeting had been heard | |
| `proceeded` | it gets that again; JSON: what marks are called now, by their former names | a greeting's byte to go on from |
| `customer` | the outcome of the prefetch | |
| `came_back` | its stream was lost, and a pool took the call again on another; what follows is said there | |
| `cut` | JSON `{"said", "heard"}` of the sentence the caller spoke over, `heard` as far as it had been played | |
| `consent` | the words that told the caller of the recording, heard to their end: it begins | |
| `used` | JSON object of what was used, by its name in `callrecord.Counts` | |
| `timing` | seconds | a `shared.metrics.Timing`, for a turn with its stage: `turn_llm` |

The last four are for the record of the call alone; a successor passes over what was used, timed and cut.
"""

import time
from collections.abc import Iterable, Iterator
from typing import Final

from shared.framing import MAX_MESSAGE_BYTES, encode
from shared.messages import Entry, EntryKind, Remember

MAX_TEXT_CHARS: Final = 10_000
"""Keeps an entry below the 64 KiB of a message, whatever the characters (a control character is 6 bytes, escaped)."""

_SPACE_BYTES: Final = 1024
"""What a message needs beside its entries."""


def entry(kind: EntryKind, text: str, key: str = "", ago_s: float = 0.0) -> Entry:
    """Write an entry of something that happened `ago_s` seconds ago.

    A text too long or not encodable is cut or mended: what does not fit must not cost the call.
    """
    sound = text[:MAX_TEXT_CHARS].encode(errors="replace").decode()
    return Entry(kind=kind, text=sound, at=time.time() - ago_s, key=key)


def packed(entries: Iterable[Entry]) -> Iterator[Remember]:
    """Put a journal into as few messages as hold it."""
    batch: list[Entry] = []
    size = _SPACE_BYTES
    for each in entries:
        bytes_ = len(encode(each)) + 1
        if batch and size + bytes_ > MAX_MESSAGE_BYTES:
            yield Remember(entries=tuple(batch))
            batch, size = [], _SPACE_BYTES
        batch.append(each)
        size += bytes_
    if batch:
        yield Remember(entries=tuple(batch))
