"""A child of `worker.prefetcher`: `python -m worker.prefetcher_child lookups|aftercall`, not meant to be started by hand.

Its stdin is a socket pair to the parent: observations go up it as one line of JSON each, and its end means that the
parent is gone. SIGTERM lets running jobs finish.
"""

import argparse
import os
import random
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from typing import Final

import httpx

from shared import logs, redis_door, settings
from shared.errors import SettingsError
from shared.prefetch import AFTERCALL_QUEUE, QUEUE, Outcome
from shared.settings import Process, Settings
from worker.jobs.customer import CONTEXT, Context
from worker.jobs.lookup import CustomerLookup, LookupFailed
from worker.prefetcher_report import Observation, line
from worker.prefetcher_rq import Outage, Threads, quiet_rq

WARM_EVERY_S: Final = 25.0
"""How long a connection to Supabase may be idle: below the 60 s after which proxies commonly close it."""

IDLE_STOP_S: Final = 1.0
"""What is added to `PREFETCH_TIMEOUT` for jobs to finish at the end."""


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
        if not (self._conf.supabase_url and self._conf.parallel_context_prefetch):
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


def run(role: str, conf: Settings) -> None:
    """Work until SIGTERM, SIGINT or the end of the parent."""
    # Blocked in every thread and fetched by the main one: a handler could interrupt a job, or a lock.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    parent = socket.socket(fileno=sys.stdin.fileno())
    threading.Thread(target=_end_with, args=(parent,), daemon=True, name="parent").start()
    quiet_rq()
    stop = threading.Event()
    threads = Threads(conf.redis_url, stop)
    if role == AFTERCALL_QUEUE:
        threads.start_worker(AFTERCALL_QUEUE, lambda: lambda: None)
        threads.start_scheduler(AFTERCALL_QUEUE)
    else:
        lookups = Lookups(conf, parent)
        for _ in range(conf.prefetch_workers):
            threads.start_worker(QUEUE, lookups.prepare)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    stop.set()
    threads.stop(conf.prefetch_timeout + IDLE_STOP_S)


def _end_with(parent: socket.socket) -> None:
    """End this process as SIGTERM does when the parent's side of the pair is closed."""
    while True:
        try:
            if not parent.recv(64):
                break
        except OSError:
            break
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Load the settings the parent has already checked, and work."""
    parser = argparse.ArgumentParser(
        prog="python -m worker.prefetcher_child", description="A part of worker.prefetcher"
    )
    parser.add_argument("role", choices=(QUEUE, AFTERCALL_QUEUE))
    role = str(parser.parse_args().role)
    try:
        conf = settings.load(Process.PREFETCHER)
    except SettingsError as error:
        settings.refuse(error)
    logs.configure(conf.log_level, process="prefetcher", queue=role)
    run(role, conf)
    sys.stdout.flush()
    os._exit(0)  # a thread that hangs in a name lookup must not keep the process


if __name__ == "__main__":
    main()
