"""`make demo`: offhook on embedded parts, without keys, judged by what a caller hears.

    python -m deploy.demo                  three calls, then stop (KEEP=1: keep serving)
    python -m deploy.demo call             another call to a demo that is being served
    python -m deploy.demo call --url URL   a call to a deployment (deploy/compose.yaml) whose router is there

Exit 0 when every call was a conversation, 1 when a step failed (one line says which, and what to do), 130 after Ctrl-C.
"""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Coroutine

from deploy.demo.trouble import Trouble, for_calls, judge, look

STOPPED = 130


def main() -> int:
    """Run the demo and give its exit status."""
    options = parse(sys.argv[1:], os.environ.get("KEEP", ""))
    try:
        machine = look()
        judge(for_calls(machine, ear=options.judge == "ear") if options.url else machine)
        from deploy.demo.demo import demo  # only now: these imports fail where something is missing
        from deploy.demo.more import more_calls

        return asyncio.run(_until_stopped(more_calls(options) if options.what == "call" else demo(keep=options.keep)))
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
    call = parser.add_argument_group("call")
    call.add_argument("--url", default="", help="where a router listens, http://host:port; default: the demo here")
    call.add_argument("--token", default="", help="its TWILIO_AUTH_TOKEN; default: as the settings here have it")
    call.add_argument("--public-url", default="", help="its PUBLIC_BASE_URL; default: as in the settings, else URL")
    call.add_argument("--calls", type=int, default=1, help="how many, one after another; default 1")
    call.add_argument("--at-once", action="store_true", help="all of them at the same time")
    call.add_argument(
        "--judge",
        choices=["ear", "tones", "none"],
        default="ear",
        help="who listens to the answers: a real ear, a decoder for scripted stand-ins, or nobody; default ear",
    )
    options = parser.parse_args(arguments)
    if options.what != "call" and arguments not in ([], ["demo"], ["--keep"], ["demo", "--keep"], ["--keep", "demo"]):
        parser.error("that is for `call`")
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
