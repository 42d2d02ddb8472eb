"""Tells the caller that the call is recorded, and lets the recording begin when that was heard. Off: does nothing at all.

The clip comes before the greeting. A caller who speaks over it is told again; one who cannot be told, because there is no
clip in the agent's language or because they do not stop talking, is not recorded.
"""

import time
from collections.abc import Mapping
from typing import Final

from shared.calls import CallSid
from shared.logs import get
from shared.messages import Bind
from shared.settings import Settings
from worker.call.greeting import BURST_S, Recording, burst, same_language
from worker.call.hearing import Hearing
from worker.call.memory import Memory
from worker.call.pipeline import AgentPipeline
from worker.call.playout import RATE
from worker.call.recorder import Recorder
from worker.call.scribe import Scribe
from worker.call.stream import Stream
from worker.call.tasks import Tasks

MOST_TRIES: Final = 3

log = get(__name__)


class Consent:
    """The consent of one call's caller, and the recorder that waits for it."""

    def __init__(
        self,
        settings: Settings,
        recordings: Mapping[str, Recording],
        pipeline: AgentPipeline,
        scribe: Scribe,
        hearing: Hearing,
    ) -> None:
        self._settings = settings
        self._recordings = recordings
        self._pipeline = pipeline
        self._scribe = scribe
        self._hearing = hearing
        self._tasks = Tasks()
        self._clip: Recording | None = None
        self._recorder: Recorder | None = None
        self._stream: Stream | None = None
        self._stream_sid = ""
        self._call_sid = CallSid("")
        self._number = 0
        self._mark = ""
        self._tries = 0
        self._from = 0  # where on the play-out clock the clip begins
        self._late = False

    @property
    def delay_s(self) -> float:
        """How long the clip in front of the greeting lasts; 0 without one."""
        return len(self._clip.clip.audio) / RATE if self._clip is not None and self._tries else 0.0

    def bound(self, bound: Bind, number: int, memory: Memory) -> None:
        """Note which call this is, as the worker with this number in it, and whether it was consented to before."""
        if not self._settings.recording_enabled:
            return
        clip = self._recordings.get(self._settings.recording_clip)
        if clip is None or not same_language(clip, bound.agent) or len(clip.clip.audio) > BURST_S * RATE:
            log.warning("the call is not recorded: no clip of at most 5 s tells of it",
                        clip=self._settings.recording_clip, language=bound.agent.language)  # fmt: skip
            return
        self._clip, self._call_sid, self._number = clip, bound.call.call_sid, number
        self._recorder = self._pipeline.output.playout.tap = Recorder()
        if memory.consented:
            self._begin()
        else:
            self._late = bool(memory)

    def attach(self, stream: Stream, stream_sid: str) -> None:
        """Speak on this stream; to a caller who was greeted before, as soon as what is said first is written."""
        self._stream, self._stream_sid = stream, stream_sid
        if self._late:
            self._late = False
            self._tasks.go(self._again())

    def first(self) -> float:
        """Tell a new caller, in front of the greeting; gives when the first message was written (monotonic), 0 for none."""
        return self._tell() if self._clip is not None else 0.0

    def heard(self, mark: str) -> bool:
        """Take a mark that came back; whether it is the clip's."""
        if not mark or mark != self._mark:
            return False
        self._mark = ""
        if self._clip is not None:
            self._scribe.consented(self._clip.text, len(self._clip.clip.audio) / RATE)
        self._begin()
        return True

    def interrupted(self) -> None:
        """Note that the caller speaks: a clip that was not heard to its end is played again."""
        if self._mark:
            self._mark = ""
            self._tasks.go(self._again())

    def proceeding(self, place: int) -> int:
        """Say from which place the agent proceeds: a clip that was not heard to its end is played again, from its beginning."""
        if not self._mark or place <= self._from:
            return place
        if self._tries < MOST_TRIES:
            self._tries += 1
            return self._from
        self._give_up()
        return place

    def renamed(self, names: Mapping[str, str]) -> None:
        """Note what marks are called now."""
        self._mark = names.get(self._mark, self._mark)

    async def close(self) -> None:
        """End the recording; what is heard from now on is not in it."""
        self._mark = ""
        if self._recorder is not None:
            await self._recorder.close()

    async def _again(self) -> None:
        if self._tries < MOST_TRIES:
            self._tell()
        else:
            self._give_up()

    def _give_up(self) -> None:
        log.warning("the call is not recorded: the caller did not hear that it would be")
        self._mark = ""
        self._pipeline.output.playout.tap = None

    def _tell(self) -> float:
        clip, stream = self._clip, self._stream
        assert clip is not None  # noqa: S101 - asked by the callers
        assert stream is not None  # noqa: S101 - `attach` came first
        self._tries += 1
        messages, _used, size = burst(clip, self._stream_sid)
        stream.send(messages[0])
        at = time.monotonic()
        stream.send(*messages[1:])
        playout = self._pipeline.output.playout
        self._from = playout.sent_bytes
        playout.sent(size, at, clip.clip.audio[:size])
        self._mark = self._pipeline.output.mark("")
        return at

    def _begin(self) -> None:
        if self._recorder is not None:
            self._recorder.begin(self._settings.recordings_dir, self._call_sid, self._number)
            self._hearing.recorder = self._recorder
