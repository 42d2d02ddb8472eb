"""`python -m worker.prefetcher`: prepares calls (queue `prefetch`) and finishes them (queue `aftercall`).

This process only supervises and exposes `/metrics`. The work is done by two children, so that records never delay a
lookup and a crash of one is not the other's: one with `PREFETCH_WORKERS` lookup threads, one for what follows a call. A
child that dies is replaced; no start order and no Redis are assumed.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Final, cast

from prometheus_client import CollectorRegistry, make_wsgi_app, start_http_server

import shared.tracing_first  # it keeps out what the others would load
from shared import logs, redis_door, rlimits, settings, tracing
from shared.errors import SettingsError, blames_host, system_words
from shared.metrics import registry
from shared.metrics_prefetch import PrefetchMetrics, QueueMetrics
from shared.prefetch import AFTERCALL_QUEUE, QUEUE
from shared.processes import Process
from shared.settings import Settings
from worker.prefetcher_pages import Listeners, pages
from worker.prefetcher_queues import Queues
from worker.prefetcher_report import DeadLetters, Listening, MessageTried, Observation, read

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIRequestHandler

shared.tracing_first.over()

STOP_S: Final = 4.0
"""What a child gets beyond the longest step of a job and its own second before it is killed."""

PATIENCE_S: Final = 30.0
"""How long a client of the open port may say nothing: it has a thread of ours meanwhile."""

HEALTHY_S: Final = 30.0
"""A child that lived this long is replaced at once; one that dies sooner, after a growing pause."""

MOST_PAUSE_S: Final = 10.0

NICENESS: Final = 5
"""A lookup has until the caller's first question; on a full machine greetings and live calls go first."""

_log = logs.get(__name__)


class Supervisor:
    """Keeps the children alive until told to stop."""

    def __init__(self, conf: Settings, metrics: PrefetchMetrics, listeners: Listeners) -> None:
        self._metrics = metrics
        self._listeners = listeners
        self._grace_s = conf.longest_step + 1.0 + STOP_S
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Let running jobs finish and leave; may be called from a signal handler of the loop, any number of times."""
        self._stop.set()

    async def run(self) -> None:
        """Supervise until stopped."""
        async with asyncio.TaskGroup() as tasks:
            for role in (QUEUE, AFTERCALL_QUEUE):
                tasks.create_task(self._keep(role))

    async def _keep(self, role: str) -> None:
        pause = redis_door.Backoff(0.2, MOST_PAUSE_S)
        while not self._stop.is_set():
            born = time.monotonic()
            status = await self._live(role)
            if self._stop.is_set():
                return
            _log.error("prefetcher child died", queue=role, status=status)
            if time.monotonic() - born > HEALTHY_S:
                pause.reset()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), pause.next())

    async def _live(self, role: str) -> int:
        """Start a child, read what it observes, end it when told to; give its exit status."""
        ours, theirs = socket.socketpair()
        with theirs:
            # its own process group: a Ctrl-C is this process's to pass on
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "worker.prefetcher_child", role, stdin=theirs.fileno(), process_group=0
            )
        _log.info("prefetcher child started", queue=role, pid=child.pid)
        reader, writer = await asyncio.open_connection(sock=ours)
        try:
            async with asyncio.TaskGroup() as tasks:
                stopping = tasks.create_task(self._end(child))
                listening = tasks.create_task(self._listen(role, reader))
                status = await child.wait()
                stopping.cancel()
                listening.cancel()
        finally:
            writer.close()
            self._listeners.show(role, 0)
        return status

    async def _end(self, child: asyncio.subprocess.Process) -> None:
        await self._stop.wait()
        with contextlib.suppress(ProcessLookupError):
            child.terminate()
            await asyncio.sleep(self._grace_s)
            _log.warning("prefetcher child killed", pid=child.pid)
            child.kill()

    async def _listen(self, role: str, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while text := await reader.readline():
                match read(text):
                    case Observation(outcome, seconds):
                        self._metrics.prefetched(outcome, seconds)
                    case DeadLetters(count):
                        self._metrics.dead_letters(count)
                    case MessageTried(message):
                        self._metrics.message_tried(message)
                    case Listening(count):
                        self._listeners.show(role, count)
                    case _:
                        pass


async def supervise(conf: Settings, metrics: PrefetchMetrics, listeners: Listeners) -> None:
    """Run the children until SIGTERM or SIGINT."""
    supervisor = Supervisor(conf, metrics, listeners)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.stop)
    await supervisor.run()


def expose(conf: Settings, made: CollectorRegistry, listeners: Listeners) -> int:
    """Serve `/metrics` and `/readyz` in threads of their own and give the port.

    Raises:
        SettingsError: the port is taken.
    """
    try:
        server, _ = start_http_server(conf.prefetch_metrics_port, conf.pool_metrics_host, made)
    except OSError as error:
        host, port = conf.pool_metrics_host, conf.prefetch_metrics_port
        name = "POOL_METRICS_HOST" if blames_host(error) else "PREFETCH_METRICS_PORT"
        raise SettingsError(f"{name}: {host}:{port}: {system_words(error)}") from error
    server.set_app(pages(make_wsgi_app(made), listeners))
    # The library's own class: nobody else in this process uses it.
    cast("type[WSGIRequestHandler]", server.RequestHandlerClass).timeout = PATIENCE_S
    return int(server.server_port)


def main() -> None:
    """Check the settings, expose the metrics, supervise; exit 0 at SIGTERM, 2 for a wrong setting."""
    rlimits.take()
    try:
        conf = settings.load(Process.PREFETCHER)
        logs.configure(conf.log_level, process="prefetcher")
        tracing.check(conf)  # the children's: what is wrong is said once, before anything begins
        made = registry()
        metrics = PrefetchMetrics(made)
        QueueMetrics(made, Queues(conf.redis_url).look)
        listeners = Listeners((QUEUE, AFTERCALL_QUEUE))
        port = expose(conf, made, listeners)
    except SettingsError as error:
        settings.refuse(error, served=True)
    os.nice(NICENESS)
    if not conf.supabase_url:
        _log.warning("no SUPABASE_URL: every customer will be unavailable")
    _log.info("prefetchers started", metrics_port=port, workers=conf.prefetch_workers)
    asyncio.run(supervise(conf, metrics, listeners))
    _log.info("prefetchers stopped")


if __name__ == "__main__":
    main()
