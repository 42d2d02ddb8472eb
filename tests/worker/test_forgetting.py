"""Forgetting a caller of whom the database knows: what the command deletes, in which order, and what it says when it cannot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from shared import keys, redis_door
from shared.calls import CallSid
from shared.settings import Settings
from tests.postgres import PostgresDatabase
from tests.standins.process import started
from worker import records
from worker.jobs import recordings
from worker.jobs.lookup import CustomerLookup, LookupFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from redis import Redis

    from tests.standins.process import Standin

pytestmark = pytest.mark.redis

CALLER, OTHER = "+5511987654321", "+15550009999"
MANY = 450
"""So many calls with recordings that a list of them is longer than any answer the client takes."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of calls: `sids` in the beginning, of which the first is another caller's."""

    database: PostgresDatabase
    redis: Redis
    folder: Path
    sids: list[str]

    def left(self) -> list[list[str]]:
        """Give which calls there still are in the database, in Redis and in the folder."""
        stored = self.database.rows("select call_sid from calls order by call_sid")
        return [
            [row["call_sid"] for row in stored],
            sorted(key.decode().rpartition(":")[2] for key in self.redis.scan_iter()),
            sorted(path.stem for path in self.folder.iterdir()),
        ]

    def only_the_other(self) -> bool:
        """Say whether everything of the caller is gone, and nothing of the other one."""
        return self.left() == [self.sids[:1]] * 3


@pytest.fixture(scope="module")
def database(shared_database: PostgresDatabase) -> PostgresDatabase:
    return shared_database


@pytest.fixture(scope="module")
def api(database: PostgresDatabase) -> Iterator[Standin]:
    with started("supabase_api", postgres=database.dsn) as standin:
        yield standin


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with redis_door.for_rq(redis_url) as client:
        yield client


@pytest.fixture
def conf(redis_url: str, api: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    made = Settings(
        _env_file=None,
        redis_url=redis_url,
        supabase_url=api.url,
        supabase_secret_key="sb_secret",
        recordings_dir=tmp_path,
    )
    monkeypatch.setattr("worker.records.settings.load", lambda _process: made)
    return made


@pytest.fixture
def kept(database: PostgresDatabase, redis: Redis, conf: Settings) -> Kept:
    """Store calls of a caller, and one of another; each has a recording, and Redis notes that it was stored."""
    database.rows("truncate calls cascade")
    stored = database.rows(
        """insert into calls (call_sid, caller, recording)
        select sid, case n when 0 then %s else %s end, sid || '.ogg'
        from (select n, 'CA' || md5(n::text) as sid from generate_series(0, %s) n) s returning call_sid""",
        OTHER, CALLER, MANY,
    )  # fmt: skip
    for row in stored:
        (conf.recordings_dir / f"{row['call_sid']}.ogg").write_bytes(b"x")
        redis.set(keys.recorded("stored", CallSid(row["call_sid"])), 1)
    return Kept(database, redis, conf.recordings_dir, [row["call_sid"] for row in stored])


def answering(monkeypatch: pytest.MonkeyPatch, lost: LookupFailed | None, *, done: bool = False) -> list[str]:
    """Have forgetting in the database fail like this, after it was done or instead; give what is asked from then on."""
    asked: list[str] = []

    class Losing(CustomerLookup):
        def call(self, function: str, arguments: Mapping[str, Any]) -> Any:
            """Ask, and lose the answer."""
            asked.append(function)
            if function != "forget_caller" or lost is None:
                return super().call(function, arguments)
            if done:
                super().call(function, arguments)
            raise lost

    monkeypatch.setattr("worker.records.CustomerLookup", Losing)
    return asked


def test_however_many_calls_there_were_nothing_of_them_is_left(kept: Kept, capsys: pytest.CaptureFixture[str]) -> None:
    assert records.main(["forget", CALLER]) == 0
    assert {line.strip() for line in capsys.readouterr().out.splitlines()[1:]} == {
        f"{MANY} calls",
        f"{MANY} recordings",
    }
    assert kept.only_the_other()


def test_an_answer_that_is_lost_is_said_to_be_and_asking_again_completes(
    kept: Kept, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The database has forgotten; nothing that only its answer could name is left lying."""
    answering(monkeypatch, LookupFailed("ReadTimeout: "), done=True)
    assert records.main(["forget", CALLER]) == 1
    said = capsys.readouterr()
    assert "it is not known whether the database has: run it again" in said.err
    assert "nothing was deleted" not in said.err
    assert kept.only_the_other()
    answering(monkeypatch, None)
    assert records.main(["forget", CALLER]) == 0
    assert capsys.readouterr().out == f"nothing is known about {CALLER}\n"


def test_a_database_that_refuses_to_forget_is_asked_again_with_the_same_command(
    kept: Kept, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answering(monkeypatch, LookupFailed("error 57014", refused=True))
    assert records.main(["forget", CALLER]) == 1
    assert "nothing in the database, which refuses: run it again (error 57014)" in capsys.readouterr().err
    assert len(kept.left()[0]) == len(kept.sids)
    answering(monkeypatch, None)
    assert records.main(["forget", CALLER]) == 0
    assert f"{MANY} calls" in capsys.readouterr().out


def test_the_database_does_not_forget_which_recordings_there_are_before_they_are_deleted(
    kept: Kept, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_call: object) -> int:
        raise PermissionError(13, "Permission denied")

    asked = answering(monkeypatch, None)
    with monkeypatch.context() as broken:
        broken.setattr(recordings, "delete", refuse)
        assert records.main(["forget", CALLER]) == 1
    assert "in the database nothing: run it again" in capsys.readouterr().err
    assert "forget_caller" not in asked
    assert records.main(["forget", CALLER]) == 0
    assert asked[-1] == "forget_caller"
    assert kept.only_the_other()
