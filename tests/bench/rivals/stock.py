"""The stock Pipecat Twilio bot, as Pipecat 1.14's own example and quickstart build one, on the services measured here.

    python -m tests.bench.rivals.stock --cartesia PORT --openai PORT

Everything of a call is made after its media WebSocket has opened: serializer, transport, speech recognition, model, voice,
local models, pipeline; the greeting is a completion. Turn strategies, metrics and buffers are Pipecat's defaults. What differs
from the example, each in this bot's favour: no hang-up over REST and no look-up of the caller over REST (there are no
credentials, and the look-up would delay the greeting), no recording of the call, INFO in place of DEBUG, no garbage collection
forced after a call.

Source: Pipecat 1.14, inbound Twilio example and quickstart, in our own words.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.frames.frames import LLMRunFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair, LLMUserAggregatorParams
from pipecat.runner.utils import parse_telephony_websocket
from pipecat.serializers.twilio import TwilioFrameSerializer
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams, FastAPIWebsocketTransport
from pipecat.workers.runner import WorkerRunner

from tests.bench.rivals.serving import Connected, Options, options, serve

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # Pipecat imports its own old names
    from pipecat.services.cartesia.stt import CartesiaSTTService
    from pipecat.services.cartesia.tts import CartesiaTTSService
    from pipecat.services.openai.llm import OpenAILLMService

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from fastapi import WebSocket

    Greet = Callable[[PipelineWorker, LLMContext], Coroutine[Any, Any, None]]

PROMPT = "You are a friendly receptionist on the telephone. Answer in one or two short spoken sentences, without lists or markup."
RATE = 8000


async def bot(websocket: WebSocket, chosen: Options) -> None:
    """Serve one call."""
    _, call = await parse_telephony_websocket(websocket)
    transport = transport_of(websocket, call["stream_id"])
    await converse(transport, chosen, call["call_id"], Flow(greet))


async def greet(worker: PipelineWorker, context: LLMContext) -> None:
    """Have the model introduce itself."""
    context.add_message({"role": "user", "content": "Please introduce yourself to the user."})
    await worker.queue_frames([LLMRunFrame()])


def transport_of(websocket: WebSocket, stream_sid: str) -> FastAPIWebsocketTransport:
    """Put Pipecat's Twilio serializer and its FastAPI transport around an accepted socket."""
    serializer = TwilioFrameSerializer(
        stream_sid=stream_sid, params=TwilioFrameSerializer.InputParams(auto_hang_up=False)
    )
    return FastAPIWebsocketTransport(
        websocket=websocket,
        params=FastAPIWebsocketParams(audio_in_enabled=True, audio_out_enabled=True, serializer=serializer),
    )


@dataclass(frozen=True, slots=True)
class Flow:
    """What one call is begun with: how it is greeted, and what was found out before."""

    greet: Greet
    tools: tuple[Any, ...] = ()
    facts: str = ""


async def converse(transport: FastAPIWebsocketTransport, chosen: Options, call_sid: str, flow: Flow) -> None:
    """Build services, local models and pipeline, greet, and talk until the caller has gone."""
    cartesia = f"ws://127.0.0.1:{chosen.cartesia}"
    llm = OpenAILLMService(
        api_key="sk-stand-in",
        base_url=f"http://127.0.0.1:{chosen.openai}/v1",
        settings=OpenAILLMService.Settings(model=chosen.model, system_instruction=PROMPT + flow.facts),
    )
    stt = CartesiaSTTService(api_key="cartesia-stand-in", base_url=cartesia)
    tts = CartesiaTTSService(
        api_key="cartesia-stand-in",
        url=f"{cartesia}/tts/websocket",
        settings=CartesiaTTSService.Settings(voice="voice-stand-in"),
    )
    context = LLMContext(tools=[*flow.tools]) if flow.tools else LLMContext()
    listener, speaker = LLMContextAggregatorPair(
        context, user_params=LLMUserAggregatorParams(vad_analyzer=SileroVADAnalyzer())
    )
    worker = PipelineWorker(
        Pipeline([transport.input(), stt, listener, llm, tts, transport.output(), speaker]),
        params=PipelineParams(
            audio_in_sample_rate=RATE, audio_out_sample_rate=RATE, enable_metrics=True, enable_usage_metrics=True
        ),
    )
    connected = Connected(call_sid)

    # Pipecat awaits handlers that are coroutine functions, and only those

    async def ear_stands(*_: object) -> None:
        connected.have("stt")

    async def voice_stands(*_: object) -> None:
        connected.have("tts")

    async def pipeline_stands(*_: object) -> None:
        connected.have("pipeline")

    async def client_connected(*_: object) -> None:
        await flow.greet(worker, context)

    async def client_gone(*_: object) -> None:
        await worker.cancel()

    stt.add_event_handler("on_connected", ear_stands)
    tts.add_event_handler("on_connected", voice_stands)
    worker.add_event_handler("on_pipeline_started", pipeline_stands)
    transport.add_event_handler("on_client_connected", client_connected)
    transport.add_event_handler("on_client_disconnected", client_gone)
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await runner.run()


if __name__ == "__main__":
    serve(options(), bot)
