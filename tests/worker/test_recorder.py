"""Recordings: what the workers of a call write, and the stereo file it becomes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile

from shared.calls import CallSid
from shared.rawrecording import NUMBERS_OF_AN_ATTEMPT, Kind, Piece, pack, part, parts, unpack
from tests.pool_process import DEADLINE_S, eventually
from worker.call import recorder
from worker.call.playout import Playout
from worker.call.recorder import Recorder
from worker.call.serving import MOST_RESUMES
from worker.jobs import recordings
from worker.jobs.finished import Contents, write
from worker.jobs.recordings import SILENCE, channels, delete, expired, finish

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

if TYPE_CHECKING:
    from numpy.typing import NDArray

SID = CallSid("CA07")
ROOT = Path(__file__).resolve().parents[2]
RATE_HZ = 8000
FRAME = 160
CALLER_HZ, AGENT_HZ = 440, 1000


def tone(hz: int, seconds: float) -> bytes:
    """Give a tone as mu-law."""
    wave = 12000 * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE_HZ)) / RATE_HZ)
    return audioop.lin2ulaw(wave.astype("<i2").tobytes(), 2)


def spoken(at: float, ulaw: bytes, late_s: float = 0.0) -> list[Piece]:
    """Give what the caller says from `at` on as frames that arrive in time, or all together when they are late."""
    frames = [ulaw[start : start + FRAME] for start in range(0, len(ulaw), FRAME)]
    return [
        Piece(Kind.CALLER, at + late_s if late_s else at + 0.02 * index, frame) for index, frame in enumerate(frames)
    ]


def strength(sound: NDArray[np.float64], hz: int, start_s: float, end_s: float) -> float:
    """Say how loud a tone is in a part of a sound, as the share of its energy."""
    part_ = sound[round(start_s * RATE_HZ) : round(end_s * RATE_HZ)]
    spectrum = np.abs(np.fft.rfft(part_)) ** 2
    near = round(hz * len(part_) / RATE_HZ)
    return float(spectrum[max(0, near - 3) : near + 4].sum() / (spectrum.sum() + 1e-9)) if part_.any() else 0.0


def loud(side: bytes, start_s: float, end_s: float) -> bool:
    """Say whether a part of a side is anything but silence."""
    return bool(side[round(start_s * RATE_HZ) : round(end_s * RATE_HZ)].strip(SILENCE))


def test_each_side_is_in_its_channel_at_its_time(tmp_path: Path) -> None:
    """The caller speaks from 1 to 2 s, the agent from 3 to 5 s, of which the last second is taken back."""
    pieces = [
        Piece(Kind.CALLER, 100.0, SILENCE * FRAME),
        *spoken(101.0, tone(CALLER_HZ, 1.0)),
        Piece(Kind.AGENT, 103.0, tone(AGENT_HZ, 2.0)),
        Piece(Kind.CLEARED, 104.0),
        *spoken(105.0, tone(CALLER_HZ, 0.5)),
    ]
    part(tmp_path, SID, 0).write_bytes(b"".join(map(pack, pieces)))
    assert finish(tmp_path, SID, 106.0, 1) == "CA07.ogg"
    sound, rate = soundfile.read(tmp_path / "CA07.ogg")
    assert (rate, sound.shape) == (RATE_HZ, (round(5.5 * RATE_HZ), 2))
    caller, agent = sound[:, 0], sound[:, 1]
    assert strength(caller, CALLER_HZ, 1.1, 1.9) > 0.9
    assert strength(caller, CALLER_HZ, 5.1, 5.4) > 0.9
    assert strength(agent, AGENT_HZ, 3.1, 3.9) > 0.9
    quiet = [np.abs(side[round(a * 8000) : round(b * 8000)]).max() for side, a, b in
             ((caller, 0.1, 0.9), (caller, 2.2, 4.9), (agent, 0.1, 2.9), (agent, 4.2, 5.4))]  # fmt: skip
    assert max(quiet) < 0.02
    assert not list(parts(tmp_path, SID)), "what it was made of is gone"
    assert (tmp_path / "CA07.ogg").stat().st_mode & 0o077 == 0, "nobody else hears it"


def test_frames_that_came_late_and_together_are_where_they_were_spoken() -> None:
    """A worker that was stopped for a second reads a second of frames at once."""
    pieces = [*spoken(10.0, b"\x11" * 8000), *spoken(11.0, b"\x22" * 8000, late_s=1.0), *spoken(12.0, b"\x33" * 8000)]
    caller, agent = channels([pieces], 20.0)
    assert caller == b"\x11" * 8000 + b"\x22" * 8000 + b"\x33" * 8000
    assert agent == SILENCE * 24_000


def test_a_pause_of_the_carrier_is_a_pause_in_the_recording() -> None:
    caller, _agent = channels([[*spoken(10.0, b"\x11" * 800), *spoken(12.0, b"\x22" * 800)]], 20.0)
    assert caller == b"\x11" * 800 + SILENCE * (16_000 - 800) + b"\x22" * 800


def test_what_a_worker_could_not_finish_costs_only_that_piece() -> None:
    """And its successor goes on in a file of its own."""
    whole = b"".join(map(pack, spoken(10.0, b"\x11" * 800)))
    first = list(unpack(whole + pack(Piece(Kind.CALLER, 10.1, b"\x22" * 160))[:-1]))
    assert len(first) == 5
    caller, _agent = channels([first, spoken(10.5, b"\x33" * 800)], 20.0)
    assert caller == b"\x11" * 800 + SILENCE * 3200 + b"\x33" * 800
    assert list(unpack(b"nonsense of somebody else")) == []


def test_what_would_be_played_after_the_end_is_not_in_it() -> None:
    _caller, agent = channels([[*spoken(10.0, b"\x11" * 160), Piece(Kind.AGENT, 10.0, b"\x22" * 80_000)]], 12.0)
    assert len(agent) == 16_000


def test_a_call_of_which_nothing_was_recorded_has_no_recording(tmp_path: Path) -> None:
    assert finish(tmp_path, SID, 100.0, 1) == ""
    assert finish(tmp_path / "absent", SID, 100.0, 1) == ""
    part(tmp_path, SID, 0).write_bytes(b"")
    assert finish(tmp_path, SID, 100.0, 1) == ""
    assert list(tmp_path.iterdir()) == []


def test_finishing_twice_gives_the_same_file(tmp_path: Path) -> None:
    part(tmp_path, SID, 0).write_bytes(b"".join(map(pack, spoken(10.0, tone(CALLER_HZ, 0.2)))))
    assert finish(tmp_path, SID, 11.0, 1) == finish(tmp_path, SID, 11.0, 1) == "CA07.ogg"


def record_part(folder: Path, number: int, at: float, hz: int, seconds: float) -> Path:
    """Write what a worker recorded: a tone of the caller's."""
    path = part(folder, SID, number)
    path.write_bytes(b"".join(map(pack, spoken(at, tone(hz, seconds)))))
    return path


