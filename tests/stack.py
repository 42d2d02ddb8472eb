"""The whole system as processes on loopback: Redis, stand-ins, router, pool, prefetchers. For system tests, demo and bench.

    async with Stack(Plan(pool_ready=2)) as stack:
        async with stack.carrier() as carrier:
            call = await carrier.dial()

Every process is started with the commands of the README and its settings come from its environment, as in production.
What was started is stopped by its handle; logs are files in `stack.folder`, and `stack.logs(name)` reads their JSON lines.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from tests.launch import Launched, launch
from tests.redis_server import RedisServer
from tests.standins import process as standins
from tests.standins.carrier import Carrier
from tests.standins.carrier_settings import CarrierSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.postgres import Postgres, PostgresDatabase
    from tests.standins.process import Standin

ROOT: Final = Path(__file__).resolve().parents[1]
LEXICON: Final = ROOT / "tests" / "data" / "speech"
PUBLIC: Final = "https://voice.example.test"
AUTH_TOKEN: Final = "the-auth-token-of-the-stand-in"
MOST_PAUSE_S: Final = 0.15
READY_DEADLINE_S: Final = 90.0
STOP_DEADLINE_S: Final = 30.0

MODULES: Final[Mapping[str, str]] = {
    "router": "router",
    "pool": "worker",
    "prefetcher": "worker.prefetcher",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What to start. Latencies are milliseconds, as the stand-ins take them; `env` is added to every process of ours."""

    pool_ready: int = 2
    prefetch_workers: int = 2
    redis: bool = True
    prefetcher: bool = True
    supabase: bool = True
    database: Literal["memory", "postgres"] = "memory"  # behind the Supabase stand-in; a real one takes 2 s more
    seed: bool = False  # with a real database: the customers of deploy/supabase/seed.sql
    speech: str = "scripted"
    elevenlabs: bool = False  # its stand-in as well; who is asked for speech says `env`, or an agent
    connect_ms: int = 20
    tts_first_byte_ms: int = 20
    llm_first_token_ms: int = 30
    stt_final_ms: int = 30
    lookup_ms: int = 0
    env: Mapping[str, str] = field(default_factory=dict)
    child: str = ""  # a module of the tests that runs in each worker instead of the product's
    wait_ready: bool = True
    logs: Path | None = None  # a folder whose logs stay; by default they disappear with the rest


class Part:
    """One process of ours, which a test may stop, kill and start again."""

    def __init__(self, name: str, env: Mapping[str, str], folder: Path, arguments: Sequence[str] = ()) -> None:
        self.name = name
        self._arguments = arguments
        self.env = dict(env)
        self._log = folder / f"{name}.log"
        self._process: Launched | None = None

    @property
    def pid(self) -> int:
        """The process id of the running process."""
        assert self._process is not None, f"{self.name} is not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """Everything it has printed."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def lines(self) -> list[dict[str, Any]]:
        """Its log lines that are JSON objects."""
        return [json.loads(line) for line in self.log.splitlines() if line.startswith("{") and line.endswith("}")]

    def start(self) -> None:
        """Start it (again)."""
        with self._log.open("ab") as log, Path(os.devnull).open("rb") as nothing:
            descriptors = (nothing.fileno(), log.fileno(), log.fileno())
            self._process = launch(MODULES[self.name], self._arguments, self.env, str(ROOT), descriptors)

    def terminate(self) -> int:
        """Ask it to end with SIGTERM and give its exit status; it is killed when it does not end in time."""
        return self.stop(signal.SIGTERM)

    def stop(self, number: signal.Signals) -> int:
        """End it with a signal and give its exit status (negative: the signal that ended it)."""
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(number)
        try:
            return self._process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait(STOP_DEADLINE_S)

    def wait(self) -> int:
        """Wait for its end and give its exit status."""
        assert self._process is not None
        return self._process.wait(STOP_DEADLINE_S)


