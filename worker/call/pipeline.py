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
from worker.call.playout import RATE
from worker.call.transport import Input, Output
from worker.call.trouble import Troubles
from worker.providers.cartesia_stt import ParkedCartesiaSTT
from worker.providers.cartesia_tts import ParkedCartesiaTTS
from worker.providers.openai_llm import WarmOpenAILLM
from worker.tools.registry import Session, Tool, ToolCall

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


@dataclass(slots=True)
class Hooks:
    """What the pipeline tells its worker; all are called on the loop and must not block."""

    provider_lost: Callable[[Resource, str], None]
    stage: Callable[[Stage, float], None]
    user_said: Callable[[str], None]
    agent_said: Callable[[str], None]
    replied: Callable[[float], None]
    tool_started: Callable[[str, str, Mapping[str, Any]], None]
    tool_ended: Callable[[str, str, Mapping[str, Any]], None]


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

    def __init__(self, settings: Settings, models: Models, tools: Mapping[str, Tool], hooks: Hooks) -> None:
        self._models = models
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
        self.troubles = Troubles()
        self.stt = ParkedCartesiaSTT(settings, self.troubles.of(Resource.STT))
        self.tts = ParkedCartesiaTTS(
            settings, lambda why: hooks.provider_lost(Resource.TTS, why), self.troubles.of(Resource.TTS)
        )
        self.llm = WarmOpenAILLM(settings, self.troubles.of(Resource.LLM))
        self.context = LLMContext()
        self._gate = FirstAnswerGate(settings.prefetch_timeout, self._clock, hooks.user_said)
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
        self.output.on_said = hooks.agent_said
        self.output.on_quiet = self.quiet.set
        self.tts.on_word = self.output.word
        self.tts.on_void = self.output.void
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
            why = self.tts.last_error or "the voice provider is not connected"
            raise WarmupFailed(Resource.TTS, why, limited=self.tts.limited)
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
        assert self._session is not None  # noqa: S101 - tools are given to the model by `prepare` only
        self._hooks.tool_started(params.tool_call_id, tool.name, params.arguments)
        result: Mapping[str, Any]
        answer = True
        try:
            async with asyncio.timeout(tool.timeout_s):
                outcome = await tool.run(ToolCall(params.tool_call_id, params.arguments, self._session))
            result, answer = outcome.result, outcome.answer
        except TimeoutError:
            result = {"error": "This took too long and was given up."}
        except Exception as error:
            log.exception("tool failed", tool=tool.name)
            result = {"error": f"This did not work: {error}"}
        self._hooks.tool_ended(params.tool_call_id, tool.name, result)
        await params.result_callback(
            dict(result), properties=FunctionCallResultProperties(run_llm=None if answer else False)
        )

    def _first_token(self) -> None:
        self.quiet.clear()

    def _replied(self, at: float) -> None:
        self._clock.audio(at)
        self._hooks.replied(at)

    async def _on_started(self, *_args: Any) -> None:
        self._started.set()
