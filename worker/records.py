"""`python -m worker.records`: what an operator does with the records of calls.

    python -m worker.records forget +5511987654321    delete everything known about a caller
    python -m worker.records dead                     list the jobs that were given up
    python -m worker.records dead --retry             have them tried again

With the prefetchers' settings, on a machine that sees the recordings' folder. Exit code 1: something does not answer, 2: wrong
input.
"""

import argparse
import contextlib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final, TextIO

import httpx
from redis import Redis
from redis.exceptions import RedisError
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.serializers import JSONSerializer

from shared import letters, phones, redis_door, settings
from shared.errors import SettingsError
from shared.prefetch import AFTERCALL_QUEUE
from shared.processes import Process
from shared.settings import Settings
from worker.forgetting import Database, Forgetting
from worker.jobs.lookup import CustomerLookup, LookupFailed
from worker.record_jobs import RETRY_S, dead_on

QUEUES: Final = (AFTERCALL_QUEUE, letters.QUEUE, letters.STATUS_QUEUE)

STEP_S: Final = 10.0
"""How long each step of asking the database may take: somebody sits and waits."""


class _Failed(Exception):
    """The command did not do what it should; the message says why, and what was done."""


def forget(conf: Settings, text: str) -> None:
    """Delete everything known about the caller with this number, and say what that was."""
    reading = phones.normalise(text)
    if reading.e164 is None:
        _say(f"{text}: {reading.why}", to=sys.stderr)
        sys.exit(2)
    with redis_door.for_rq(conf.redis_url, retries=1) as redis, _database(conf) as database:
        work = Forgetting(phones.variants(reading.e164), redis, conf.recordings_dir)
        _look(work, database)
        try:
            gone = work.elsewhere()
        except (RedisError, OSError) as error:
            raise _Failed(f"not everything is deleted, and in the database nothing: run it again ({error})") from None
        if database is not None:
            gone = _forget_in_database(work, database) + gone
    found = [f"  {count} {what}" for what, count in gone.items() if count]
    _say("\n".join([f"deleted of {reading.e164}:", *found]) if found else f"nothing is known about {reading.e164}")


@contextlib.contextmanager
def _database(conf: Settings) -> Iterator[Database | None]:
    if not conf.supabase_url:
        _say("there is no SUPABASE_URL: only Redis and the recordings are looked through", to=sys.stderr)
        yield None
        return
    key = conf.supabase_secret_key.get_secret_value()
    client = CustomerLookup(conf.supabase_url, key, STEP_S, httpx.create_ssl_context())
    try:
        yield client.call
    finally:
        client.close()


def _look(work: Forgetting, database: Database | None) -> None:
    try:
        work.look_in_redis()
        if database is not None:
            work.look_in_database(database)
    except (RedisError, OSError) as error:
        raise _Failed(f"nothing was deleted: redis does not answer ({error})") from None
    except LookupFailed as error:
        raise _Failed(f"nothing was deleted: the database does not say which calls there were ({error})") from None


def _forget_in_database(work: Forgetting, database: Database) -> Counter[str]:
    try:
        return work.in_database(database)
    except LookupFailed as error:
        done = "recordings and what waited in redis are deleted"
        if error.refused:
            raise _Failed(f"{done}, but nothing in the database, which refuses: run it again ({error})") from None
        raise _Failed(f"{done}; it is not known whether the database has: run it again ({error})") from None


def dead(conf: Settings, *, retry: bool) -> None:
    """List the jobs that were given up, oldest first, and have them tried again when asked to."""
    with redis_door.for_rq(conf.redis_url, retries=1) as redis:
        try:
            lines = [line for queue in QUEUES for line in _dead_on(redis, queue, retry=retry)]
        except (RedisError, OSError) as error:
            raise _Failed(f"redis does not answer ({error})") from None
    _say("\n".join(lines) or "no job was given up")


def _dead_on(redis: Redis, queue: str, *, retry: bool) -> list[str]:
    registry, lines = dead_on(redis, queue), []
    for name in registry.get_job_ids():
        try:
            job = Job.fetch(name, connection=redis, serializer=JSONSerializer)
        except NoSuchJobError:
            continue
        result = job.latest_result()
        why = ((result.exc_string if result is not None else "") or "it was not said why").strip().splitlines()[-1]
        lines.append(
            f"{queue} {name} {job.ended_at:%Y-%m-%d %H:%M:%S} UTC: {why}" if job.ended_at else f"{name}: {why}"
        )
        if retry:
            job.retries_left = len(RETRY_S)
            job.save()
            registry.requeue(name)
            lines[-1] += " (tried again)"
    return lines


def _say(text: str, to: TextIO | None = None) -> None:
    (to or sys.stdout).write(f"{text}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; give the exit code."""
    parser = argparse.ArgumentParser(prog="python -m worker.records", description="What is kept of calls.")
    commands = parser.add_subparsers(dest="command", required=True)
    forgets = commands.add_parser("forget", help="delete everything known about a caller")
    forgets.add_argument("number", help="with country code, as +5511987654321")
    lists = commands.add_parser("dead", help="list the jobs that were given up")
    lists.add_argument("--retry", action="store_true", help="have them tried again")
    options = parser.parse_args(arguments)
    try:
        conf = settings.load(Process.PREFETCHER)
    except SettingsError as error:
        settings.refuse(error)
    try:
        if options.command == "forget":
            forget(conf, options.number)
        else:
            dead(conf, retry=options.retry)
    except _Failed as error:
        _say(str(error), to=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
