"""The flow this project replaces, on Pipecat 1.14: one thing after another once the media WebSocket has opened.

    python -m tests.bench.rivals.old_flow --cartesia PORT --openai PORT --supabase PORT --tools PORT

Tools are listed from an MCP server, the customer is looked up, and only then are local models, services and pipeline built; the
greeting is a sentence for the voice behind all of that. From there on it is the stock bot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mcp.client.session_group import StreamableHttpParameters
from pipecat.frames.frames import TTSSpeakFrame
from pipecat.runner.utils import parse_telephony_websocket
from pipecat.services.mcp_service import MCPClient
from supabase import acreate_client

from tests.bench.rivals.serving import Options, options, serve
from tests.bench.rivals.stock import Flow, converse, transport_of

if TYPE_CHECKING:
    from fastapi import WebSocket
    from pipecat.pipeline.worker import PipelineWorker
    from pipecat.processors.aggregators.llm_context import LLMContext

GREETING = "Hello, thanks for calling. This is the virtual receptionist. How can I help you today?"


async def bot(websocket: WebSocket, chosen: Options) -> None:
    """Serve one call."""
    _, call = await parse_telephony_websocket(websocket)
    client = MCPClient(StreamableHttpParameters(url=f"http://127.0.0.1:{chosen.tools}/mcp"))
    tools = await client.tools()
    facts = await look_up(chosen, str(call["body"].get("caller", "")))
    transport = transport_of(websocket, call["stream_id"])
    await converse(transport, chosen, call["call_id"], Flow(greet, tuple(tools.standard_tools), facts))


async def greet(worker: PipelineWorker, context: LLMContext) -> None:
    """Have the voice say the greeting."""
    del context
    await worker.queue_frames([TTSSpeakFrame(GREETING)])


async def look_up(chosen: Options, phone: str) -> str:
    """Ask the database who calls, with a client made for this call."""
    client = await acreate_client(f"http://127.0.0.1:{chosen.supabase}", "sb_secret_stand_in")
    found: Any = await client.table("customers").select("*").eq("phone", phone).limit(1).execute()
    return f"\nThe caller: {found.data[0]}" if found.data else ""


if __name__ == "__main__":
    serve(options(), bot)
