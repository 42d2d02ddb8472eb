"""The agent: one Pipecat pipeline, built and running before any call exists.

Built once per worker and thrown away with it: neither services nor analyzers can be used for a second call. This module and
its neighbours `transport`, `gate` and the providers are the only ones that know Pipecat.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from loguru import logger as pipecat_log
from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
from pipecat.audio.turn.smart_turn.local_smart_turn_v3 import LocalSmartTurnAnalyzerV3
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.audio.vad.vad_analyzer import VADParams
from pipecat.frames.frames import (
    FunctionCallResultProperties,
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
from pipecat.services.llm_service import FunctionCallParams
from pipecat.turns.user_start import TranscriptionUserTurnStartStrategy, VADUserTurnStartStrategy
from pipecat.turns.user_stop import TurnAnalyzerUserTurnStopStrategy
from pipecat.turns.user_turn_strategies import UserTurnStrategies
from pipecat.workers.runner import WorkerRunner

from shared.agents import Agent
from shared.errors import WarmupFailed
from shared.logs import get
from shared.metrics import Stage
from shared.settings import Settings
from shared.workers import Resource
from worker.call.gate import FirstAnswerGate, FirstTokenProbe, TurnClock
from worker.call.memory import BROKEN_OFF, UNKNOWN_OUTCOME, Asked, Memory, result_messages
from worker.call.playout import RATE
from worker.call.scribe import Scribe
from worker.call.transport import Input, Output
from worker.providers.cartesia_stt import ParkedCartesiaSTT
from worker.providers.cartesia_tts import ParkedCartesiaTTS
from worker.providers.openai_llm import WarmOpenAILLM
from worker.tools.registry import Outcome, Session, Tool, ToolCall

log = get(__name__)

START_TIMEOUT_S: Final = 20.0
SETUP_S: Final = 0.02
"""How long the processors take to be set up; the voice's connection is still on its way then, and the models are ours."""

MIN_VOLUME: Final = 0.3
"""Pipecat's 0.6 is for microphones; telephone speech at -20 dBFS stays below it."""


@dataclass(frozen=True, slots=True)
class Models:
    """The local models, loaded in the zygote. Every fork has its own copy of their state; the weights are shared."""

    vad: SileroVADAnalyzer
    turn: LocalSmartTurnAnalyzerV3


def _nobody(_news: object) -> None:
    pass


@dataclass(slots=True)
class Hooks:
    """What the pipeline tells its worker; all are called on the loop and must not block."""

    provider_lost: Callable[[Resource, str], None]
    stage: Callable[[Stage, float], None]
    replied: Callable[[float], None] = _nobody
    voice: Callable[[bool], None] = _nobody
    user_said: Callable[[str], None] = _nobody


