"""What a caller is told of a recording, and when it begins: on a real connection, with a pipeline that only remembers."""

from __future__ import annotations

import base64
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from shared.agents import Agent
from shared.calls import EndReason, StreamSid
from shared.messages import Entry, FirstMedia, Resume
from shared.rawrecording import Kind, part, unpack
from tests.pool_process import eventually
from tests.standins import pipecat_rig  # noqa: F401 - imports Pipecat without the warnings it gives itself
from tests.worker.test_serving import CALL, HELLO, After, call, hang_up_by_peer, recording
from worker.call.memory import Memory
from worker.call.playout import RATE

if TYPE_CHECKING:
    from typing import Any

    from tests.worker.test_serving import Call
    from worker.call.greeting import Recording

WORDS = "This call may be recorded."
KEPT: dict[str, Any] = {"supabase_url": "http://127.0.0.1:1", "supabase_secret_key": "sb_secret"}


def clips(language: str = "en", seconds: float = 1.0) -> dict[str, Recording]:
    return {
        "greeting": recording("greeting", 2),
        "consent": recording("consent", seconds, WORDS, language),
        "bridging": recording("bridging", 0.4, "One moment, please."),
    }


@pytest.fixture
def recorded(tmp_path: Path) -> dict[str, Any]:
    """Settings of an installation that records."""
    return {"recording_enabled": True, "recordings_dir": tmp_path, "recordings": clips(), **KEPT}


def sent(made: Call) -> int:
    """Give how many bytes of sound the carrier was sent by now."""
    media = [each for each in made.messages if each["event"] == "media"]
    return sum(len(base64.b64decode(each["media"]["payload"])) for each in media)


def consents(made: Call) -> list[str]:
    return [each.text for each in made.all(Entry) if each.kind == "consent"]


def pieces(folder: Path, number: int = 0) -> list[Kind]:
    path = part(folder, CALL.call_sid, number)
    return [piece.kind for piece in unpack(path.read_bytes())] if path.exists() else []


async def test_the_words_come_before_the_greeting_and_the_recording_when_they_were_heard(
    recorded: dict[str, Any], tmp_path: Path
) -> None:
    async with call(**recorded) as made:
        await made.start()
        told, greeted = (await made.receive("mark"), await made.receive("mark"))
        assert sent(made) == 3 * RATE
        assert [made.messages.index(each) for each in (told, greeted)] == sorted(
            map(made.messages.index, (told, greeted))
        )
        await made.media()
        await made.hear(0)
        assert pieces(tmp_path) == []
        await made.echo(told["mark"]["name"])
        await eventually(lambda: consents(made) == [WORDS])
        await made.media(b"\x11" * 160)
        await made.hear(320)
        await hang_up_by_peer(made)
        assert await made.ended() is EndReason.HANGUP_BEFORE_REPLY
        assert pieces(tmp_path) == [Kind.AGENT, Kind.CALLER], "the greeting, and what was said since"
        assert made.pipeline.output.announced[0] is True
        greeting = next(each for each in made.all(Entry) if each.kind == "greeting")
        said = next(each for each in made.all(Entry) if each.kind == "consent")
        assert said.at < greeting.at, "the greeting is played behind it"


async def test_off_it_changes_nothing(tmp_path: Path) -> None:
    async with call(recordings=clips(), recordings_dir=tmp_path) as made:
        await made.start()
        await made.receive("mark")
        assert sent(made) == 2 * RATE
        assert made.pipeline.output.playout.tap is None
        assert made.serving.hearing.recorder is None


@pytest.mark.parametrize(
    "others",
    [{}, clips("pt-BR"), clips(seconds=5.5)],
    ids=["no clip", "in another language", "too long to be sent at once"],
)
async def test_who_cannot_be_told_is_not_recorded(
    recorded: dict[str, Any], others: dict[str, Recording], tmp_path: Path
) -> None:
    recorded["recordings"] = {"greeting": recording("greeting", 2)} | {
        name: clip for name, clip in others.items() if name == "consent"
    }
    async with call(**recorded) as made:
        await made.start()
        await made.echo((await made.receive("mark"))["mark"]["name"])
        await made.media()
        await made.hear(160)
        assert sent(made) == 2 * RATE
    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240 - a folder of the test


async def test_a_caller_who_speaks_over_it_is_told_again_and_not_recorded_when_they_go_on(
    recorded: dict[str, Any], tmp_path: Path
) -> None:
    async with call(**recorded) as made:
        await made.start()
        await made.receive("mark")
        await made.receive("mark")
        for _ in range(2):
            made.pipeline.output.interrupt()
            await made.receive("mark")
        assert sent(made) == 5 * RATE
        made.pipeline.output.interrupt()
        await eventually(lambda: made.pipeline.output.playout.tap is None)
        assert consents(made) == []
    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240 - a folder of the test


