"""Forgets a caller: in the database, in what waits in Redis, and in the recordings.

Which calls there were is asked first, of Redis, which knows those that the database has not got yet, and of the database. Then
what only their names lead to is deleted: what waits in Redis, and the recordings. The database forgets last, in one transaction.
Whatever fails, also when nobody knows what has become of it, asking again goes on where it stopped.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from redis import Redis
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.serializers import JSONSerializer

from shared import keys
from shared.callrecord import decode
from shared.calls import CallSid
from shared.letters import SEND_JOB, STATUS_JOB
from shared.prefetch import JOB
from worker.jobs import recordings
from worker.record_jobs import POST, STORE, UNLINK

COUNTED: Final = ("customers", "facts", "appointments", "messages", "calls", "turns")
"""What `forget_caller` says it has deleted."""

Database = Callable[[str, Mapping[str, Any]], Any]
"""Calls a function of the migrations by name, or raises LookupFailed."""


class Forgetting:
    """Forgets whoever has one of these numbers, which are forms of one; `redis` is a client made for RQ."""

    def __init__(self, numbers: tuple[str, ...], redis: Redis, folder: Path) -> None:
        self._numbers = numbers
        self._redis = redis
        self._folder = folder
        self._sids: set[str] = set()

    def look_in_redis(self) -> None:
        """Find the calls of these numbers that Redis knows of.

        Raises:
            RedisError: nothing was deleted.
        """
        for job in self._jobs():
            sid, number = _about(job)
            if number in self._numbers and sid and job.func_name in OF_CALLERS:
                self._sids.add(sid)  # a message to them may have been asked for in somebody else's call
        for _key, text in self._left():
            record = _record(text)
            if record is not None and record[1] in self._numbers:
                self._sids.add(record[0])
        for key in self._redis.scan_iter(match=f"{keys.customer(CallSid(''))}*", count=1000):
            if any(f'"{number}"' in str(self._redis.xrange(key)) for number in self._numbers):
                self._sids.add(key.decode().rpartition(":")[2])

    def look_in_database(self, database: Database) -> None:
        """Find the calls of these numbers that the database knows of.

        Raises:
            LookupFailed: nothing was deleted.
        """
        after = ""
        while calls := database("calls_of_caller", {"p_phone": self._numbers[0], "p_after": after})["calls"]:
            self._sids.update(call["call_sid"] for call in calls)
            after = calls[-1]["call_sid"]

    def elsewhere(self) -> Counter[str]:
        """Delete what waits in Redis, and the recordings; give how many of each. Call it when both were looked through.

        Raises:
            RedisError, OSError: not everything is deleted.
        """
        gone: Counter[str] = Counter()
        for job in self._jobs():
            sid, number = _about(job)
            if sid in self._sids or number in self._numbers:
                job.delete()
                gone["jobs"] += 1
        for key, text in list(self._left()):
            record = _record(text)
            if record is not None and record[0] in self._sids:
                gone["waiting records"] += int(self._redis.lrem(key, 0, text))  # type: ignore[arg-type] # bytes
        for sid in map(CallSid, sorted(self._sids)):
            gone["journals"] += int(self._redis.delete(keys.journal(sid)))
            gone["looked up records"] += int(self._redis.delete(keys.customer(sid)))
            self._redis.delete(keys.recorded("stored", sid), keys.recorded("posted", sid))
            try:
                gone["recordings"] += recordings.delete(self._folder, sid)
            except ValueError:
                continue  # no name of a file, so there is none
        return gone

    def in_database(self, database: Database) -> Counter[str]:
        """Have the database forget; give how many of each thing it had. Call it last.

        Raises:
            LookupFailed: it did not answer, and may have forgotten, or refused, and has forgotten nothing.
        """
        gone = database("forget_caller", {"p_phone": self._numbers[0]})
        return Counter({name: int(gone.get(name) or 0) for name in COUNTED})

    def _jobs(self) -> Iterator[Job]:
        prefix = Job.redis_job_namespace_prefix
        for key in self._redis.scan_iter(match=f"{prefix}*", count=1000):
            name = key.decode().removeprefix(prefix)
            if ":" in name:
                continue  # no job: a set of those that wait for one, of an application that shares this Redis
            try:
                yield Job.fetch(name, connection=self._redis, serializer=JSONSerializer)
            except (NoSuchJobError, ValueError, TypeError):
                continue  # done meanwhile, or none of ours

    def _left(self) -> Iterator[tuple[str, bytes | str]]:
        for key in (keys.RECORDS, keys.RECORDS_TAKEN):
            for text in self._redis.lrange(key, 0, -1):
                yield key, text


OF_CALLERS: Final = frozenset({STORE, POST, JOB})
"""Jobs whose call is one of the number they name: its record, its lookup."""


def _about(job: Job) -> tuple[str, str]:
    """Say which call a job is about, and which number; empty where there is none."""
    try:
        arguments, named = list(job.args), dict(job.kwargs)
    except Exception:  # noqa: BLE001 - RQ raises whatever the bytes of a stranger's job make of it
        return "", ""
    match job.func_name:
        case str(name) if name in {STORE, POST} and arguments:
            return _record(arguments[0]) or ("", "")
        case str(name) if name == UNLINK and arguments:
            return str(arguments[0]), ""
        case str(name) if name == JOB:
            return str(named.get("call_sid", "")), str(named.get("phone", ""))
        case str(name) if name in {SEND_JOB, STATUS_JOB}:
            return str(named.get("call_sid", "")), str(named.get("to", ""))
        case _:
            return "", ""


def _record(text: str | bytes) -> tuple[str, str] | None:
    try:
        record = decode(text)
    except (msgspec.DecodeError, TypeError):
        return None
    return record.call_sid, record.caller