def test_what_is_recorded_after_the_caller_came_back_is_added_to_what_is_finished(tmp_path: Path) -> None:
    """Each attempt of a call has a record, and each record has the recording finished."""
    record_part(tmp_path, 0, 100.0, CALLER_HZ, 5.0)
    finish(tmp_path, SID, 105.0, 1)
    record_part(tmp_path, NUMBERS_OF_AN_ATTEMPT, 107.0, AGENT_HZ, 1.0)
    assert finish(tmp_path, SID, 108.0, 2) == "CA07.ogg"
    sound, _rate = soundfile.read(tmp_path / "CA07.ogg")
    assert len(sound) == 8 * RATE_HZ
    assert strength(sound[:, 0], CALLER_HZ, 0.1, 4.9) > 0.9
    assert strength(sound[:, 0], AGENT_HZ, 7.1, 7.9) > 0.9
    assert np.abs(sound[round(5.2 * RATE_HZ) : round(6.8 * RATE_HZ)]).max() < 0.02
    finish(tmp_path, SID, 105.0, 1)  # the first record is late
    assert len(soundfile.read(tmp_path / "CA07.ogg")[0]) == 8 * RATE_HZ
    assert [path.name for path in tmp_path.iterdir()] == ["CA07.ogg"]


def test_a_record_leaves_alone_what_a_later_attempt_is_still_writing(tmp_path: Path) -> None:
    record_part(tmp_path, 0, 100.0, CALLER_HZ, 1.0)
    writing = record_part(tmp_path, NUMBERS_OF_AN_ATTEMPT, 103.0, AGENT_HZ, 0.2)
    finish(tmp_path, SID, 101.0, 1)
    assert len(soundfile.read(tmp_path / "CA07.ogg")[0]) == RATE_HZ
    with writing.open("ab") as more:
        more.write(b"".join(map(pack, spoken(103.2, tone(AGENT_HZ, 0.8)))))
    finish(tmp_path, SID, 104.0, 2)
    assert len(soundfile.read(tmp_path / "CA07.ogg")[0]) == 4 * RATE_HZ


