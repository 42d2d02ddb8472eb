"""A worker without Pipecat, for tests of the pool: it does what a script says, and talks by text frames.

A successor answers `memory` with what it was told of the call: see `_Stream.memory`. It does not resynchronise: tests of
the pool kill between whole frames.

The script is a JSON file named by `FAKE_CHILD_SCRIPT`, read anew by each load and each fork; fields as in `Script`.
In a call it echoes text frames, except for a few words: see `_Life._answer`.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

import msgspec
from websockets.frames import Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from shared.calls import EndReason, StreamSid
from shared.channel import Channel
from shared.errors import WarmupFailed
from shared.framing import TO_WORKER
from shared.messages import (
    Beat,
    Bind,
    Closed,
    Customer,
    Ending,
    EndStored,
    Entry,
    FirstMedia,
    Observed,
    Prepare,
    Problem,
    ProviderLost,
    Ready,
    Remember,
    Resumed,
    Retire,
    Started,
    WarmFailed,
)
from shared.settings import Settings
from shared.workers import PARKED_RESOURCES, Resource, WorkerId
from worker.call.stacks import open_stacks
from worker.call.tape import Tape


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the next workers do; `fail` is a resource, `die` and `hang` are about the warm-up."""

    warm_ms: float = 5.0
    away: str = ""  # what another agent than the default one would need
    fail: str = ""
    die: bool = False
    hang: bool = False
    load_fails: str = ""
    second_thread: bool = False
    lose_provider_after_ms: float = 0.0
    deaf: bool = False
    eat_mb: int = 0


def script() -> Script:
    """Read the script."""
    path = os.environ.get("FAKE_CHILD_SCRIPT", "")
    return msgspec.json.decode(Path(path).read_bytes(), type=Script) if path else Script()


def load(_settings: Settings) -> str:
    """Load nothing, or fail as told."""
    said = script()
    if said.load_fails:
        raise WarmupFailed(said.load_fails, "the script says so")
    if said.second_thread:
        threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
    return "loaded"


def serve(loaded: str, worker: WorkerId, channel: socket.socket) -> NoReturn:
    """Be a worker."""
    assert loaded == "loaded"
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    asyncio.new_event_loop().run_until_complete(_Life(worker).live(channel))
    os._exit(0)


def sleep_in_the_wrong_place(_seconds: float) -> None:
    """Block the main thread in a system call."""
    time.sleep(3600)


def work(seconds: float) -> None:
    """Keep the event loop waiting for an honest piece of work: so many seconds of a CPU."""
    done = time.thread_time() + seconds
    while time.thread_time() < done:
        pass


def loop_in_the_wrong_place(_seconds: float) -> None:
    """Keep the main thread in C code that never looks up."""
    sum(range(10**14))


def crash(_seconds: float) -> None:
    """Read where nothing is."""
    ctypes.string_at(0)


HOLD_UPS = {"block": sleep_in_the_wrong_place, "spin": loop_in_the_wrong_place, "work": work, "segfault": crash}


class _Life:
    def __init__(self, worker: WorkerId) -> None:
        self._worker = worker
        self._script = script()
        self._leave = asyncio.Event()
        self._stored = asyncio.Event()
        self._prepared = ""
        self._customer = "nothing"
        self._eaten: list[bytes] = [self._food(self._script.eat_mb)]
        self.journal: list[Entry] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending = False

    async def live(self, sock: socket.socket) -> None:
        """Warm as told, park, serve."""
        self._channel = Channel(sock, TO_WORKER, self._received, lambda _why: self._pool_lost())
        await asyncio.sleep(self._script.warm_ms / 1000)
        if self._script.die:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._script.hang:
            await asyncio.Event().wait()
        if self._script.fail:
            self._channel.send(WarmFailed(resource=self._script.fail, detail="as told", traceback="Traceback: as told"))
            return
        away = (Problem(resource=self._script.away, detail="as told"),) if self._script.away else ()
        self._channel.send(Ready(build_s=0.001, problems=away), open_stacks())
        self._go(self._beat())
        if self._script.lose_provider_after_ms:
            await asyncio.sleep(self._script.lose_provider_after_ms / 1000)
            self._channel.send(ProviderLost(resource=Resource.TTS, detail="closed by peer"))
        await self._leave.wait()

    def _pool_lost(self) -> None:
        if self._ending:
            self._stored.set()
        if not self._prepared.startswith("bound"):
            self._leave.set()

    async def _beat(self) -> None:
        while True:
            self._channel.send(Beat(warm=dict.fromkeys(PARKED_RESOURCES, True), lag_s=0.0))
            await asyncio.sleep(0.5)

    def _received(self, message: Any, fds: list[int]) -> None:
        match message:
            case Prepare():
                self._prepared = "prepared"
                self._channel.send(Beat(warm=dict.fromkeys(Resource, True), lag_s=0.0))
            case Bind():
                sock = socket.socket(fileno=fds[0])
                sock.setblocking(False)
                was, self._prepared = self._prepared, "bound"
                self._go(_Stream(self, sock, message, was, Tape(fds[1])).serve())
            case Remember():
                self.journal += message.entries
            case Customer():
                self._customer = message.outcome
            case Retire():
                if self._prepared == "bound" and not self._script.deaf:
                    self.end(EndReason.DRAINED)
                elif not self._script.deaf:
                    self._leave.set()
            case EndStored():
                self._stored.set()

    def end(self, reason: EndReason) -> None:
        """End the call."""
        if not self._ending:
            self._ending = True
            if not self._channel.send(Ending(reason=reason)):
                self._stored.set()  # nobody is left to store anything

    def _go(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)

    # what a stream needs of its worker
    def say(self, message: Any) -> None:
        self._channel.send(message)

    async def stored(self) -> None:
        await self._stored.wait()

    def over(self) -> None:
        self._channel.send(Closed())
        self._leave.set()

    def eat(self, megabytes: int) -> None:
        """Take memory, and keep it."""
        self._eaten.append(self._food(megabytes))

    @staticmethod
    def _food(megabytes: int) -> bytes:
        return b"x" * (megabytes << 20)

    def facts(self, word: str) -> str:
        """Answer a question about this worker."""
        return {"who": f"{self._worker} {os.getpid()}", "customer": self._customer}[word]