async def test_who_was_told_again_is_recorded(recorded: dict[str, Any], tmp_path: Path) -> None:
    async with call(**recorded) as made:
        await made.start()
        first = (await made.receive("mark"))["mark"]["name"]
        await made.receive("mark")
        made.pipeline.output.interrupt()
        again = (await made.receive("mark"))["mark"]["name"]
        await made.echo(first)  # the carrier gives back what was cleared: that proves nothing
        await made.media()
        await made.hear(160)
        assert consents(made) == []
        await made.echo(again)
        await eventually(lambda: consents(made) == [WORDS])
        assert part(tmp_path, CALL.call_sid, 0).exists()


async def test_an_agent_that_halts_in_the_words_says_them_again_from_their_beginning_but_not_for_ever(
    recorded: dict[str, Any],
) -> None:
    async with call(**recorded) as made:
        await made.start()
        first = (await made.receive("mark"))["mark"]["name"]
        await made.receive("mark")
        output = made.pipeline.output
        assert [output.on_proceed(RATE // 2) for _ in range(2)] == [0, 0]
        output.on_renamed({first: "0:9"}, 0)
        await made.echo(first)
        await made.media()
        await made.hear(160)
        assert consents(made) == []
        assert output.playout.tap is not None
        assert output.on_proceed(RATE // 2) == RATE // 2, "that was often enough"
        assert output.playout.tap is None


async def test_words_that_were_renamed_while_the_agent_halted_are_known_when_they_are_heard(
    recorded: dict[str, Any],
) -> None:
    async with call(**recorded) as made:
        await made.start()
        told = (await made.receive("mark"))["mark"]["name"]
        await made.receive("mark")
        playout = made.pipeline.output.playout
        playout.halt(time.monotonic())
        start = made.pipeline.output.on_proceed(playout.heard_bytes(time.monotonic()))
        again = playout.proceed(start, time.monotonic())
        made.pipeline.output.on_renamed(again.names, start)
        assert b"".join(item for item in again.items if isinstance(item, bytes)) == b"\x55" * (3 * RATE - start)
        await made.echo(again.names[told])
        await eventually(lambda: consents(made) == [WORDS])


async def test_of_a_greeting_behind_the_words_only_what_was_played_counts_as_heard(recorded: dict[str, Any]) -> None:
    """The caller speaks at once: nothing of the greeting had been played."""
    async with call(**recorded) as made:
        await made.start()
        await made.receive("mark")
        await made.receive("mark")
        await eventually(lambda: made.pipeline.context == [HELLO])
        made.pipeline.output.interrupt()
        assert made.pipeline.context == [""]


async def test_an_agent_whose_voice_greets_tells_first_and_that_is_no_reply(recorded: dict[str, Any]) -> None:
    async with call(agent=Agent(greeting="Welcome to the clinic."), **recorded) as made:
        await made.start()
        await made.receive("mark")
        await made.pipeline.until(lambda: made.pipeline.spoken == ["Welcome to the clinic."])
        assert sent(made) == RATE
        made.serving.replied(made.accepted_at)
        assert len(made.all(FirstMedia)) == 1
        await hang_up_by_peer(made)
        assert await made.ended() is EndReason.HANGUP_BEFORE_REPLY


async def test_a_successor_goes_on_recording_in_its_own_file_and_tells_nobody_again(
    recorded: dict[str, Any], tmp_path: Path
) -> None:
    after = After(Resume(number=1, stream_sid=StreamSid("MZ01")), Memory(consented=True))
    async with call(after=after, **recorded) as made:
        await made.media(b"\x11" * 160)
        await made.hear(160)
        await hang_up_by_peer(made)
        await made.ended()
        assert sent(made) == 0
    assert pieces(tmp_path, 1) == [Kind.CALLER]


async def test_a_successor_of_one_that_was_not_heard_tells_the_caller(recorded: dict[str, Any]) -> None:
    heard = Memory(messages=({"role": "user", "content": "Hello."},))
    after = After(Resume(number=1, stream_sid=StreamSid("MZ01")), heard)
    async with call(after=after, **recorded) as made:
        name = (await made.receive("mark"))["mark"]["name"]
        assert sent(made) == RATE
        await made.echo(name)
        await eventually(lambda: consents(made) == [WORDS])
