"""The stand-ins of a deployment without keys, and the settings that lead to them.

    python -m deploy.demo.standins --settings /run/demo/settings.env

Cartesia (which really speaks and hears), OpenAI and Supabase, each a process. When all listen the file is written: what
SETTINGS_FILE names at router, pools and prefetchers. It says only what this process' own environment does not say: give it
the environment of the others, and a key that somebody has never goes to a stand-in. It is there as long as the stand-ins are.

Exit 0 at SIGTERM, 1 when a stand-in ended by itself (the log says which), 2 for a wrong setting.
"""

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from deploy.demo import customers
from deploy.demo.trouble import RECORDINGS, ROOT, Trouble
from shared import logs, settings
from shared.errors import SettingsError, system_words
from shared.processes import Process
from shared.settings import Settings

START_DEADLINE_S: Final = 120.0
"""Real speech loads within 4 s; a machine that starts everything else at the same time needs longer."""

STOP_DEADLINE_S: Final = 5.0
FIRST_PORT: Final = 8001
SETTINGS_MODE: Final = 0o640
TOKEN_BYTES: Final = 16

STANDINS: Final = {"cartesia": "Cartesia", "openai_api": "OpenAI", "supabase_api": "Supabase"}
"""Module of tests.standins to the name of the vendor, in the order of their ports."""

FLAGS: Final[Mapping[str, Sequence[str]]] = {
    "cartesia": (f"--lexicon={RECORDINGS}", "--connect-ms=150"),
    "openai_api": (f"--lexicon={RECORDINGS}", "--llm-first-token-ms=300"),
    "supabase_api": ("--latency-ms=40",),
}
"""The latencies of the vendors; speech takes the time it takes."""

SPEECH_FLAGS: Final[Mapping[str, Sequence[str]]] = {
    "local": ("--speech=local", "--tts-first-byte-ms=0", "--stt-final-ms=0"),
    "scripted": ("--speech=scripted",),
}

_log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class Standin:
    """A stand-in that listens."""

    vendor: str
    port: int
    process: asyncio.subprocess.Process


@dataclass(frozen=True, slots=True)
class Plan:
    """What is started, and where its settings go. `given` is what the environment says already."""

    file: Path
    given: Settings
    host_name: str = "standins"
    speech: str = "local"
    first_port: int = FIRST_PORT  # 0: any that are free
    started: list[asyncio.subprocess.Process] = field(default_factory=list)

    def command(self, name: str) -> list[str]:
        """Give the command line of a stand-in. It leaves when its stdin ends, should this process be killed."""
        port = self.first_port and self.first_port + list(STANDINS).index(name)
        own = [*FLAGS[name], *(SPEECH_FLAGS[self.speech] if name == "cartesia" else ())]
        common = ["--host=0.0.0.0", f"--port={port}", "--until-stdin-closes"]
        return [sys.executable, "-W", "ignore", "-m", f"tests.standins.{name}", *common, *own]


def lines(given: Settings, host_name: str, ports: Mapping[str, int]) -> dict[str, str]:
    """Give the settings that lead to the stand-ins, without what is given: a vendor whose key is there is the real one."""
    at = {name: f"{host_name}:{port}" for name, port in ports.items()}
    found: dict[str, str] = {}
    if not given.public_base_url:
        found["PUBLIC_BASE_URL"] = "http://127.0.0.1:8080"
    if not given.twilio_account_sid:
        found["TWILIO_ACCOUNT_SID"] = "AC00000000000000000000000000000001"
    if not given.twilio_auth_token.get_secret_value():
        found["TWILIO_AUTH_TOKEN"] = secrets.token_hex(TOKEN_BYTES)
    if not given.openai_api_key.get_secret_value():
        found |= {"OPENAI_API_KEY": "sk-stand-in", "OPENAI_BASE_URL": f"http://{at['openai_api']}/v1"}
    if not given.cartesia_api_key.get_secret_value():
        found |= {
            "CARTESIA_API_KEY": "cartesia-stand-in",
            "CARTESIA_TTS_URL": f"ws://{at['cartesia']}/tts/websocket",
            "CARTESIA_STT_URL": f"ws://{at['cartesia']}",
            "CARTESIA_VOICE_ID": "voice-stand-in",
        }
    if not given.supabase_url:
        found |= {"SUPABASE_URL": f"http://{at['supabase_api']}", "SUPABASE_SECRET_KEY": "sb_secret_stand_in"}
        found["CALL_RECORDS"] = "false"  # it has no function that stores them: each would be tried for a day
    return found


def clear(path: Path) -> None:
    """Remove a file that was left behind: its stand-ins are gone. Raises OSError, also when none could be written."""
    path.unlink(missing_ok=True)
    new = _beside(path)
    new.touch()
    new.unlink()