class _Stream:
    """The caller's side: a WebSocket in state OPEN."""

    def __init__(self, life: _Life, sock: socket.socket, bind: Bind, prepared: str, tape: Tape) -> None:
        self._life = life
        self._sock = sock
        self._bind = bind
        self._prepared = prepared or "unprepared"
        self._tape = tape
        self._protocol = ServerProtocol(state=OPEN)

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        ended = loop.create_task(self._close_when_stored())
        resumed = self._bind.resume is not None and self._bind.resume.stream_sid is not None
        first = not resumed
        if resumed:
            self._life.say(Resumed(at=time.monotonic()))
        with contextlib.suppress(OSError):
            while data := await loop.sock_recv(self._sock, 65_536):
                self._protocol.receive_data(data)
                for frame in self._protocol.events_received():
                    opcode, content = getattr(frame, "opcode", None), bytes(getattr(frame, "data", b""))
                    if opcode is Opcode.CLOSE:
                        self._life.end(EndReason.CALLER_HANGUP)
                    if opcode is not Opcode.TEXT:
                        continue
                    if first:
                        first = False
                        self._life.say(Started(stream_sid=StreamSid("MZ1")))
                    await self._answer(content.decode())
                    if self._prepared and not resumed:
                        self._life.say(FirstMedia(at=time.monotonic()))
                        self._life.say(
                            Observed(timing="greeting_start", seconds=time.monotonic() - self._bind.accepted_at)
                        )
        self._life.end(EndReason.CALLER_HANGUP)
        await ended

    async def _answer(self, text: str) -> None:
        match text.partition(" "):
            case ("end", _, reason):
                self._life.end(EndReason(reason))
            case ("crash", _, _):
                os._exit(9)
            case (word, _, seconds) if word in HOLD_UPS:
                HOLD_UPS[word](float(seconds or 0))
                await self._send("done")
            case ("eat", _, megabytes):
                self._life.eat(int(megabytes))
                await self._send("eaten")
            case (("journal" | "tape") as where, _, said):
                await self._send(self._note(where, said))
            case ("memory", _, _):
                await self._send(self.memory())
            case (("prepared" | "agent") as what, _, _):
                await self._send(self._prepared if what == "prepared" else self._bind.agent.name)
            case (("who" | "customer") as word, _, _):
                await self._send(self._life.facts(word))
            case _:
                await self._send(text)

    def _note(self, where: str, said: str) -> str:
        if where == "tape":
            self._tape.write(said.encode())
            return "taped"
        self._life.say(Entry(kind="user", text=said, at=time.time()))
        return "noted"

    def memory(self) -> str:
        """Say as JSON what this worker was told of the call: its resume (null for a new stream), journal and tape."""
        said = {
            "resume": self._bind.resume,
            "journal": [entry.text for entry in self._life.journal],
            "tape": self._tape.unheard().decode("latin-1"),
        }
        return msgspec.json.encode(said).decode()

    async def _send(self, text: str) -> None:
        self._protocol.send_text(text.encode())
        await self._flush()

    async def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                await asyncio.get_running_loop().sock_sendall(self._sock, data)

    async def _close_when_stored(self) -> None:
        await self._life.stored()
        with contextlib.suppress(OSError):
            if self._protocol.state is OPEN:  # else the answer to the caller's close is waiting
                self._protocol.send_close(1000)
            await self._flush()
            self._sock.shutdown(socket.SHUT_WR)
        self._sock.close()
        self._life.over()
