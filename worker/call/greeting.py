"""The greeting: a clip cut into messages once, before any call, so that a call only adds its streamSid. Pure."""

import base64
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from msgspec import structs

from shared.agents import Agent
from shared.clips import Clip
from shared.settings import Settings
from shared.variables import Values, render
from worker.call.media import MEDIA_SUFFIX, media_prefix
from worker.call.playout import RATE
from worker.providers.languages import speaks

BRIDGING: Final = "bridging"
"""The clip that a caller hears who has to wait for an answer, or for a worker."""

FIRST_PIECE_BYTES: Final = 160
"""20 ms: the first message is small, so that it leaves at once."""

PIECE_BYTES: Final = 1600
"""200 ms: few messages, and a barge-in still finds most of a clip unsent beyond the burst."""

BURST_S: Final = 5.0
"""Sent without pacing: the carrier buffers, and base64 of 5 s (53 kB) fits any socket buffer we set (256 KiB)."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One media message to be: its base64 and how many bytes of mu-law it carries."""

    payload: str
    size: int


@dataclass(frozen=True, slots=True)
class Recording:
    """A clip ready to be sent."""

    clip: Clip
    pieces: tuple[Piece, ...]

    @property
    def text(self) -> str:
        """What the clip says."""
        return self.clip.text


def record(clip: Clip) -> Recording:
    """Cut a clip into pieces: 20 ms, then 200 ms each."""
    cuts = [0, *range(FIRST_PIECE_BYTES, len(clip.audio), PIECE_BYTES), len(clip.audio)]
    pieces = [clip.audio[start:end] for start, end in itertools.pairwise(cuts) if end > start]
    return Recording(clip, tuple(Piece(base64.b64encode(piece).decode(), len(piece)) for piece in pieces))


def burst(recording: Recording, stream_sid: str) -> tuple[list[str], int, int]:
    """Write the messages that go out at once: those messages, the pieces used and the bytes of audio in them."""
    prefix = media_prefix(stream_sid)
    messages: list[str] = []
    audio = 0
    for piece in recording.pieces:
        if audio >= BURST_S * RATE:
            break
        messages.append(f"{prefix}{piece.payload}{MEDIA_SUFFIX}")
        audio += piece.size
    return messages, len(messages), audio


def heard_part(text: str, share: float) -> str:
    """Cut a text at the word that was playing when `share` (0 to 1) of its clip had been played."""
    if share >= 1:
        return text
    words = text.split()
    heard = words[: int(len(words) * max(0.0, share))]
    return " ".join(heard) + "…" if heard else ""


def choose(agent: Agent, own: Recording | None, usual: Recording | None) -> Recording | None:
    """Choose the recording that greets: the agent's own, else the installation's usual one; None: its voice greets.

    The usual one greets only in its own language, and not for an agent that has words of its own.
    """
    if agent.greeting_clip or usual is None:
        return own
    own_words = bool(agent.greeting and usual.text and agent.greeting != usual.text)
    return usual if same_language(usual, agent) and not own_words else None


def opening(agent: Agent, recordings: Mapping[str, Recording], settings: Settings) -> tuple[Recording | None, str]:
    """Give the recording a call begins with (None: the agent's voice greets, through the pipeline), and what is said.

    Without `DIRECT_GREETING_INJECTION` the voice says the words of the recording; one without words has to be played.
    """
    usual = recordings.get(settings.greeting_audio_clip)
    own = recordings.get(agent.greeting_clip)
    greeting = choose(agent, own, usual) if settings.greeting_audio_enabled else None
    words = words_of(agent, greeting, usual)
    return (greeting if settings.direct_greeting_injection or not words else None), words


def greeting_for(agent: Agent, values: Values) -> Agent:
    """Give the agent with the greeting its voice would speak in this call: as it is when that has no variables."""
    greeting = render(agent.greeting, values, quoted=False)
    return agent if greeting is agent.greeting else structs.replace(agent, greeting=greeting)


def words_of(agent: Agent, greeting: Recording | None, usual: Recording | None) -> str:
    """Say what the greeting says: the recording's words, or the agent's for a recording without any, or for its voice."""
    if greeting is not None:
        return greeting.text or agent.greeting
    return agent.greeting or (usual.text if usual is not None and same_language(usual, agent) else "")


def same_language(recording: Recording, agent: Agent) -> bool:
    """Say whether a recording is in an agent's language."""
    return speaks(recording.clip.language, agent.language)