def test_the_numbers_of_workers_tell_their_attempt() -> None:
    assert NUMBERS_OF_AN_ATTEMPT == MOST_RESUMES


def test_parts_that_a_crash_left_beside_what_contains_them_are_only_deleted(tmp_path: Path) -> None:
    """It came when the file was in its place, and one of two parts was deleted."""
    record_part(tmp_path, 0, 100.0, CALLER_HZ, 4.0)
    record_part(tmp_path, 1, 104.0, CALLER_HZ, 1.0)
    kept = part(tmp_path, SID, 1).read_bytes()
    finish(tmp_path, SID, 105.0, 1)
    before = (tmp_path / "CA07.ogg").read_bytes()
    part(tmp_path, SID, 1).write_bytes(kept)
    (tmp_path / "CA07.half.new").write_bytes(b"of somebody who was killed")
    assert finish(tmp_path, SID, 105.0, 1) == "CA07.ogg"
    assert (tmp_path / "CA07.ogg").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["CA07.ogg"]


@pytest.mark.parametrize("present", [b"", b"no recording"])
def test_a_finished_recording_that_cannot_be_read_is_not_replaced(tmp_path: Path, present: bytes) -> None:
    (tmp_path / "CA07.ogg").write_bytes(present)
    left = record_part(tmp_path, 0, 100.0, CALLER_HZ, 1.0)
    with pytest.raises((ValueError, RuntimeError)):
        finish(tmp_path, SID, 101.0, 1)
    assert (tmp_path / "CA07.ogg").read_bytes() == present
    assert left.exists()


def test_a_recording_that_cannot_be_written_leaves_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *_what: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    left = record_part(tmp_path, 0, 100.0, CALLER_HZ, 1.0)
    monkeypatch.setattr(recordings, "write", full)
    with pytest.raises(OSError, match="No space"):
        finish(tmp_path, SID, 101.0, 1)
    assert list(tmp_path.iterdir()) == [left]


