"""What is kept of calls: stored in a real PostgreSQL, posted to a webhook, recorded; and forgotten.

One installation for all tests of the file; the model of the stand-in answers by rules, its words are heard as tones.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import warnings
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile
from standardwebhooks import Webhook

from shared import redis_door
from shared.clips import load_manifest
from tests.stack import ROOT, Plan
from tests.standins import process as standins
from tests.standins.modem import decode
from tests.system.talk import ask, greeted, recording, worker_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.stack import Stack
    from tests.standins.carrier import Carrier
    from tests.standins.modem import HeardWord
    from tests.standins.process import Standin

pytestmark = pytest.mark.system

CALLER, OTHER_FORM = "+5511987654321", "+551187654321"
SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
RATE_HZ = 8000
NOISE = 60  # of 32767: what the codec leaves of silence
CONSENT_S = len(load_manifest(ROOT / "audio_assets")["consent"].audio) / RATE_HZ


@pytest.fixture(scope="module")
def hook() -> Iterator[Standin]:
    with standins.started("webhook") as standin:
        yield standin


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recordings")


@pytest.fixture(scope="module")
def plan(hook: Standin, folder: Path) -> Plan:
    return Plan(
        pool_ready=2,
        database="postgres",
        env={
            "RECORDS_WEBHOOK_URL": f"{hook.url}/calls",
            "RECORDS_WEBHOOK_SECRET": SECRET,
            "RECORDING_ENABLED": "true",
            "RECORDINGS_DIR": str(folder),
        },
    )


@pytest.fixture
async def carrier(stack: Stack, hook: Standin) -> AsyncIterator[Carrier]:
    await stack.ready()
    await hook.control(reset=True, status=204)
    async with stack.carrier() as made:
        yield made


async def stored(stack: Stack, call_sid: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Wait until a call is in the database, and give it with its turns."""
    found = await stack.until(
        lambda: stack.database.rows("select * from calls where call_sid = %s", call_sid), "the call is stored"
    )
    return found[0], stack.database.rows("select * from call_turns where call_sid = %s order by position", call_sid)


def posts(hook: Standin, call_sid: str) -> list[dict[str, Any]]:
    """Give what the webhook was posted about a call, each verified as its receiver would."""
    log = [entry for entry in hook.state_now()["log"] if entry["kind"] == "posted"]
    bodies = [Webhook(SECRET).verify(entry["body"], entry["headers"]) for entry in log]
    return [body for body in bodies if body["data"]["call"]["call_sid"] == call_sid]


async def posted(stack: Stack, hook: Standin, call_sid: str) -> dict[str, Any]:
    """Wait until the webhook was posted a call."""
    bodies: list[dict[str, Any]] = await stack.until(lambda: posts(hook, call_sid), "the webhook is posted")
    return bodies[0]


async def short_call(carrier: Carrier, caller: str = CALLER) -> str:
    """Make a call in which the caller says yes and hangs up; give its SID."""
    call = await carrier.dial(from_=caller)
    await greeted(call)
    await ask(call, "yes", "said:")
    await call.hangup()
    await call.ended()
    return call.call_sid


async def orphaned_call(stack: Stack, carrier: Carrier, caller: str) -> str:
    """Make a call whose pool is killed, so that its worker has to see to its record; give its SID."""
    call = await carrier.dial(from_=caller)
    await greeted(call)
    await asyncio.to_thread(stack.pool.stop, signal.SIGKILL)
    await ask(call, "yes", "said:", "Yes.")
    await call.hangup()
    await call.ended()
    stack.pool.start()
    await stack.ready()
    return call.call_sid


