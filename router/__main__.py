"""Start the router: `python -m router`. Everything it can do wrong at start is said before it listens, with exit 2."""

import contextlib
import functools
import gc
import logging
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import NoReturn

import shared.tracing_first  # it keeps out what the others would load
from router.app import build
from router.health import beside
from router.parts import Outside, assemble
from router.prefetch import PrefetchQueue
from router.serving import listen, listen_at, server
from shared import handoff_dir, logs, redis_door, rlimits, tracing
from shared.clips import load_manifest, wav
from shared.errors import ClipError, OffhookError, SettingsError
from shared.holdline import SharedHoldLine
from shared.processes import Process
from shared.settings import Settings, load, refuse
from shared.traces import traces_of

shared.tracing_first.over()

log = logs.get(__name__)


def main() -> None:
    """Serve until SIGTERM or SIGINT, then exit 0."""
    rlimits.take()
    for number in (signal.SIGTERM, signal.SIGINT):
        # While it serves uvicorn has handlers of its own; afterwards it sends itself the signal again, which ends here.
        signal.signal(number, _leave)
    try:
        settings = load(Process.ROUTER)
        logs.configure(settings.log_level, process="router")
        tracing.start(settings, "offhook-router")
        clips, sockets = _check(settings)
    except OffhookError as error:
        refuse(error, served=True)
    for chatty in ("uvicorn.error", "watchfiles.main"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    gc.freeze()
    served, *others = sockets
    for sock in sockets:
        where = {"path": sock.getsockname()} if sock.family is socket.AF_UNIX else _address(sock)
        log.info("router listening" if sock is served else "metrics listening", **where)
    parts = assemble(settings, clips, _outside(settings))
    try:
        server(build(parts), beside(parts.health), others).run(sockets=[served])
    finally:
        tracing.leave()


def _address(sock: socket.socket) -> dict[str, str | int]:
    host, port = sock.getsockname()[:2]
    return {"host": host, "port": port}


def _outside(settings: Settings) -> Outside:
    """Make the clients of Redis; they connect when they are used, since calls are answered without it."""
    redis, queue = redis_door.commands(settings.redis_url), PrefetchQueue(settings)

    async def close() -> None:
        queue.close()
        await redis.aclose()

    return Outside(queue.enqueue, functools.partial(traces_of, redis), close, SharedHoldLine(redis), queue.report)


def _check(settings: Settings) -> tuple[Mapping[str, bytes], list[socket.socket]]:
    """Load the clips, make the folder of the pools' sockets, and listen: the port of calls comes first.

    Raises:
        SettingsError: something is wrong; one line for each problem.
    """
    problems: list[str] = []
    clips: Mapping[str, bytes] = {}
    sockets: list[socket.socket] = []
    with _noting(problems):
        handoff_dir.prepare(settings.handoff_dir)
    with _noting(problems):
        clips = {name: wav(clip) for name, clip in load_manifest(settings.assets_dir).items()}
    ports = (("ROUTER_PORT", settings.router_port), ("ROUTER_METRICS_PORT", settings.router_metrics_port))
    shared = settings.router_health_socket is not None
    for name, port in ports:
        with _noting(problems):
            if port is not None:
                sockets.append(listen(settings.router_address, port, name, shared=shared))
    with _noting(problems):
        if settings.router_health_socket is not None:
            sockets.append(listen_at(settings.router_health_socket))
    if problems:
        for sock in sockets:
            sock.close()  # nobody may wait at a port of ours while `RESTART_PAUSE` lasts
        raise SettingsError("\n".join(problems))
    return clips, sockets


@contextlib.contextmanager
def _noting(problems: list[str]) -> Iterator[None]:
    try:
        yield
    except (SettingsError, ClipError) as error:
        problems += str(error).splitlines()


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(0)


if __name__ == "__main__":
    main()
