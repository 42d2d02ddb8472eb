"""The prefetch: the names its two ends agree on, the result between them, and the pool's side of it.

Router → RQ queue → prefetcher → a stream per call → `ResultReader` in the pool → worker. Where phases are switched off the pool
queues it, when the stream has begun. The router and the prefetcher share no code but this, which does not import RQ.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final, Literal, cast

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared import keys, logs, redis_door
from shared.calls import CallSid, IncomingCall
from shared.outage import Outage
from shared.workers import PoolId

JOB: Final = "worker.jobs.customer.prefetch"
"""What is queued, by name: the router must not import the worker."""

QUEUE: Final = "prefetch"
AFTERCALL_QUEUE: Final = "aftercall"

JOB_TTL_S: Final = 20
"""How long a lookup may wait in the queue: later than that, the call has long gone on without it."""

JOB_TIMEOUT_S: Final = 15
"""RQ's last resort against a job that hangs; the lookup itself ends after `PREFETCH_TIMEOUT`."""

KEPT_S: Final = 60
"""How long a finished job's name is remembered: a webhook repeated within it is not looked up again."""

AT_STREAM: Final = "at_stream"
"""Why a router without `PARALLEL_CONTEXT_PREFETCH` has queued no lookup: the pool does, when the stream has begun."""

Outcome = Literal["found", "unknown", "failed", "unavailable"]

_log = logs.get(__name__)


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What the lookup of a caller gave.

    `outcome` is as in `messages.Customer`; `record` only with `found`. `queued_at` is unix seconds when it was asked for (at
    the webhook, or as the stream began), `took_s` the seconds from then until this was published.
    """

    outcome: Outcome
    record: dict[str, Any] | None = None
    queued_at: float
    took_s: float


_Answer = list[tuple[str, list[tuple[str, dict[str, str]]]]]
"""What XREAD answers in RESP2: streams with their entries, each an id and its fields; empty after the block."""

_decoder: Final = msgspec.json.Decoder(Result)


def job_id(call_sid: CallSid, attempt: int) -> str:
    """Name the job of one attempt of a call: the same webhook twice is one job.

    Source: RQ 3 job ids may hold letters, digits, `_` and `-` only.
    """
    return f"prefetch-{call_sid}-{attempt}"


def job(call: IncomingCall, queued_at: float) -> dict[str, Any]:
    """Write the lookup of a caller as what RQ's `enqueue` takes beside `JOB`; `queued_at` is unix seconds."""
    return {
        "kwargs": {
            "call_sid": call.call_sid,
            "phone": call.caller,
            "trace_id": call.trace_id,
            "queued_at": queued_at,
        },
        "job_id": job_id(call.call_sid, call.attempt),
        "unique": True,
        "description": f"prefetch {call.call_sid}",  # the default one would repeat the number
        "job_timeout": JOB_TIMEOUT_S,
        "ttl": JOB_TTL_S,
        "result_ttl": KEPT_S,
        "failure_ttl": KEPT_S,
    }


class ResultReader:
    """Brings each watched call's results to its pool, with one blocking read for all calls together.

    `run` is a task of the pool; `watch` and `forget` may be called at any time, before it too. `on_result` is called on
    the loop with each result of a watched call, also with those that were there before the call was watched. `on_link`
    is called when Redis begins to answer (True) or stops (False), only on a change. Neither may raise.

    Nothing is lost in an outage: a stream is read from where the last result stood, and its entries live 300 s.
    """

    def __init__(
        self,
        url: str,
        pool: PoolId,
        on_result: Callable[[CallSid, Result], None],
        on_link: Callable[[bool], None],
        outage: Outage | None = None,
    ) -> None:
        self._outage = outage or Outage("redis")
        self._url = url
        self._wake = keys.wake(pool)
        self._wake_id = "0-0"
        self._on_result = on_result
        self._on_link = on_link
        self._link: bool | None = None
        self._watched: dict[str, CallSid] = {}  # by stream name
        self._seen: dict[str, str] = {}  # the last entry read, by stream name
        self._changed = asyncio.Event()

    def watch(self, call_sid: CallSid) -> None:
        """Begin to bring this call's results; watching it again changes nothing."""
        stream = keys.customer(call_sid)
        if stream not in self._watched:
            self._watched[stream] = call_sid
            self._seen[stream] = "0-0"
            self._changed.set()

    def forget(self, call_sid: CallSid) -> None:
        """Bring nothing more for this call. The read under way may still wait for it: that costs nothing."""
        stream = keys.customer(call_sid)
        self._watched.pop(stream, None)
        self._seen.pop(stream, None)

    async def run(self) -> None:
        """Read until cancelled, through every outage."""
        async with contextlib.AsyncExitStack() as stack:
            reading = redis_door.reading(self._url)
            stack.push_async_callback(reading.aclose)
            commands = redis_door.commands(self._url)
            stack.push_async_callback(commands.aclose)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read_on(reading))
                tasks.create_task(self._wake_on(commands))

    async def _read_on(self, client: Redis) -> None:
        backoff = redis_door.Backoff()
        while True:
            try:
                if self._link is not True:
                    await client.ping()  # a blocking read says nothing for 2 s: the link is to be known at once
                    self._outage.back("results")
                    self._show_link(up=True)
                await self._read(client)
                backoff.reset()
            except (RedisError, OSError) as error:
                self._outage.away(redis_door.words(error), "results")
                self._show_link(up=False)
                await client.connection_pool.disconnect()  # a read cut off half-way must not answer the next one
                await asyncio.sleep(backoff.next())

    async def _read(self, client: Redis) -> None:
        streams: dict[Any, Any] = {self._wake: self._wake_id, **self._seen}
        answer = cast("_Answer", await client.xread(streams, block=redis_door.READ_BLOCK_MS))
        for stream, entries in answer:
            if stream == self._wake:
                self._wake_id = entries[-1][0]
                continue
            for entry_id, fields in entries:
                self._bring(stream, entry_id, fields)

    def _bring(self, stream: str, entry_id: str, fields: dict[str, str]) -> None:
        call_sid = self._watched.get(stream)
        if call_sid is None:  # forgotten while the read was under way
            return
        self._seen[stream] = entry_id
        try:
            result = _decoder.decode(fields.get("result", ""))
        except (msgspec.DecodeError, RecursionError) as error:
            _log.warning("unreadable prefetch result", call_sid=call_sid, error=str(error))
            return
        self._on_result(call_sid, result)

    async def _wake_on(self, client: Redis) -> None:
        """End the blocking read whenever there is a new call to read for.

        A wake-up that fails needs no second try: the reader is in the same outage and begins its next read with the new
        set, or ends its present one after `READ_BLOCK_MS`.
        """
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                async with client.pipeline(transaction=False) as pipe:
                    pipe.xadd(self._wake, {"w": "1"}, maxlen=1, approximate=False)
                    pipe.expire(self._wake, keys.WAKE_TTL_S)
                    await pipe.execute()
            except (RedisError, OSError):
                continue

    def _show_link(self, *, up: bool) -> None:
        if self._link is not up:
            self._link = up
            self._on_link(up)
