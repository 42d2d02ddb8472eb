"""What the threads that look callers up have ready: a warm connection to Supabase each, and an ear for outcomes."""

import random
import socket
import ssl
import time
from collections.abc import Callable
from typing import Final

import httpx

from shared import redis_door
from shared.outage import Outage
from shared.prefetch import Outcome
from shared.settings import Settings
from worker.jobs.customer import CONTEXT, Context
from worker.jobs.lookup import CustomerLookup, LookupFailed
from worker.prefetcher_report import Observation, line

WARM_EVERY_S: Final = 25.0
"""How long a connection to Supabase may be idle: below the 60 s after which proxies commonly close it."""


class Lookups:
    """What all lookup threads of the process share: how to make a connection, and whom to tell."""

    def __init__(self, conf: Settings, parent: socket.socket) -> None:
        self._conf = conf
        self._parent = parent
        self._tls: ssl.SSLContext = httpx.create_ssl_context()  # 20 ms each: one for all threads
        self._link = Outage("supabase")

    def prepare(self) -> Callable[[], None]:
        """Set up the calling thread: its own warm connection, its own Redis client. Gives what keeps it warm."""
        lookup = self._connect()
        CONTEXT.set(Context(lookup, redis_door.sync_commands(self._conf.redis_url), self.observe))
        if lookup is None:
            return lambda: None
        self._warm(lookup)
        next_at = time.monotonic() + WARM_EVERY_S * random.uniform(0.5, 1.0)  # noqa: S311 - spreads the threads

        def keep_warm() -> None:
            nonlocal next_at
            if time.monotonic() >= next_at:
                self._warm(lookup)
                next_at = time.monotonic() + WARM_EVERY_S

        return keep_warm

    def observe(self, outcome: Outcome, seconds: float) -> None:
        """Tell the parent; an observation is dropped rather than a lookup delayed by a parent that does not read."""
        try:
            self._parent.send(line(Observation(outcome, seconds)), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            return

    def _connect(self) -> CustomerLookup | None:
        if not self._conf.supabase_url:
            return None
        key = self._conf.supabase_secret_key.get_secret_value()
        return CustomerLookup(self._conf.supabase_url, key, self._conf.prefetch_timeout, self._tls)

    def _warm(self, lookup: CustomerLookup) -> None:
        try:
            lookup.warm()
        except LookupFailed as error:
            self._link.away(str(error))
        else:
            self._link.back()