def test_two_who_finish_a_recording_at_once_and_one_who_deletes_it_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The jobs that store and post a call may run at the same time; it may be forgotten just then."""
    written, begun, goes_on = [], threading.Event(), threading.Event()

    def slowly(path: Path, held: Contents, caller: bytes, agent: bytes) -> None:
        written.append(path.name)
        begun.set()
        assert goes_on.wait(DEADLINE_S)
        write(path, held, caller, agent)

    monkeypatch.setattr(recordings, "write", slowly)
    record_part(tmp_path, 0, 100.0, CALLER_HZ, 1.0)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(finish, tmp_path, SID, 101.0, 1)
        assert begun.wait(DEADLINE_S)
        second, third = pool.submit(finish, tmp_path, SID, 101.0, 1), pool.submit(delete, tmp_path, SID)
        for waiting in (second, third):
            with pytest.raises(TimeoutError):
                waiting.result(0.1)
        goes_on.set()
        assert first.result(DEADLINE_S) == "CA07.ogg"
        assert second.result(DEADLINE_S) in {"CA07.ogg", ""}, "whether it was deleted before"
        assert third.result(DEADLINE_S) == 1
    assert len(written) == 1
    assert list(tmp_path.iterdir()) == []


def test_processes_that_finish_a_recording_at_once_make_one_whole_file(tmp_path: Path) -> None:
    record_part(tmp_path, 0, 100.0, CALLER_HZ, 3.0)
    code = "import sys; from pathlib import Path; from worker.jobs.recordings import finish; sys.stdin.read(1);"
    code += "print(finish(Path(sys.argv[1]), 'CA07', 103.0, 1))"
    command = [sys.executable, "-c", code, str(tmp_path)]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)
    ]
    for each in running:
        assert each.stdin is not None
        each.stdin.write("x")
        each.stdin.flush()
    outputs = [each.communicate(timeout=DEADLINE_S)[0].splitlines() for each in running]
    assert [lines[-1] for lines in outputs] == ["CA07.ogg"] * 2
    assert len(soundfile.read(tmp_path / "CA07.ogg")[0]) == 3 * RATE_HZ
    assert [path.name for path in tmp_path.iterdir()] == ["CA07.ogg"]


@pytest.mark.parametrize("name", ["", "../CA07", "CA/07", "CA07.ogg", "*"])
def test_a_name_that_is_none_of_a_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="no name for a file"):
        finish(tmp_path, CallSid(name), 11.0, 1)


def test_recordings_are_deleted_when_their_time_is_over(tmp_path: Path) -> None:
    now = 1_000_000_000.0
    for name, days in (
        ("CA1.ogg", 31),
        ("CA2.ogg", 29),
        ("CA3.0.part", 31),
        ("CA4.x.new", 31),
        ("CA5.lock", 31),
        ("notes.txt", 99),
    ):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (now - days * 86_400,) * 2)
    assert list(expired(tmp_path, 30, now)) == ["CA1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["CA2.ogg", "notes.txt"]
    assert list(expired(tmp_path / "absent", 30, now)) == []
    assert (delete(tmp_path, CallSid("CA2")), delete(tmp_path, CallSid("CA2"))) == (1, 0)


async def test_a_recorder_writes_while_the_call_goes_on_and_survives_its_process(tmp_path: Path) -> None:
    """Nothing has to be closed: what was written is there for whoever comes after."""
    made = Recorder()
    made.begin(tmp_path, SID, 3)
    made.caller(b"\x11" * FRAME)
    made.agent(time.monotonic(), b"\x22" * FRAME)
    path = part(tmp_path, SID, 3)
    await eventually(lambda: len(list(unpack(path.read_bytes()))) == 2)
    assert path.stat().st_mode & 0o077 == 0, "nobody else reads it"
    made.cleared(time.monotonic())
    await made.close()
    await made.close()
    made.caller(b"\x33" * FRAME)
    assert [piece.kind for piece in unpack(path.read_bytes())] == [Kind.CALLER, Kind.AGENT, Kind.CLEARED]
    assert abs(next(unpack(path.read_bytes())).at - time.time()) < 60


async def test_of_what_was_sent_before_the_consent_only_what_is_played_after_it_is_recorded(tmp_path: Path) -> None:
    """The greeting is on its way to the carrier when the words in front of it have just been heard."""
    made, playout, now = Recorder(), Playout(), time.monotonic()
    playout.tap = made
    for at, ulaw in ((now - 2.0, b"\x11" * 8000), (now - 1.0, b"\x22" * 16_000), (now + 1.0, b"\x33" * 800)):
        made.agent(at, ulaw)
    made.caller(b"\x44" * 160)
    made.begin(tmp_path, SID, 0)
    await made.close()
    pieces = list(unpack(part(tmp_path, SID, 0).read_bytes()))
    assert [piece.ulaw[:1] for piece in pieces] == [b"\x22", b"\x33"]
    assert len(pieces[0].ulaw) == pytest.approx(8000, abs=400)


async def test_what_was_taken_back_before_the_consent_is_never_recorded(tmp_path: Path) -> None:
    made = Recorder()
    made.agent(time.monotonic(), b"\x11" * 8000)
    made.cleared(time.monotonic())
    made.begin(tmp_path, SID, 0)
    await made.close()
    assert part(tmp_path, SID, 0).read_bytes() == b""


async def test_a_folder_that_cannot_be_written_costs_the_recording_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    made = Recorder()
    made.begin(tmp_path / "file", SID, 0)
    assert not made.recording
    made.caller(b"\x11" * FRAME)
    made.agent(time.monotonic(), b"\x11" * FRAME)
    await made.close()


async def test_a_disk_that_is_full_ends_the_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_fd: int, _data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recorder, "_write_all", full)
    made = Recorder()
    made.begin(tmp_path, SID, 0)
    made.caller(b"\x11" * FRAME)
    await eventually(lambda: not made.recording)
    await made.close()


async def test_a_disk_that_hangs_does_not_keep_a_call_from_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()
    monkeypatch.setattr(recorder, "_write_all", lambda _fd, _data: goes_on.wait(DEADLINE_S))
    monkeypatch.setattr(recorder, "CLOSE_WAIT_S", 0.05)
    made = Recorder()
    made.begin(tmp_path, SID, 0)
    made.caller(b"\x11" * FRAME)
    await made.close()
    assert not goes_on.is_set()
    goes_on.set()
    assert made._writing is not None
    await made._writing


async def test_a_disk_that_hangs_costs_no_memory_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call goes on, and the recording ends."""
    monkeypatch.setattr(recorder, "MOST_WAITING_BYTES", 1000)
    made = Recorder()
    made.begin(tmp_path, SID, 0)
    for _ in range(10):
        made.caller(b"\x11" * FRAME)
    assert not made.recording
    await asyncio.sleep(0)
    await made.close()