def write(path: Path, values: Mapping[str, str]) -> None:
    """Put settings into a file, as `.env` has them; whoever reads it sees all of them or none."""
    new = _beside(path)
    new.unlink(missing_ok=True)
    new.touch(0o600)
    new.write_text("".join(f"{name}={value}\n" for name, value in values.items()), encoding="utf-8")
    new.chmod(SETTINGS_MODE)
    new.replace(path)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.new")


async def run(plan: Plan) -> int:
    """Start everything and serve until SIGTERM or SIGINT; give the exit status."""
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    if os.getpid() == 1:
        loop.add_signal_handler(signal.SIGCHLD, reap_orphans, plan)
    serving, stopping = asyncio.create_task(_serve(plan)), asyncio.create_task(stopped.wait())
    status = 0
    try:
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
    except Trouble as trouble:
        _log.error("stand-ins failed", error=str(trouble))
        status = 1
    finally:
        plan.file.unlink(missing_ok=True)
        serving.cancel()
        stopping.cancel()
        await asyncio.wait({serving, stopping})
        await asyncio.gather(*(_stop(process) for process in plan.started))
    _log.info("stand-ins stopped")
    return status


def reap_orphans(plan: Plan) -> None:
    """Wait for whatever has ended and is nobody's: the duty of process 1. The stand-ins are waited for elsewhere."""
    own = {process.pid for process in plan.started}
    with contextlib.suppress(ChildProcessError):
        while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if ended.si_pid in own:
                return
            os.waitpid(ended.si_pid, os.WNOHANG)


async def _serve(plan: Plan) -> None:
    """Start the stand-ins, write the file, and wait until one of them ends.

    Raises:
        Trouble: that happened.
    """
    try:
        async with asyncio.TaskGroup() as group:
            starting = {name: group.create_task(_start(plan, name)) for name in STANDINS}
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None  # the first to fail is the one to tell of; the others are stopped
    standins = {name: task.result() for name, task in starting.items()}
    supabase = f"http://127.0.0.1:{standins['supabase_api'].port}"
    await asyncio.to_thread(customers.add, supabase, customers.regulars(datetime.now(UTC)))
    values = lines(plan.given, plan.host_name, {name: one.port for name, one in standins.items()})
    write(plan.file, values)
    _log.info("stand-ins ready", speech=plan.speech, settings=sorted(values), file=str(plan.file))
    ends = {asyncio.create_task(one.process.wait()): one.vendor for one in standins.values()}
    done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    ended = done.pop()
    raise Trouble(f"the stand-in for {ends[ended]} ended with status {ended.result()}", "")


async def _start(plan: Plan, name: str) -> Standin:
    """Start a stand-in and return when it listens.

    Raises:
        Trouble: it does not.
    """
    pipe = asyncio.subprocess.PIPE
    # in a group of its own: a Ctrl-C is this process' to pass on
    process = await asyncio.create_subprocess_exec(
        *plan.command(name), cwd=ROOT, stdin=pipe, stdout=pipe, process_group=0
    )
    plan.started.append(process)
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    line = b""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(START_DEADLINE_S):
            line = await process.stdout.readline()
    if not line:
        raise Trouble(f"the stand-in for {STANDINS[name]} did not start", "what it said stands above")
    port = int(json.loads(line)["port"])
    _log.info("stand-in listens", vendor=STANDINS[name], port=port, pid=process.pid)
    return Standin(STANDINS[name], port, process)


async def _stop(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_DEADLINE_S)
    except TimeoutError:
        process.kill()
        await process.wait()


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m deploy.demo.standins", description="stand-ins of a deployment")
    parser.add_argument("--settings", type=Path, required=True, help="the file that SETTINGS_FILE names elsewhere")
    parser.add_argument("--host-name", default="standins", help="where others reach this process, default %(default)s")
    parser.add_argument("--speech", choices=list(SPEECH_FLAGS), default="local", help="default %(default)s")
    parser.add_argument(
        "--first-port", type=int, default=FIRST_PORT, help="of three, default %(default)s; 0 picks free ones"
    )
    return parser.parse_args(arguments)


def main() -> int:
    """Serve; give the exit status."""
    options = parse(sys.argv[1:])
    try:
        clear(options.settings)  # before the settings are read: what it says, nobody has set
        given = settings.load(Process.PREFETCHER, whatsapp_from="")  # nothing is required, nothing withheld
    except OSError as error:
        settings.refuse(SettingsError(f"--settings: {options.settings}: {system_words(error)}"), served=True)
    except SettingsError as error:
        settings.refuse(error, served=True)
    logs.configure(given.log_level, process="standins")
    return asyncio.run(run(Plan(options.settings, given, options.host_name, options.speech, options.first_port)))


if __name__ == "__main__":
    sys.exit(main())
