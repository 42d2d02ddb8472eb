"""A worker: warm, park, serve one call, exit. What the zygote loads once, and what each fork of it does.

A worker talks to its pool over one socket pair and to providers, and to nobody else. When its pool is gone, a parked worker
exits and one in a call finishes that call alone (`orphan`). It always leaves by `os._exit`: interpreters forked from a
process with ONNX loaded hang in their own clean-up.
"""

import asyncio
import contextlib
import os
import random
import signal
import socket
import time
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NoReturn

from shared import logs, tracing
from shared.agents import Agent
from shared.agents_file import load_agents
from shared.calls import EndReason
from shared.channel import Channel
from shared.clips import load_clip, load_manifest
from shared.errors import WarmupFailed
from shared.framing import TO_WORKER
from shared.messages import (
    Beat,
    Bind,
    Customer,
    Ending,
    EndStored,
    Entry,
    Message,
    Observed,
    Prepare,
    Problem,
    ProviderLost,
    Ready,
    Remember,
    Retire,
    Retried,
    ToolLine,
    WarmFailed,
)
from shared.metrics import Setback, Stage, Timing
from shared.settings import Settings
from shared.variables import Values
from shared.workers import Resource, WorkerId
from worker.call.customer import local, render
from worker.call.equipment import Equipment, Tools, find_tools
from worker.call.greeting import Recording, greeting_for, record
from worker.call.memory import remember
from worker.call.models import load_models
from worker.call.orphan import STORE_WAIT_S, Orphan
from worker.call.pipeline import AgentPipeline, Hooks, Kit, log_pipecat
from worker.call.rehearsal import rehearse_stream, rehearse_words
from worker.call.scribe import Scribe
from worker.call.serving import Serving
from worker.call.spans import CallSpans
from worker.call.stacks import open_stacks
from worker.call.tape import Tape
from worker.call.tasks import Tasks
from worker.call.trouble import CallSide
from worker.providers import chosen

log = logs.get(__name__)

BEAT_S: Final = 0.5
RECORD_CHARS: Final = 8_000
"""How much of a customer record goes into the prompt: about 2,000 tokens."""

MIND_DELAY_S: Final = 0.6
"""How long the model's connection waits behind the ear's for the call to start: it takes 5 ms of CPU, and of calls that come
together every greeting goes first. Nobody asks the model anything for another second."""

STOP_WAIT_S: Final = 1.0
"""How long the providers' goodbyes may take before the process ends anyway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded(Kit):
    """What the zygote has ready for every worker; shared with the forks by copy-on-write."""

    recordings: Mapping[str, Recording]
    found: Tools

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What was left out."""
        return self.found.problems

    @property
    def usual_greeting(self) -> Recording | None:
        """The installation's greeting; None where the voice greets."""
        return self.recordings.get(self.settings.greeting_audio_clip)


def load(settings: Settings) -> Loaded:
    """Load everything that no call changes. Called once in the zygote; starts no thread, opens no connection.

    Raises:
        ClipError: a clip is missing or unusable.
        SettingsError: the agents file or the folder of tools cannot be read; or, with `TOOLS_STRICT`, a file in it is broken.
    """
    agents = load_agents(settings.agents_file).all
    recordings = load_recordings(settings, agents)
    found = find_tools(settings, agents)
    chosen.load(settings, agents)
    loaded = Loaded(
        settings=settings, models=load_models(), tools=found.loaded, agents=agents, recordings=recordings, found=found
    )
    rehearse_words(loaded.usual_greeting)
    return loaded


def load_recordings(settings: Settings, agents: Iterable[Agent]) -> dict[str, Recording]:
    """Read every clip of the manifest, and the greetings that are files of their own (`greetings.raw`).

    Raises:
        ClipError: one line per problem.
    """
    recordings = {name: record(clip) for name, clip in load_manifest(settings.assets_dir).items()}
    wanted = {agent.greeting_clip for agent in agents if agent.greeting_clip}
    if settings.greeting_audio_enabled:
        for name in {settings.greeting_audio_clip, *wanted} - recordings.keys():
            recordings[name] = record(load_clip(settings.assets_dir / name))
    return recordings


def serve(loaded: Loaded, worker: WorkerId, channel: socket.socket) -> NoReturn:
    """Be a worker on this channel to the pool, in a freshly forked process; never returns."""
    code = 1
    try:
        random.seed()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # the pool ends its workers by message, or by SIGKILL
        logs.configure(loaded.settings.log_level, process="worker", worker=worker)
        log_pipecat()
        tracing.start(loaded.settings, "offhook-worker", parked=True, worker=worker)
        asyncio.new_event_loop().run_until_complete(_Child(loaded, worker).live(channel))
        code = 0
    except BaseException:
        log.exception("worker failed")
    finally:
        tracing.leave()
        os._exit(code)


