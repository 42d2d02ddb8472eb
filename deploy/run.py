"""`make run`: router, pool and prefetchers with the settings of `.env`, in the foreground.

One Ctrl-C (or SIGTERM) stops all of them in an order no caller notices: the pool first, which lets calls in progress finish
while the router still answers the carrier, then prefetchers and router. A second one does not wait for the calls: what is
left is killed, and workers in a call finish it alone. A process that ends by itself stops the others.

Exit 0 after a stop that was asked for, 2 for wrong settings, else the status of the process that ended by itself.
"""

import asyncio
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]

COMMANDS: Final[Mapping[str, Sequence[str]]] = {
    "pool": ("-m", "worker"),
    "prefetchers": ("-m", "worker.prefetcher"),
    "router": ("-m", "router"),
}
"""In the order they are stopped in; they may be started in any."""

STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Child:
    """A process of ours."""

    name: str
    process: asyncio.subprocess.Process

    async def ended(self) -> tuple[str, int]:
        """Wait for its end."""
        return self.name, await self.process.wait()


def main() -> int:
    """Run until stopped."""
    try:
        from shared.settings_check import problems  # here, so that a missing package is said in one line

        found = problems()
    except ImportError as error:
        found = [f"{error}; run: make install"]
    if found:
        _say("\n".join(found))
        if not (ROOT / ".env").exists():
            _say("there is no .env: copy deploy/env.example to .env and fill it in")
        return 2
    return asyncio.run(run(COMMANDS))


async def run(commands: Mapping[str, Sequence[str]]) -> int:
    """Run these (arguments of Python, by name) until stopped or until one ends; stop them in their order."""
    stops: asyncio.Queue[None] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stops.put_nowait, None)
    children = [Child(name, await _start(command)) for name, command in commands.items()]
    ends = {asyncio.create_task(child.ended()) for child in children}
    asked = asyncio.create_task(stops.get())
    await asyncio.wait({*ends, asked}, return_when=asyncio.FIRST_COMPLETED)
    status = 0
    if not asked.done():
        asked.cancel()
        name, status = next(task.result() for task in ends if task.done())
        _say(f"{name} ended with status {status}: stopping the others")
        status = status if status > 0 else 1  # 0 is no success either: it was not asked to end
    else:
        _say("stopping: calls in progress finish first; once more to leave at once")
    impatient = asyncio.create_task(stops.get())
    stopping = asyncio.create_task(_stop(children))
    await asyncio.wait({impatient, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        stopping.cancel()
        for child in children:
            _signal(child, signal.SIGKILL)
        status = 1
    impatient.cancel()
    await asyncio.wait(ends)
    return status


async def _start(command: Sequence[str]) -> asyncio.subprocess.Process:
    # In a group of its own: a Ctrl-C at the terminal reaches this process only, which knows the order.
    return await asyncio.create_subprocess_exec(sys.executable, *command, cwd=ROOT, process_group=0)


async def _stop(children: Sequence[Child]) -> None:
    for child in children:
        _signal(child, signal.SIGTERM)
        await child.process.wait()


def _signal(child: Child, number: signal.Signals) -> None:
    if child.process.returncode is None:
        child.process.send_signal(number)


def _say(words: str) -> None:
    for line in words.splitlines():
        print(f"offhook: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