def load_models() -> Models:
    """Load the models and run each once, without starting a thread: for the zygote."""
    pipecat_log.remove()
    vad = SileroVADAnalyzer(sample_rate=RATE, params=VADParams(min_volume=MIN_VOLUME))
    turn = LocalSmartTurnAnalyzerV3(sample_rate=RATE)
    vad.set_sample_rate(RATE)
    turn.set_sample_rate(RATE)
    vad.voice_confidence(bytes(2 * vad.num_frames_required()))
    vad._model.reset_states()  # noqa: SLF001 - the rehearsal must leave no trace in a caller's stream
    turn._predict_endpoint(np.zeros(RATE, dtype=np.float32))  # noqa: SLF001 - as above, without its thread
    return Models(vad, turn)


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

    def __init__(
        self, settings: Settings, models: Models, tools: Mapping[str, Tool], hooks: Hooks, scribe: Scribe
    ) -> None:
        self._models = models
        self._scribe = scribe
        self._given: dict[str, Mapping[str, Any]] = {}  # what tools gave to a predecessor since the caller last spoke
        self._tools = tools
        self._hooks = hooks
        self._session: Session | None = None
        self._started = asyncio.Event()
        self._listed: list[str] = []
        self.quiet = asyncio.Event()
        self.quiet.set()
        self._clock = TurnClock(hooks.stage)
        self.input = Input()
        self.output = Output()
        self.stt = ParkedCartesiaSTT(settings)
        self.tts = ParkedCartesiaTTS(settings, lambda why: hooks.provider_lost(Resource.TTS, why))
        self.llm = WarmOpenAILLM(settings)
        self.context = LLMContext()
        self._gate = FirstAnswerGate(settings.prefetch_timeout, self._clock, self._user_said, self._voice)
        probe = FirstTokenProbe(self._clock, self._first_token)
        aggregators = LLMContextAggregatorPair(
            self.context,
            user_params=LLMUserAggregatorParams(
                vad_analyzer=models.vad,
                user_turn_strategies=UserTurnStrategies(
                    start=[VADUserTurnStartStrategy(), TranscriptionUserTurnStartStrategy()],
                    stop=[TurnAnalyzerUserTurnStopStrategy(turn_analyzer=models.turn)],
                ),
            ),
        )
        self.output.on_reply = self._replied
        self.output.on_said = scribe.said
        self.output.on_spoken = scribe.spoken
        self.output.on_quiet = self.quiet.set
        self.tts.on_word = self.output.word
        self._worker = PipelineWorker(
            Pipeline(
                [
                    self.input,
                    self.stt,
                    aggregators.user(),
                    self._gate,
                    self.llm,
                    probe,
                    self.tts,
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
        self._worker.add_event_handler("on_pipeline_started", self._on_started)
        self._runner = WorkerRunner(handle_sigint=False)
        self._running: asyncio.Task[None] | None = None

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
        if not self.tts.warm():
            raise WarmupFailed(Resource.TTS, self.tts.last_error or "the voice provider is not connected")
        self._listed = list(self._tools)

    def warm(self) -> dict[Resource, bool]:
        """Say what is warm now, by asking each part."""
        running = self._running is not None and not self._running.done()
        return {
            Resource.TOOLS: running and bool(self._listed),
            Resource.VAD: running,
            Resource.TURN: running,
            Resource.TTS: running and self.tts.warm(),
            Resource.STT: running and self.stt.warm(),
            Resource.LLM: running and self.llm.warm(),
        }

    def prepare(self, agent: Agent, session: Session) -> None:
        """Become the agent of a call: prompt, voice, language and tools. Takes under 5 ms; opens no connection."""
        self._session = session
        self.context.set_tools([self._schema(self._tools[name]) for name in agent.tools if name in self._tools])
        self.llm.become(agent)
        self.tts.become(agent)

    def begin(self) -> None:
        """Hold a caller from now on: a lost voice is connected again, instead of ending this worker."""
        self.tts.serving = True

    async def open_ear(self, agent: Agent) -> None:
        """Connect the ear; until then the caller's audio is kept."""
        await self.stt.open(agent)

    async def open_mind(self) -> None:
        """Open the model's connection, which nobody needs before the ear."""
        await self.llm.open()

    def add_customer(self, text: str) -> None:
        """Append what is known about the caller to the system instruction, behind the static prompt."""
        self.llm.append_system_instruction(text)

    async def recall(self, memory: Memory) -> None:
        """Take up a conversation that another worker had, and give the answer that is owed in it."""
        self.context.set_messages(list(memory.messages))
        self._gate.recall(len(memory.messages))
        self._given = dict(memory.results)
        answer = memory.owed
        for asked in memory.unresolved:
            answer = await self._settle(asked) or answer
        if memory.broke_off and not memory.unresolved:
            self.context.add_message({"role": "developer", "content": BROKEN_OFF})
        if answer:
            await self.answer()

    async def answer(self, note: str = "") -> None:
        """Ask the model for an answer now; `note` tells it why."""
        if note:
            self.context.add_message({"role": "developer", "content": note})
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
        return self._clock.spoke

    async def stop(self) -> None:
        """Close the providers' connections politely; the caller bounds the time and then ends the process."""
        await self._worker.cancel()
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

    def _schema(self, tool: Tool) -> FunctionSchema:
        async def handler(params: FunctionCallParams) -> None:
            await self._run_tool(tool, params)

        return FunctionSchema(
            name=tool.name,
            description=tool.description,
            properties=dict(tool.parameters),
            required=list(tool.required),
            handler=handler,
        )

    async def _run_tool(self, tool: Tool, params: FunctionCallParams) -> None:
        asked = Asked(params.tool_call_id, tool.name, params.arguments)
        known = self._given.get(asked.same)
        outcome = await self._outcome(tool, asked) if known is None else Outcome(known)
        await params.result_callback(
            dict(outcome.result), properties=FunctionCallResultProperties(run_llm=None if outcome.answer else False)
        )

    async def _outcome(self, tool: Tool, asked: Asked) -> Outcome:
        """Run a tool, between two entries of the journal."""
        assert self._session is not None  # noqa: S101 - tools are given to the model by `prepare` only
        self._scribe.tool_started(asked.id, tool.name, asked.arguments)
        try:
            async with asyncio.timeout(tool.timeout_s):
                outcome = await tool.run(ToolCall(asked.id, asked.arguments, self._session))
        except TimeoutError:
            outcome = Outcome({"error": "This took too long and was given up."})
        except Exception as error:
            log.exception("tool failed", tool=tool.name)
            outcome = Outcome({"error": f"This did not work: {error}"})
        self._scribe.tool_ended(asked.id, outcome.result, answer=outcome.answer)
        return outcome

    async def _settle(self, asked: Asked) -> bool:
        """Find out what became of a tool call whose worker died; say whether the model has something to answer to."""
        tool = self._tools.get(asked.name)
        outcome: Outcome | None = None
        if tool is not None and tool.repeatable:
            outcome = await self._outcome(tool, asked)
        else:
            outcome = await self._looked_up(tool, asked) or Outcome(UNKNOWN_OUTCOME)
            self._given[asked.same] = outcome.result  # the model may ask for the same again: it is not run again
            self._scribe.tool_ended(asked.id, outcome.result, answer=outcome.answer)
            log.warning("tool call settled", tool=asked.name, known=outcome.result is not UNKNOWN_OUTCOME)
        self.context.add_messages(list(result_messages(asked, outcome.result)))
        return outcome.answer

    async def _looked_up(self, tool: Tool | None, asked: Asked) -> Outcome | None:
        assert self._session is not None  # noqa: S101 - as above
        if tool is None or tool.lookup is None:
            return None
        try:
            async with asyncio.timeout(tool.timeout_s):
                return await tool.lookup(ToolCall(asked.id, asked.arguments, self._session))
        except Exception:
            log.exception("tool call not found", tool=tool.name)
            return None

    def _user_said(self, text: str) -> None:
        self._given.clear()
        self._scribe.user_said(text)
        self._hooks.user_said(text)

    def _voice(self, speaking: bool) -> None:  # noqa: FBT001 - the signature is the gate's
        self._hooks.voice(speaking)

    def _first_token(self) -> None:
        self._scribe.speech_begins()
        self.quiet.clear()

    def _replied(self, at: float) -> None:
        self._clock.audio(at)
        self._hooks.replied(at)

    async def _on_started(self, *_args: Any) -> None:
        self._started.set()
