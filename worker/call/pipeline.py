"""The agent: one Pipecat pipeline, built and running before any call exists.

Built once per worker and thrown away with it: neither services nor analyzers can be used for a second call. This module and
its neighbours `transport`, `gate` and the providers are the only ones that know Pipecat.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from loguru import logger as pipecat_log
from pipecat.frames.frames import (
    InterruptionFrame,
    LLMRunFrame,
    TTSSpeakFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMContextAggregatorPair,
    LLMUserAggregatorParams,
)
from pipecat.turns.user_turn_strategies import UserTurnStrategies
from pipecat.workers.runner import WorkerRunner

from shared.agents import Agent, ToolStage
from shared.calls import IncomingCall
from shared.errors import WarmupFailed
from shared.logs import get
from shared.metrics import Stage
from shared.settings import Settings
from shared.workers import Resource
from worker.call.gate import FirstAnswerGate, FirstTokenProbe, TurnClock
from worker.call.interrupting import TurnBegin
from worker.call.listener import Listener
from worker.call.memory import BROKEN_OFF, COME_BACK, Memory, result_messages
from worker.call.models import Models
from worker.call.playout import RATE
from worker.call.scribe import Scribe
from worker.call.telemetry import Telemetry
from worker.call.toolbox import Line, Toolbox
from worker.call.transport import Input, Output
from worker.call.trouble import Troubles
from worker.call.turns import AFTER_NOISE, GIVEN_UP_S, TurnEnd
from worker.call.waiting_words import WaitingWords
from worker.providers import chosen
from worker.providers.chosen import processors
from worker.providers.openai_llm import WarmOpenAILLM
from worker.tools.registry import Session, Tool

log = get(__name__)

START_TIMEOUT_S: Final = 20.0
HUSH_S: Final = 1.0
"""How long an interruption of ours may take to pass the pipeline; it takes milliseconds."""

SETUP_S: Final = 0.02
"""How long the processors take to be set up; the voice's connection is still on its way then, and the models are ours."""


def _nobody(*_news: object) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Kit:
    """What a pipeline is made of, ready before there is one. `agents` are those it may have to be."""

    settings: Settings
    models: Models
    tools: Mapping[str, Tool]
    agents: tuple[Agent, ...] = ()


@dataclass(slots=True)
class Hooks:
    """What the pipeline tells its worker; all are called on the loop and must not block."""

    provider_lost: Callable[[Resource, str], None]
    stage: Callable[[Stage, float], None]
    replied: Callable[[float], None] = _nobody
    voice: Callable[[bool, int], None] = _nobody
    user_said: Callable[[str], None] = _nobody


def log_pipecat() -> None:
    """Send what Pipecat says from WARNING on to our log; its DEBUG formats every frame. Once per process."""
    pipecat_log.remove()
    pipecat_log.add(
        lambda message: log.warning("pipecat", said=str(message).strip()),
        level="WARNING",
        format="{name}: {message}",
        backtrace=False,
        diagnose=False,
    )


