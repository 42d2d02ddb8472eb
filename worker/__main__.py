"""`python -m worker`: a pool and its workers. Whatever is wrong is said, by name, before anything listens (exit 2)."""

import argparse
import asyncio
import contextlib
import gc
import secrets
import signal
from typing import Final

import shared.tracing_first  # it keeps out what the others would load
from shared import logs, rlimits, settings, tracing
from shared.errors import OffhookError
from shared.metrics import registry
from shared.processes import Process
from shared.workers import PoolId
from worker.pool import door, http
from worker.pool.checking import check, warn
from worker.pool.pool import Given, Pool
from worker.pool.zygote import CHILD
from worker.tools import custom_check

shared.tracing_first.over()

DESCRIPTION: Final = "Keeps workers ready for calls. Settings come from the environment."


def main() -> None:
    """Check everything, open what is listened on, run the pool."""
    rlimits.take()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is a pool that has something to read anew
    parser = argparse.ArgumentParser(prog="python -m worker", description=DESCRIPTION)
    parser.add_argument("--child", default=CHILD, help="the module that runs in each worker (tests replace it)")
    options = parser.parse_args()
    try:
        configured = settings.load(Process.POOL)
        checked = check(configured)
        custom_check.before_start(configured)
        pool = PoolId(configured.pool_id or secrets.token_hex(4))
        tracing.start(configured, "offhook-pool", pool=pool)
        with contextlib.ExitStack() as opened:
            http_socket = opened.enter_context(http.listen(configured.pool_metrics_host, configured.pool_metrics_port))
            door_socket = door.listen(configured.handoff_dir, pool)
            opened.pop_all()  # both are the pool's now
    except OffhookError as error:
        settings.refuse(error, served=True)
    logs.configure(configured.log_level, process="pool", pool=pool)
    warn(checked)
    gc.freeze()  # a full collection would look at 100,000 objects that never go, while somebody's upgrade waits
    given = Given(
        configured, checked.agents, pool, door_socket, http_socket, registry(), options.child, checked.bridging
    )
    try:
        asyncio.run(_run(given))
    finally:
        tracing.leave()


async def _run(given: Given) -> None:
    await Pool(given).run()


if __name__ == "__main__":
    main()
