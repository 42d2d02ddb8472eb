"""Everything the demo runs on: Redis, stand-ins with real speech, router, pool, prefetchers; and what a caller must know."""

import asyncio
import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from deploy.demo import customers
from deploy.demo.trouble import ROOT, Trouble, last_words
from tests.stack import AUTH_TOKEN, PUBLIC, Plan, Stack
from tests.standins.process import StandinFailed

LOGS: Final = ROOT / ".run" / "demo"
STATE: Final = LOGS / "state.json"
CALLERS: Final = ("+5511999990001", "+5511999990002", "+5511999990003")
READY_WORKERS: Final = 3
READY_DEADLINE_S: Final = 120.0
LOOK_AGAIN_S: Final = 0.1

NAMES: Final = {
    "redis": "Redis",
    "cartesia": "stand-in for Cartesia (loads a real voice and a real ear)",
    "openai_api": "stand-in for OpenAI (answers by rules)",
    "supabase_api": "stand-in for Supabase",
    "router": "router",
    "pool": "pool",
    "prefetcher": "prefetchers",
}

LOG_OF: Final = {name: str((LOGS / f"{name}.log").relative_to(ROOT)) for name in ("router", "pool", "prefetcher")}


@dataclass(frozen=True, slots=True)
class Site:
    """What it takes to place a call from another process, and to judge it."""

    router_url: str
    logs: str  # a folder; empty when the logs are elsewhere
    codes: dict[str, str]  # caller's number -> the words planted in the record
    public_url: str = PUBLIC  # what signatures are made for
    auth_token: str = AUTH_TOKEN
    supabase_url: str = ""  # of the stand-in; empty when there is none

    def see(self, part: str) -> str:
        """Say where a part (router, pool, prefetcher) tells more."""
        return f"see {LOG_OF[part]}" if self.logs else f"see what the {part} logs"

    def save(self) -> None:
        """Leave it where `load_site` finds it."""
        STATE.write_text(json.dumps(asdict(self)), encoding="utf-8")


def load_site() -> Site:
    """Find the demo that is being served.

    Raises:
        Trouble: there is none.
    """
    try:
        return Site(**json.loads(STATE.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise Trouble("no demo is being served", "run: KEEP=1 make demo") from error


class Progress:
    """Says what is being started, and how long it took."""

    def __init__(self) -> None:
        self._begun: float | None = None

    def begin(self, what: str) -> None:
        """Finish the line of what came before and begin another."""
        self.end()
        self._begun = time.monotonic()
        sys.stdout.write(f"  {NAMES.get(what, what):<62}")
        sys.stdout.flush()

    def end(self) -> None:
        """Finish the present line."""
        if self._begun is not None:
            sys.stdout.write(f"{time.monotonic() - self._begun:6.1f} s\n")
            sys.stdout.flush()
            self._begun = None

    def abandon(self) -> None:
        """Leave the present line without a time."""
        if self._begun is not None:
            sys.stdout.write("\n")
            self._begun = None


def plan() -> Plan:
    """Say what is started. The latencies are those of the bench, but speech takes the time it takes."""
    return Plan(
        pool_ready=READY_WORKERS,
        prefetch_workers=4,
        speech="local",
        connect_ms=150,
        tts_first_byte_ms=0,
        stt_final_ms=0,
        llm_first_token_ms=300,
        lookup_ms=40,
        wait_ready=False,
        logs=LOGS,
    )


def empty_logs() -> Path:
    """Make an empty folder for logs.

    Raises:
        Trouble: it cannot be written to.
    """
    try:
        shutil.rmtree(LOGS, ignore_errors=True)
        LOGS.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Trouble(f"{LOGS.relative_to(ROOT)} cannot be made: {error.strerror}", "check its permissions") from error
    return LOGS


@contextmanager
def explained() -> Iterator[None]:
    """Say in one line why something could not be started."""
    try:
        yield
    except StandinFailed as error:
        raise Trouble(str(error).split(":")[0], "what it said stands above") from error
    except (OSError, AssertionError) as error:
        raise Trouble(str(error).splitlines()[0], f"see {LOGS.relative_to(ROOT)}") from error


async def parked(stack: Stack) -> None:
    """Wait until the workers are ready in the router's eyes.

    Raises:
        Trouble: a process ended, or they are not ready in time; with its own words.
    """
    ends = time.monotonic() + READY_DEADLINE_S
    while True:
        for part in stack.parts.values():
            if not part.running:
                raise Trouble(f"the {NAMES[part.name]} ended: {last_words(part.log)}", f"see {LOG_OF[part.name]}")
        state = json.loads(await asyncio.to_thread(stack.fetch, f"{stack.router_url}/readyz") or "{}")
        if state.get("ready", 0) >= READY_WORKERS:
            return
        if time.monotonic() > ends:
            raise Trouble(f"no ready workers: {_why(state)}", f"see {LOG_OF['pool']}")
        await asyncio.sleep(LOOK_AGAIN_S)


async def plant(stack: Stack) -> dict[str, str]:
    """Give each caller a record with random words; return them by caller."""
    codes = customers.codes(CALLERS)
    await stack.supabase.control(customers=customers.planted(codes))
    return codes


def _why(state: dict[str, object]) -> str:
    problems = state.get("problems")
    if isinstance(problems, list) and problems:
        return f"{problems[0].get('resource')}: {problems[0].get('detail')}"
    return f"{state.get('ready', 0)} of {READY_WORKERS} after {READY_DEADLINE_S:.0f} s"