class AgentPipeline:
    """The running pipeline of one worker: park it, prepare it for a call, attach the stream."""

    def __init__(self, kit: Kit, hooks: Hooks, scribe: Scribe) -> None:
        settings, models = kit.settings, kit.models
        self._settings, self._models = settings, models
        self._scribe = scribe
        self.waiting_words = WaitingWords(lambda: self.llm.spoke)
        self._toolbox = Toolbox(kit.tools, scribe, self.waiting_words)
        self._hooks = hooks
        self._started = asyncio.Event()
        self._listed: list[str] = []
        self.quiet = asyncio.Event()
        self.quiet.set()
        self._clock = TurnClock(hooks.stage)
        self.input = Input()
        self.output = Output()
        self.troubles = Troubles()
        self._ears = chosen.ears(settings, kit.agents, self.troubles.of(Resource.STT))
        lost, trouble = partial(hooks.provider_lost, Resource.TTS), partial(self.troubles.of, Resource.TTS)
        self.voices = chosen.voices(settings, kit.agents, lost, trouble)
        for agent in reversed(kit.agents or (Agent(),)):
            self._choose(agent)
            self.voice.become(agent)  # connects as the first that it serves
        self.listener = Listener(models, self.input.conclude, self._voice)
        self.llm = WarmOpenAILLM(settings, self.troubles.of(Resource.LLM))
        self.context = LLMContext()
        self._gate = FirstAnswerGate(settings.prefetch_timeout, self._clock, self._user_said)
        probe = FirstTokenProbe(self._clock, scribe.speech_begins)
        self._gate.on_withdrawn = self._withdrawn
        self._turn_end = TurnEnd(models.turn, lambda: self.listener.silent, lambda: self._gate.open_to_guesses)
        self.on_idle: Callable[[], object] = lambda: None
        self._turn_begin = TurnBegin(self.output, self._went_on)
        aggregators = LLMContextAggregatorPair(
            self.context,
            user_params=LLMUserAggregatorParams(
                user_idle_timeout=settings.caller_silence_timeout,
                empty_user_turn=AFTER_NOISE,
                user_turn_strategies=UserTurnStrategies(start=[self._turn_begin], stop=[self._turn_end]),
            ),
        )
        self._turns = aggregators.user()
        self._turn_end.said = self._turns.aggregation_string
        self._turns.add_event_handler("on_user_turn_idle", self._on_idle)
        self.output.on_reply = self._replied
        self.output.on_said = scribe.said
        self.output.on_spoken = scribe.spoken
        self.output.on_cut = scribe.cut
        self.llm.on_used = scribe.used
        for ear in self._ears.values():
            ear.on_used = scribe.used
        for voice in self.voices.values():
            voice.on_used = scribe.used
            voice.on_word = self.output.word
            voice.on_void = self.output.void
        self.output.on_quiet = self.quiet.set
        self.output.more = lambda: not self.quiet.is_set()
        self.llm.on_text = self.quiet.clear
        self.llm.before = lambda context: self._toolbox.mend(context.get_messages())
        self._worker = PipelineWorker(
            Pipeline(
                [
                    self.input,
                    *processors(self._ears),
                    self._turns,
                    self._gate,
                    self.llm,
                    probe,
                    *processors(self.voices),
                    self.output,
                    aggregators.assistant(),
                ]
            ),
            params=PipelineParams(
                audio_in_sample_rate=RATE, audio_out_sample_rate=RATE, send_initial_empty_metrics=False
            ),
            idle_timeout_secs=None,  # 300 s by default, and it would cancel a parked pipeline
            enable_rtvi=False,
            enable_turn_tracking=False,
        )
        self.telemetry = Telemetry(self._worker)
        self._worker.add_event_handler("on_pipeline_started", self._on_started)
        self._runner = WorkerRunner(handle_sigint=False)
        self._running: asyncio.Task[None] | None = None

    def reach(self, line: Line) -> None:
        """Have tools run at the other end of a line, too."""
        self._toolbox.line = line
        line.on_offered = self._tools_changed

    async def start(self) -> None:
        """Run the pipeline and check that it could serve a call: TTS usable, one VAD and one turn inference, tools listed.

        Raises:
            WarmupFailed: names the resource that is not warm.
        """
        await self._runner.add_workers(self._worker)
        self._running = asyncio.create_task(self._runner.run())
        await asyncio.sleep(SETUP_S)
        await self._infer()  # while the voice is connecting
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._started.wait()
        except TimeoutError:
            raise WarmupFailed("pipeline", f"not started within {START_TIMEOUT_S:.0f} s") from None
        if not self.voice.warm():
            why = self.voice.last_error or "the voice provider is not connected"
            raise WarmupFailed(Resource.TTS, why, limited=self.voice.limited)
        self._listed = self._toolbox.names

    def equip(self, tools: Mapping[str, Tool]) -> None:
        """Have these tools, in a pipeline that was started without."""
        self._toolbox.own(tools)
        self._listed = self._toolbox.names
        self._tools_changed()

    def _choose(self, agent: Agent) -> None:
        """Have the ear and the voice of an agent work, and the others stand by."""
        self.ear = self._ears[chosen.ear_of(self._settings, agent)]
        self.voice = self.voices[chosen.voice_of(self._settings, agent)]
        self.troubles.watch(self.voice.trouble)
        for ear in self._ears.values():
            ear.active = ear is self.ear
        for voice in self.voices.values():
            voice.active = voice is self.voice

    def warm(self) -> dict[Resource, bool]:
        """Say what is warm now, by asking each part."""
        running = self._running is not None and not self._running.done()
        return {
            Resource.TOOLS: running and bool(self._listed),
            Resource.VAD: running,
            Resource.TURN: running,
            Resource.TTS: running and self.voice.warm(),
            Resource.STT: running and self.ear.warm(),
            Resource.LLM: running and self.llm.warm(),
        }

    def prepare(self, agent: Agent, session: Session, call: IncomingCall | None = None) -> None:
        """Become the agent of a call: prompt, voice, language and tools. Takes under 5 ms; opens no connection."""
        self.context.set_tools([*self._toolbox.schemas(agent, session, call)])
        self.telemetry.serve(call)
        self._choose(agent)
        self.listener.use(self.ear, agent.turns)
        self._turn_end.use(agent.turns, ear_ends=self.ear.ends_turns)
        self._turns._user_turn_controller._user_turn_stop_timeout = agent.turns.patience + GIVEN_UP_S  # noqa: SLF001 - no setter
        self._turn_begin.use(agent.turns, agent.language)
        self.llm.become(agent)
        self.voice.become(agent)

    def widen(self, stage: ToolStage) -> tuple[str, ...]:
        """Let the model see the tools of a further stage, from its next answer on; gives the names of the new ones."""
        added = self._toolbox.widen(stage)
        if added:
            self._tools_changed()
        return added

    @property
    def busy_s(self) -> float:
        """How long tools that write may go on when the call is over."""
        return self._toolbox.busy_s

    async def finish_writes(self) -> None:
        """Let tools that write come to their end, after the call: the caller was told that it will be done."""
        await self._toolbox.finish()

    def begin(self) -> None:
        """Hold a caller from now on: a lost voice is connected again, instead of ending this worker."""
        self.voice.serve()

    async def open_ear(self, agent: Agent) -> None:
        """Connect the ear; until then the caller's audio is kept."""
        await self.ear.open(agent)

    async def open_mind(self) -> None:
        """Open the model's connection, which nobody needs before the ear."""
        await self.llm.open()

    def add_customer(self, text: str) -> None:
        """Append what is known about the caller to the system instruction, behind the static prompt."""
        self.llm.append_system_instruction(text)

    async def recall(self, memory: Memory) -> None:
        """Take up a conversation that another worker had, and give the answer that is owed in it."""
        self.context.set_messages(list(memory.messages))
        self._gate.recall(sum(message["role"] == "user" for message in memory.messages))
        self._toolbox.recall(memory.results, memory.messages)
        self._tools_changed()
        answer = memory.owed and not memory.unresolved
        for asked in memory.unresolved:
            outcome = await self._toolbox.settle(asked, hung=memory.hung)
            self.context.add_messages(list(result_messages(asked, outcome.result)))
            answer = outcome.answer or answer
        if memory.broke_off and not memory.unresolved:
            self.context.add_message({"role": "developer", "content": BROKEN_OFF})
        elif memory.came_back:
            self.context.add_message({"role": "developer", "content": COME_BACK})
        if answer:
            await self.answer()

    async def answer(self) -> None:
        """Ask the model for an answer now."""
        await self._worker.queue_frame(LLMRunFrame())

    def open_gate(self) -> None:
        """Let the first completion go: the customer is known, or nobody will come."""
        self._gate.open()

    def add_spoken(self, text: str) -> None:
        """Put into the context what the agent said without the model (the greeting)."""
        self.context.add_message({"role": "assistant", "content": text})

    def replace_spoken(self, said: str, heard: str) -> None:
        """Correct in the context what was cut off: the caller heard only `heard` of `said`."""
        messages = list(self.context.get_messages())
        for index, message in enumerate(messages):
            if isinstance(message, dict) and message.get("content") == said:
                messages[index : index + 1] = [{"role": "assistant", "content": heard}] if heard else []
                self.context.set_messages(messages)
                return

    async def speak(self, text: str) -> None:
        """Say a text with the agent's voice and remember it in the context."""
        self.quiet.clear()
        self._scribe.speech_begins()
        await self._worker.queue_frame(TTSSpeakFrame(text=text, append_to_context=True))

    @property
    def spoke(self) -> bool:
        """Whether the completion under way (or the last one) said anything aloud."""
        return self.llm.spoke

    @property
    def waits_for_caller(self) -> bool:
        """Whether it is the caller's turn: the agent neither thinks nor speaks nor runs a tool, and nobody talks."""
        return bool(self._turns._user_idle_controller.waiting_for_user)  # noqa: SLF001 - nobody else knows

    def close_gate(self) -> None:
        """Ask the model for nothing more."""
        self._gate.close()

    async def hush(self) -> None:
        """Stop what is being made of an answer; nothing interrupts what is said from then on."""
        done = self.output.next_interruption
        await self._worker.queue_frame(InterruptionFrame())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HUSH_S):
                await done.wait()
        self.output.firm = True

    async def stop(self) -> None:
        """Close the providers' connections politely; the caller bounds the time and then ends the process."""
        await self._worker.cancel()
        await self.telemetry.end()
        if self._running is not None:
            await self._running

    async def _infer(self) -> None:
        try:
            await self._models.vad.analyze_audio(bytes(2 * self._models.vad.num_frames_required()))
        except Exception as error:
            raise WarmupFailed(Resource.VAD, str(error)) from error
        try:
            self._models.turn.append_audio(bytes(RATE // 5), is_speech=True)
            await self._models.turn.analyze_end_of_turn()
            self._models.turn.clear()
        except Exception as error:
            raise WarmupFailed(Resource.TURN, str(error)) from error

    def _tools_changed(self) -> None:
        self.context.set_tools([*self._toolbox.seen()])

    def _user_said(self, text: str) -> None:
        self._toolbox.forget()
        self._scribe.user_said(text)
        self._hooks.user_said(text)

    async def _withdrawn(self, wanted: bool) -> None:  # noqa: FBT001 - the signature is the gate's
        """Forget an answer that was begun before the caller had finished; ask for another when that is known by now."""
        self.quiet.set()
        if wanted:
            await self.answer()

    def _voice(self, speaking: bool, seen: int) -> None:  # noqa: FBT001 - the signature is the gate's
        self._hooks.voice(speaking, seen)

    def _went_on(self, said: str) -> None:
        self._clock.was_no_turn()
        log.info("not interrupted", by="backchannel" if said else "noise")

    def _replied(self, at: float) -> None:
        self._clock.audio(at)
        self._hooks.replied(at)

    async def _on_idle(self, *_args: Any) -> None:
        self.on_idle()

    async def _on_started(self, *_args: Any) -> None:
        self._started.set()
