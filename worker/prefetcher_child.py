"""A child of `worker.prefetcher`: `python -m worker.prefetcher_child lookups|aftercall`, not meant to be started by hand.

Its stdin is a socket pair to the parent: observations go up it as one line of JSON each, and its end means that the
parent is gone. SIGTERM lets running jobs finish.
"""

import argparse
import contextlib
import os
import signal
import socket
import sys
import threading
from typing import Final

import shared.tracing_first  # it keeps out what the others would load
from shared import letters, logs, settings, tracing
from shared.errors import SettingsError
from shared.prefetch import AFTERCALL_QUEUE, QUEUE
from shared.processes import Process
from shared.settings import Settings
from worker.prefetcher_report import Listening, line
from worker.prefetcher_rq import Threads, quiet_rq

shared.tracing_first.over()

IDLE_STOP_S: Final = 1.0
"""What is added to the longest step of a job, for jobs to finish at the end."""


def run(role: str, conf: Settings) -> None:
    """Work until SIGTERM, SIGINT or the end of the parent."""
    # Blocked in every thread and fetched by the main one: a handler could interrupt a job, or a lock.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    parent = socket.socket(fileno=sys.stdin.fileno())
    threading.Thread(target=_end_with, args=(parent,), daemon=True, name="parent").start()
    quiet_rq()
    stop = threading.Event()
    threads = Threads(conf.redis_url, stop, lambda count: _tell(parent, Listening(count)))
    if role == AFTERCALL_QUEUE:
        _start_records(threads, conf, parent, stop)
        _start_messages(threads, conf, parent)
        threads.start_scheduler(AFTERCALL_QUEUE, letters.QUEUE, letters.STATUS_QUEUE)
    else:
        # Here, because Supabase's client takes 15 MB and 0.5 s that the other child can do without.
        from worker.prefetcher_lookups import Lookups

        lookups = Lookups(conf, parent)
        for _ in range(conf.prefetch_workers):
            threads.start_worker(QUEUE, lookups.prepare)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    stop.set()
    threads.stop(conf.longest_step + IDLE_STOP_S)


def _tell(parent: socket.socket, listening: Listening) -> None:
    """Tell the parent; one that does not read must stop no thread, and its next look finds this process gone."""
    with contextlib.suppress(OSError):
        parent.send(line(listening), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def _start_records(threads: Threads, conf: Settings, parent: socket.socket, stop: threading.Event) -> None:
    """Work on the records of calls, also where none are kept: there may be some of former settings."""
    # Here, because Supabase's client takes 15 MB and 0.5 s that the other child loads for itself.
    from worker.prefetcher_records import Leftovers, prepare

    threads.start_worker(AFTERCALL_QUEUE, lambda: prepare(conf))
    threads.start(Leftovers(conf, parent, stop).look_after)


def _start_messages(threads: Threads, conf: Settings, parent: socket.socket) -> None:
    """Work on messages to customers, where there is a number they come from."""
    if not conf.whatsapp_from:
        return
    # Here, because Twilio's client takes 15 MB and 0.3 s that nobody else needs.
    from worker.prefetcher_messages import THREADS, Messages

    messages = Messages(conf, parent)
    for queue in THREADS:
        threads.start_worker(queue, messages.prepare)


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
        tracing.start(conf, "offhook-prefetcher", queue=role)
    except SettingsError as error:
        settings.refuse(error)
    logs.configure(conf.log_level, process="prefetcher", queue=role)
    run(role, conf)
    tracing.leave()
    sys.stdout.flush()
    os._exit(0)  # a thread that hangs in a name lookup must not keep the process


if __name__ == "__main__":
    main()