async def test_a_call_is_stored_posted_and_recorded(
    stack: Stack, carrier: Carrier, hook: Standin, folder: Path
) -> None:
    """A greeting and an answer that the caller speaks over, a tool, a worker that is killed, a goodbye."""
    call = await carrier.dial(from_=CALLER)
    await call.streaming()
    await call.hears(lambda heard: heard.duration_s > CONSENT_S + 0.8)
    await call.say(recording("interrupt"))
    await call.until(lambda: bool(call.streams[0].clears))
    await ask(call, "what-time", "It", "UTC.")
    await asyncio.to_thread(os.kill, worker_of(stack, call.call_sid), signal.SIGKILL)
    before = len(call.streams[0].clears)
    await call.say(recording("book"))
    await call.hears(lambda heard: heard.text().endswith(("would", "like", "to", "book")))
    await call.say(recording("interrupt"))
    await call.until(lambda: len(call.streams[0].clears) > before)
    await call.say(recording("goodbye"))
    await call.ended()

    row, turns = await stored(stack, call.call_sid)
    check_call(row)
    check_turns(turns)
    body = await posted(stack, hook, call.call_sid)
    assert body["type"] == "call.ended"
    assert body["data"]["call"]["counts"] == row["counts"]
    assert [turn["text"] for turn in body["data"]["turns"]] == [turn["text"] for turn in turns]
    assert row["recording"] == f"{call.call_sid}.ogg" == body["data"]["call"]["recording"]
    assert files(folder) == [row["recording"]]
    check_sound(folder, row)
    check_words(folder, row, call.heard.words())
    assert stack.metric("offhook_records_waiting") == stack.metric("offhook_records_lost_total") == 0


def check_call(row: dict[str, Any]) -> None:
    """Look at what is stored of the call itself."""
    assert (row["caller"], row["end_reason"], row["agent"]) == (CALLER, "agent_hangup", "default")
    assert (row["attempts"], row["resumes"]) == (1, 1)
    seconds = (row["ended_at"] - row["started_at"]).total_seconds()
    assert 5 < seconds < 120
    once = {"greeting_start_s", "start_to_first_media_s", "first_llm_response_s", "agent_ready_s"}
    assert once <= row["timings"].keys()
    assert {"stt_s", "llm_s", "tts_s", "total_s"} <= row["timings"]["turns"].keys()
    counts = row["counts"]
    assert counts["turns"] >= 3
    assert counts["tool_calls"] == 2
    assert min(counts[name] for name in ("completions", "prompt_tokens", "completion_tokens", "tts_characters")) > 0
    assert counts["stt_seconds"] == pytest.approx(seconds, abs=8)


def check_turns(turns: list[dict[str, Any]]) -> None:
    """Look at what is stored of who said what."""
    said = " ".join(turn["text"] for turn in turns if turn["speaker"] == "caller")
    assert said.startswith(
        "Excuse me, wait a moment. What time is it please? I would like to book an appointment for Friday."
    )
    agent = [turn for turn in turns if turn["speaker"] == "agent"]
    consent, greeting = agent[:2]
    assert consent["text"] == consent["heard"] == "This call may be recorded."
    assert greeting["cut_off"]
    assert greeting["text"].startswith(greeting["heard"].removesuffix("…"))
    assert 0 < len(greeting["heard"]) < len(greeting["text"])
    [answer] = [turn for turn in agent if "like to book" in turn["text"]]
    assert answer["cut_off"]
    assert answer["heard"].startswith("You said:")
    assert len(answer["heard"]) < len(answer["text"])
    assert (agent[-1]["text"], agent[-1]["heard"], agent[-1]["cut_off"]) == ("Goodbye.", "Goodbye.", False)
    clock, end = [turn["tool"] for turn in turns if turn["speaker"] == "tool"]
    assert (clock["name"], end["name"]) == ("get_current_time", "end_call")
    assert clock["duration_s"] < 5
    assert "UTC" in json.dumps(clock["result"])