class _Child:
    """The life of one worker."""

    def __init__(self, loaded: Loaded, worker: WorkerId) -> None:
        self._loaded = loaded
        self._worker = worker
        self._forked_at = time.monotonic()
        self._prepared: asyncio.Task[None] | None = None
        self._reserved_at = 0.0
        self._agent = Agent()
        self._values = Values()
        self._answered = False
        self._journal: list[Entry] = []
        self._bound = False
        self._resumed = False
        self._alone = False
        self._timings: dict[str, float] = {}
        self._measured: list[Observed] = []  # before the call is bound: its pool takes no entries yet
        self._leave = asyncio.Event()
        self._tasks = Tasks()
        self._orphan = Orphan(loaded.settings)
        self._spans = CallSpans(lambda: self._serving.started_at, lambda: self._pipeline.telemetry.turn)

    async def live(self, sock: socket.socket) -> None:
        """Warm, park, serve, and return when it is time to exit."""
        self._channel = Channel(sock, TO_WORKER, self._received, self._pool_lost)
        self._scribe = Scribe(self._tell)
        hooks = Hooks(self._provider_lost, self._stage)
        loaded = self._loaded
        try:
            self._pipeline = AgentPipeline(loaded, hooks, self._scribe)
            self._equipment = Equipment(loaded.settings, loaded.found, self._pipeline)
            self._serving = Serving(loaded.settings, loaded.recordings, self._pipeline, self._tell, self._scribe)
            self._serving.old_ways.load_tools = self._load_tools
            hooks.replied, hooks.voice, hooks.user_said = (
                self._serving.replied,
                self._serving.hearing.voice,
                self._serving.caller_spoke,
            )
            self._serving.on_unconfirmed = self._keep_records
            self._pipeline.troubles.attach(self._call_side())
            await self._pipeline.start()
            await rehearse_stream(loaded.usual_greeting)
        except Exception as error:  # noqa: BLE001 - whatever it was, the pool shows it in /readyz
            resource, limited = "pipeline", False
            if isinstance(error, WarmupFailed):
                resource, limited = error.resource, error.limited
            trace = traceback.format_exc()[-4000:]
            self._tell(WarmFailed(resource=resource, detail=str(error), traceback=trace, limited=limited))
            return
        self._tell(Beat(warm=self._pipeline.warm(), lag_s=0.0))
        ready = Ready(build_s=time.monotonic() - self._forked_at, problems=chosen.away(self._pipeline.voices))
        self._channel.send(ready, open_stacks())
        beats = asyncio.create_task(self._beat())
        await self._leave.wait()
        beats.cancel()
        try:
            async with asyncio.timeout(STOP_WAIT_S):
                await self._pipeline.stop()
        except Exception:  # noqa: BLE001 - the process ends either way
            log.warning("providers were not closed in time")
        await self._pipeline.finish_writes()  # nobody asks the model about them any more

    # --- the pool speaks ----------------------------------------------------------------------------------------------

    def _received(self, message: Any, fds: list[int]) -> None:
        match message:
            case Prepare():
                self._prepare(message)
            case Bind():
                self._bound, self._resumed = True, message.resume is not None
                self._orphan.serve(message, self._journal)
                self._note_beginning(message)
                self._prepare(message)
                self._pipeline.begin()  # with the voice of that agent
                tape = Tape(fds[1]) if len(fds) > 1 else None
                self._tasks.go(self._serve(message, socket.socket(fileno=fds[0]), tape))
            case Remember():
                self._journal += message.entries
            case Customer():
                self._customer(message)
            case ToolLine() if fds:
                self._equipment.connect(socket.socket(fileno=fds[0]))
            case EndStored():
                self._serving.end_stored.set()
            case Retire():
                if self._bound:
                    self._tasks.go(self._serving.dismiss(EndReason.DRAINED))
                else:
                    self._leave.set()

    def _pool_lost(self, why: str) -> None:
        log.warning("pool lost", why=why)
        if not self._bound:
            self._leave.set()
            return
        self._keep_records()

    def _keep_records(self) -> bool:
        """Store the end reason in the place of a pool that is gone, or does not answer."""
        self._serving.end_stored.allow(STORE_WAIT_S)
        if not self._alone:
            self._alone = True
            self._tasks.go(self._orphan.run(self._serving.end_stored.set))
        return True

    def _prepare(self, message: Prepare | Bind) -> None:
        if self._prepared is not None:
            return
        call, agent = message.call, message.agent
        self._reserved_at = message.reserved_at
        logs.bind(call_sid=call.call_sid, trace_id=call.trace_id)
        self._spans.begin(message)
        self._agent = agent
        self._serving.use(agent)  # before the pipeline looks at its session: which tools there are is the agent's
        self._pipeline.prepare(agent, self._serving.session, call)
        self._pipeline.llm.sit(message.seat)
        self._know(Values(call.caller, call.called, agent.name, agent.timezone))
        self._prepared = self._tasks.go(self._open(agent))

    def _know(self, values: Values) -> None:
        """Put what is known of the call where the agent's texts have variables; in the greeting as long as it is not out."""
        self._values = values
        self._pipeline.llm.know(values)
        if not self._serving.greeted_at:
            self._serving.use(greeting_for(self._agent, values))

    async def _open(self, agent: Agent) -> None:
        await self._pipeline.open_ear(agent)
        ready_at = time.monotonic()
        self._beat_now()
        with contextlib.suppress(TimeoutError):  # a call that is about to start goes first
            async with asyncio.timeout(MIND_DELAY_S):
                await self._serving.started.wait()
        await self._pipeline.open_mind()
        self._pipeline.llm.read_ahead(self._pipeline.context)
        self._beat_now()
        await self._serving.started.wait()
        old_ways = self._serving.old_ways
        await old_ways.over.wait()
        if not self._resumed:
            self._observe(Timing.AGENT_READY, max(ready_at, old_ways.over_at) - self._serving.started_at)

    async def _load_tools(self) -> None:
        await self._equipment.load()
        self._beat_now()

    async def _serve(self, bind: Bind, sock: socket.socket, tape: Tape | None) -> None:
        hung = bind.resume is not None and bind.resume.hung
        await self._serving.bind(bind, sock, tape, replace(remember(self._journal), hung=hung))
        await self._serving.done.wait()
        log.info("call ended", end_reason=self._serving.reason, **self._timings)
        await self._orphan.leave()
        self._leave.set()

    def _customer(self, message: Customer) -> None:
        try:
            if message.outcome == "found" and message.record is not None:
                self._know(replace(self._values, record=message.record))
                record = local(message.record, self._agent.timezone)
                self._pipeline.add_customer(render(record, limit_chars=RECORD_CHARS))
                self._observe(Timing.CONTEXT_INJECTION, time.monotonic() - self._reserved_at)
        finally:
            self._pipeline.open_gate()  # whatever the record was, the caller must get an answer
            self._serving.old_ways.customer_known()
        self._scribe.customer(message.outcome)

    # --- the pipeline speaks ------------------------------------------------------------------------------------------

    def _provider_lost(self, resource: Resource, why: str) -> None:
        self._beat_now()
        if not self._bound:
            self._tell(ProviderLost(resource=resource, detail=why))

    def _call_side(self) -> CallSide:
        """Say what the call does about a provider in trouble."""
        return CallSide(
            bridge=self._serving.bridge,
            give_up=self._give_up_soon,
            retried=self._retried,
            plays_until=lambda: self._pipeline.output.playout.plays_until,
        )

    def _retried(self, provider: Resource, cause: Setback) -> None:
        self._tell(Retried(provider=provider, cause=cause))

    def _give_up_soon(self) -> None:
        async def give_up() -> None:
            await self._serving.started.wait()  # there is nothing to close before
            self._serving.end(EndReason.PROVIDER_LOST)

        self._tasks.go(give_up())

    def _stage(self, stage: Stage, seconds: float) -> None:
        self._tell(Observed(timing=Timing.TURN, seconds=seconds, stage=stage))
        if stage is Stage.LLM and not self._answered:
            self._answered = True
            self._observe(Timing.FIRST_LLM_RESPONSE, seconds)

    # --- the pulse ----------------------------------------------------------------------------------------------------

    async def _beat(self) -> None:
        while True:
            due = time.monotonic() + BEAT_S
            await asyncio.sleep(BEAT_S)
            self._serving.flush_oddities()
            self._beat_now(time.monotonic() - due)

    def _beat_now(self, lag_s: float = 0.0) -> None:
        self._tell(Beat(warm=self._pipeline.warm(), lag_s=lag_s))

    def _observe(self, timing: Timing, seconds: float) -> None:
        self._tell(Observed(timing=timing, seconds=seconds))

    def _tell(self, message: Message) -> None:
        match message:
            case Observed():
                self._measure(message)
            case Ending():
                self._pipeline.ear.report()
                self._pipeline.llm.report()
            case _:
                pass
        self._orphan.note(message)
        self._channel.send(message)
        self._spans.told(message)

    def _measure(self, observed: Observed) -> None:
        """Keep a measurement for the record; the first of each kind stands in the line that ends the call."""
        name = "_".join(filter(None, (observed.timing, observed.stage)))
        self._timings.setdefault(f"{name}_s", round(observed.seconds, 4))
        if self._bound:
            self._scribe.timed(name, observed.seconds)
        else:
            self._measured.append(observed)

    def _note_beginning(self, bind: Bind) -> None:
        """Write into the journal what is known of the call by now."""
        if bind.resume is not None:
            self._scribe.used(resumes=1)
        for observed in self._measured:
            self._measure(observed)