class Stack:
    """All processes of one installation and the stand-ins around it.

    `note` is told each part before it is started, from another thread.
    """

    def __init__(self, plan: Plan | None = None, note: Callable[[str], None] | None = None) -> None:
        self.plan = plan or Plan()
        self.folder = Path(tempfile.mkdtemp(prefix="offhook-stack-"))
        self._note_to = note
        self._given_up = False
        self.redis = RedisServer()
        self.router_port, self.pool_metrics_port, self.prefetch_metrics_port = free_ports(3)
        self.cartesia: Standin
        self.elevenlabs: Standin  # of a plan with one
        self.openai: Standin
        self.supabase: Standin
        self.database: PostgresDatabase  # of a plan with a real one
        self._postgres: Postgres | None = None
        self.parts: dict[str, Part] = {}
        self._standins: list[Standin] = []

    @property
    def router(self) -> Part:
        """The router's process."""
        return self.parts["router"]

    @property
    def pool(self) -> Part:
        """The pool's process."""
        return self.parts["pool"]

    @property
    def prefetcher(self) -> Part:
        """The prefetchers' parent process."""
        return self.parts["prefetcher"]

    @property
    def router_url(self) -> str:
        """Where the router really listens."""
        return f"http://127.0.0.1:{self.router_port}"

    @property
    def pool_url(self) -> str:
        """Where the pool's metrics are."""
        return f"http://127.0.0.1:{self.pool_metrics_port}"

    async def __aenter__(self) -> Self:
        starting = asyncio.create_task(asyncio.to_thread(self.start))
        try:
            await asyncio.shield(starting)
        except BaseException:
            self._given_up = True  # the thread goes on when its waiter is cancelled: nothing may start after the stop
            await asyncio.wait([starting])
            starting.exception()  # taken note of: it is the reason raised below, or follows from it
            await asyncio.to_thread(self.stop)
            raise
        return self

    async def __aexit__(self, *_error: object) -> None:
        await asyncio.to_thread(self.stop)

    def carrier(self, **changes: Any) -> Carrier:
        """Make a carrier that calls this installation; changes are fields of `CarrierSettings`."""
        settings: dict[str, Any] = {
            "target": self.router_url,
            "public_base_url": PUBLIC,
            "auth_token": AUTH_TOKEN,
            "fast_verbs": True,
        }
        return Carrier(CarrierSettings(**(settings | changes)))

    def metric(self, name: str, **labels: str) -> float:
        """Give one sample of the pool's metrics now; 0 when there is none."""
        return sample(self.fetch(f"{self.pool_url}/metrics"), name, labels)

    def fetch(self, url: str) -> str:
        """Get a page as text, whatever its status; a refused connection is an empty page."""
        return fetch(url)

    async def until(self, condition: Callable[[], Any], what: str, deadline_s: float = READY_DEADLINE_S) -> Any:
        """Wait until a condition on other processes holds and give its value; there is no event to wait for across them."""
        ends = time.monotonic() + deadline_s
        pause_s = 0.02
        while True:
            value = await asyncio.to_thread(condition)
            if value:
                return value
            if time.monotonic() > ends:
                raise AssertionError(f"not within {deadline_s:.0f} s: {what}\n{self.tail()}")
            await asyncio.sleep(pause_s)
            pause_s = min(MOST_PAUSE_S, 1.3 * pause_s)  # each look is work for the process that is looked at

    async def ready(self, count: int | None = None) -> None:
        """Wait until this many workers (default: `pool_ready`) are ready in the router's eyes."""
        wanted = self.plan.pool_ready if count is None else count

        def enough() -> bool:
            page = self.fetch(f"{self.router_url}/readyz")
            return page.startswith("{") and int(json.loads(page).get("ready", 0)) >= wanted

        await self.until(enough, f"{wanted} ready workers")

    def tail(self, characters: int = 3000) -> str:
        """Give the end of every log, for a failing test."""
        return "\n".join(f"--- {part.name}\n{part.log[-characters:]}" for part in self.parts.values())

    def start(self) -> None:
        """Start everything and, unless the plan says otherwise, wait until the workers are ready."""
        plan = self.plan
        with ThreadPoolExecutor(1) as beside:  # a real database takes as long as all the others together
            started = None
            if plan.supabase and plan.database == "postgres":
                self._note("postgres")
                started = beside.submit(self._start_postgres)
            if plan.redis:
                self._note("redis")
                self.redis.start()
            self.cartesia = self._standin("cartesia", **self._speech_flags())
            if plan.elevenlabs:
                self.elevenlabs = self._standin("elevenlabs", **self._speech_flags())
            self.openai = self._standin("openai_api", **self._openai_flags())
            if started is not None:
                started.result()
        if plan.supabase:
            self.supabase = self._standin("supabase_api", **self._supabase_flags())
        env = self.environment()
        names = ["router", "pool", *(["prefetcher"] if plan.prefetcher else [])]
        logs = self.folder if plan.logs is None else plan.logs
        arguments = {"pool": ("--child", plan.child)} if plan.child else {}
        self.parts = {name: Part(name, env, logs, arguments.get(name, ())) for name in names}
        for part in self.parts.values():
            self._note(part.name)
            part.start()
        if plan.wait_ready:
            asyncio.run(self.ready())

    def environment(self) -> dict[str, str]:
        """Give the environment every process of ours is started with; nothing of this machine's settings leaks in."""
        plan = self.plan
        kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG", "VIRTUAL_ENV"}}
        settings = {
            "PUBLIC_BASE_URL": PUBLIC,
            "REDIS_URL": self.redis.url,
            "TWILIO_ACCOUNT_SID": "AC00000000000000000000000000000001",
            "TWILIO_AUTH_TOKEN": AUTH_TOKEN,
            "OPENAI_API_KEY": "sk-stand-in",
            "OPENAI_BASE_URL": f"{self.openai.url}/v1",
            "CARTESIA_API_KEY": "cartesia-stand-in",
            "CARTESIA_TTS_URL": f"ws://127.0.0.1:{self.cartesia.port}/tts/websocket",
            "CARTESIA_STT_URL": f"ws://127.0.0.1:{self.cartesia.port}",
            "CARTESIA_VOICE_ID": "voice-stand-in",
            "POOL_READY": str(plan.pool_ready),
            "PREFETCH_WORKERS": str(plan.prefetch_workers),
            "HANDOFF_DIR": str(self.folder / "handoff"),
            "ROUTER_HOST": "127.0.0.1",
            "ROUTER_PORT": str(self.router_port),
            "POOL_METRICS_HOST": "127.0.0.1",
            "POOL_METRICS_PORT": str(self.pool_metrics_port),
            "PREFETCH_METRICS_PORT": str(self.prefetch_metrics_port),
        }
        if plan.elevenlabs:
            settings |= {
                "ELEVENLABS_API_KEY": "elevenlabs-stand-in",
                "ELEVENLABS_URL": self.elevenlabs.url,
                "ELEVENLABS_VOICE_ID": "voice-stand-in",
            }
        if plan.supabase:
            settings |= {"SUPABASE_URL": self.supabase.url, "SUPABASE_SECRET_KEY": "sb_secret_stand_in"}
        if plan.database == "memory":
            settings["CALL_RECORDS"] = "false"  # it has no function that stores them: each would be tried for a day
        return kept | settings | dict(plan.env)

    def _note(self, what: str) -> None:
        if self._given_up:
            raise RuntimeError(f"given up before {what} was started")
        if self._note_to is not None:
            self._note_to(what)

    def another(self, name: str, env: Mapping[str, str]) -> Part:
        """Make a second process of a kind, not started, with other settings and ports of its own."""
        ports = {"ROUTER_PORT": "0", "POOL_METRICS_PORT": "0", "PREFETCH_METRICS_PORT": "0"}
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        part = Part(name, self.environment() | ports | {"HANDOFF_DIR": str(folder / "handoff")} | dict(env), folder)
        self.parts[f"{name} {folder.name}"] = part
        return part

    def restart_cartesia(self, port: int) -> None:
        """Start the voice and ear stand-in again on the port it had."""
        self.cartesia = self._standin("cartesia", port=port, **self._speech_flags())

    def restart_supabase(self, port: int) -> None:
        """Start the database stand-in again on the port it had; without a real database it is empty."""
        self.supabase = self._standin("supabase_api", port=port, **self._supabase_flags())

    def _start_postgres(self) -> None:
        from tests.postgres import SEED, Postgres, PostgresDatabase, migrate  # 0.3 s that most stacks save

        self._postgres = Postgres()
        self._postgres.start()
        self.database = PostgresDatabase(self._postgres.fresh())
        if self.plan.seed:
            migrate(self.database.dsn, (SEED,))

    def _supabase_flags(self) -> dict[str, Any]:
        flags: dict[str, Any] = {"latency_ms": self.plan.lookup_ms}
        return flags | ({"postgres": self.database.dsn} if self.plan.database == "postgres" else {})

    def _speech_flags(self) -> dict[str, Any]:
        plan = self.plan
        return {
            "speech": plan.speech,
            "lexicon": str(LEXICON),
            "connect_ms": plan.connect_ms,
            "tts_first_byte_ms": plan.tts_first_byte_ms,
            "stt_final_ms": plan.stt_final_ms,
        }

    def _openai_flags(self) -> dict[str, Any]:
        plan = self.plan
        return {
            "lexicon": str(LEXICON),
            "llm_first_token_ms": plan.llm_first_token_ms,
            "speech_first_byte_ms": plan.tts_first_byte_ms,
            "realtime_connect_ms": plan.connect_ms,
            "transcript_ms": plan.stt_final_ms,
        }

    def _standin(self, name: str, **flags: Any) -> Standin:
        self._note(name)
        # It inherits the mask: a Ctrl-C at the terminal is ours to pass on, one that is still importing would answer with
        # a traceback.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            standin = standins.start(name, **flags)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._standins.append(standin)
        return standin

    def stop(self) -> None:
        """Stop everything that was started, by its handle; harmless when it is stopped."""
        for part in self.parts.values():
            if part.running:
                os.kill(part.pid, signal.SIGTERM)
        for part in self.parts.values():
            part.terminate()
        for standin in self._standins:
            standin.stop()
        if self._postgres is not None:
            self._postgres.close()
        self.redis.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def fetch(url: str) -> str:
    """Get a page as text, whatever its status; a refused connection is an empty page."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - addresses of our own processes
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return error.read().decode()
    except OSError:
        return ""


def sample(page: str, name: str, labels: Mapping[str, str]) -> float:
    """Read one sample from a Prometheus text page; 0 when it is not there."""
    from prometheus_client.parser import text_string_to_metric_families  # 20 ms that most users of this module save

    for family in text_string_to_metric_families(page):
        for one in family.samples:
            if one.name == name and all(one.labels.get(key) == value for key, value in labels.items()):
                return float(one.value)
    return 0.0


def free_ports(count: int) -> list[int]:
    """Reserve ports by binding them all before closing any, so that they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports
