"""`make demo`: offhook on embedded parts, without keys, judged by what a caller hears.

    python -m deploy.demo          three calls, then stop (KEEP=1: keep serving)
    python -m deploy.demo call     another call to a demo that is being served

Exit 0 when every call was a conversation, 1 when a step failed (one line says which, and what to do), 130 after Ctrl-C.
"""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Coroutine

from deploy.demo.trouble import Trouble, judge, look

STOPPED = 130


def main() -> int:
    """Run the demo and give its exit status."""
    options = parse(sys.argv[1:], os.environ.get("KEEP", ""))
    try:
        judge(look())
        from deploy.demo.demo import another_call, demo  # only now: these imports fail where something is missing

        return asyncio.run(_until_stopped(another_call() if options.what == "call" else demo(keep=options.keep)))
    except Trouble as trouble:
        print(f"offhook: {trouble}", file=sys.stderr)
    except ImportError as error:
        print(f"offhook: {error}; run: make install", file=sys.stderr)
    except KeyboardInterrupt:  # before the loop has its own handler
        return STOPPED
    return 1


def parse(arguments: list[str], keep: str) -> argparse.Namespace:
    """Read the command line and KEEP: `what` is demo or call, `keep` whether to go on serving."""
    parser = argparse.ArgumentParser(prog="python -m deploy.demo", description="offhook without keys")
    parser.add_argument("what", nargs="?", choices=["demo", "call"], default="demo")
    parser.add_argument("--keep", action="store_true", help="keep serving afterwards, as KEEP=1 does")
    options = parser.parse_args(arguments)
    options.keep = options.keep or keep.lower() not in {"", "0", "false", "no"}
    return options


async def _until_stopped(work: Coroutine[None, None, None]) -> int:
    """Run to the end, or until a signal; everything that was started is stopped before this returns."""
    task = asyncio.create_task(work)
    loop, stopped = asyncio.get_running_loop(), False

    def stop() -> None:
        nonlocal stopped
        if not stopped:  # once: a second cancellation would interrupt the clearing up and leave things behind
            stopped = True
            print("\nstopping", flush=True)
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop)
    try:
        await task
    except asyncio.CancelledError:
        return STOPPED
    return 0


if __name__ == "__main__":
    sys.exit(main())