def check_sound(folder: Path, row: dict[str, Any]) -> None:
    """Look at the recording of the call, which begins where the consent was heard."""
    sound, rate = soundfile.read(folder / row["recording"])
    assert (rate, sound.shape[1]) == (RATE_HZ, 2)
    seconds = (row["ended_at"] - row["started_at"]).total_seconds()
    assert len(sound) / RATE_HZ == pytest.approx(seconds - CONSENT_S, abs=1.5)
    caller, agent = (np.abs(sound[:, side]) for side in (0, 1))
    assert min(caller.max(), agent.max()) > 0.1
    assert agent[: RATE_HZ // 2].mean() > 0.01, "the greeting follows the consent"
    assert caller[: RATE_HZ // 4].mean() < 0.01, "the caller has not spoken yet"


def check_words(folder: Path, row: dict[str, Any], heard: list[HeardWord]) -> None:
    """Look whether the agent's side holds the words the caller heard, when they heard them, and none that was taken back."""
    sound, _rate = soundfile.read(folder / row["recording"], dtype="int16")
    agent = sound[:, 1].copy()
    agent[np.abs(agent) < NOISE] = 0
    words = decode(audioop.lin2ulaw(agent.tobytes(), 2))
    same = SequenceMatcher(None, [word.text for word in words], [word.text for word in heard], autojunk=False)
    pairs = [
        (words[block.a + index], heard[block.b + index])
        for block in same.get_matching_blocks()
        for index in range(block.size)
    ]
    assert len(pairs) >= max(len(words), len(heard)) - 2, "at each barge-in one may be cut in one of them alone"
    shifts = [theirs.start_s - ours.start_s for ours, theirs in pairs]
    assert max(shifts) - min(shifts) < 0.5


def files(folder: Path) -> list[str]:
    """Name what is in the folder of the recordings."""
    return sorted(path.name for path in folder.iterdir())


async def test_a_call_of_a_database_that_is_away_is_stored_once_when_it_is_back(
    stack: Stack, carrier: Carrier, hook: Standin
) -> None:
    await hook.control(status=503)
    port = stack.supabase.port
    await asyncio.to_thread(stack.supabase.kill)
    call_sid = await short_call(carrier)
    await stack.until(lambda: len(posts(hook, call_sid)) >= 2, "the webhook is tried again")
    assert stack.database.rows("select * from calls where call_sid = %s", call_sid) == []
    await asyncio.to_thread(stack.restart_supabase, port)
    await hook.control(status=204)
    _row, turns = await stored(stack, call_sid)
    assert "Yes." in [turn["text"] for turn in turns]

    def done() -> list[str]:
        told = [line["event"] for line in stack.prefetcher.lines() if line.get("call_sid") == call_sid]
        return sorted(event for event in told if event.startswith("call record"))

    await stack.until(lambda: "call record posted" in done(), "the webhook has taken it")
    ids = {entry["headers"]["webhook-id"] for entry in hook.state_now()["log"] if entry["kind"] == "posted"}
    assert ids == {f"call_{call_sid}_1"}, "a receiver can tell that it is one and the same"
    assert done() == ["call record posted", "call record stored"]


async def test_forgetting_a_caller_leaves_nothing(stack: Stack, carrier: Carrier, hook: Standin, folder: Path) -> None:
    """In either form of the number; also what waits for a webhook, and nothing of anybody else."""
    other_sid = await orphaned_call(stack, carrier, "+15550009999")
    row, turns = await stored(stack, other_sid)
    assert row["end_reason"] == "caller_hangup"
    assert "You said: Yes." in [turn["text"] for turn in turns]
    await posted(stack, hook, other_sid)
    await hook.control(status=503)
    call_sid = await short_call(carrier)
    await stored(stack, call_sid)
    await stack.until(lambda: posts(hook, call_sid), "the webhook was tried")

    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "worker.records", "forget", OTHER_FORM],
        cwd=ROOT, env=stack.prefetcher.env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"deleted of {CALLER}:")
    gone = {
        what: int(count) for count, _, what in (line.strip().partition(" ") for line in done.stdout.splitlines()[1:])
    }
    assert (gone["calls"], gone["recordings"]) == (3, 3)
    assert gone["turns"] > 8
    assert gone["jobs"] >= 1, "the one that waits for the webhook, and lookups"
    assert [row["call_sid"] for row in stack.database.rows("select call_sid from calls")] == [other_sid]
    assert {row["call_sid"] for row in stack.database.rows("select call_sid from call_turns")} == {other_sid}
    assert files(folder) == [f"{other_sid}.ogg"]
    with redis_door.for_rq(stack.redis.url) as redis:
        left = [key.decode() for key in redis.scan_iter() if call_sid in key.decode()]
    assert [key for key in left if ":end:" not in key] == [], "only why the stream ended, for 15 minutes"


def test_no_log_and_no_job_says_who_called(stack: Stack) -> None:
    for part in stack.parts.values():
        assert CALLER not in part.log, part.name
        assert OTHER_FORM not in part.log, part.name
