"""Start the router: `python -m router`. Everything it can do wrong at start is said before it listens, with exit 2."""

import contextlib
import functools
import gc
import logging
import signal
import sys
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import NoReturn

from router.app import build
from router.parts import Outside, assemble
from router.pools import prepare_folder
from router.prefetch import PrefetchQueue
from router.serving import listen, server
from shared import logs, redis_door, rlimits
from shared.clips import load_manifest, wav
from shared.errors import ClipError, OffhookError, SettingsError
from shared.holdline import SharedHoldLine
from shared.processes import Process
from shared.settings import Settings, load, refuse
from shared.traces import traces_of

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
        clips = _check(settings)
        sock = listen(settings.router_address, settings.router_port)
    except OffhookError as error:
        refuse(error, served=True)
    for chatty in ("uvicorn.error", "watchfiles.main"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    gc.freeze()
    host, port = sock.getsockname()[:2]
    log.info("router listening", host=host, port=port)
    server(build(assemble(settings, clips, _outside(settings)))).run(sockets=[sock])


def _outside(settings: Settings) -> Outside:
    """Make the clients of Redis; they connect when they are used, since calls are answered without it."""
    redis, queue = redis_door.commands(settings.redis_url), PrefetchQueue(settings)

    async def close() -> None:
        queue.close()
        await redis.aclose()

    return Outside(queue.enqueue, functools.partial(traces_of, redis), close, SharedHoldLine(redis), queue.report)


def _check(settings: Settings) -> Mapping[str, bytes]:
    """Load the clips and make the folder of the pools' sockets.

    Raises:
        SettingsError: something is wrong; one line for each problem.
    """
    problems: list[str] = []
    clips: Mapping[str, bytes] = {}
    with _noting(problems):
        prepare_folder(settings.handoff_dir)
    with _noting(problems):
        clips = {name: wav(clip) for name, clip in load_manifest(settings.assets_dir).items()}
    if problems:
        raise SettingsError("\n".join(problems))
    return clips


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
