"""How long a worker takes to become the agent of a call, without any process around it: `python -m tests.bench.becoming`.

Prints a JSON list of seconds: what a reservation waits for before the worker opens its connections. The prompt with its
variables, voice, language, greeting, and every tool there is, beside twenty tools of an MCP server.
"""

from __future__ import annotations

import asyncio
import gc
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from pydantic import SecretStr

from shared.agents_file import load_agents
from shared.calls import CallSid, IncomingCall, TraceId
from shared.settings import Settings
from shared.variables import Values
from tests.standins import pipecat_rig  # noqa: F401 - imports Pipecat without the warnings it gives itself
from worker.call.child import _Child, load
from worker.call.pipeline import AgentPipeline, Hooks
from worker.call.scribe import Scribe
from worker.call.serving import Serving
from worker.call.toolbox import NoLine
from worker.tools.registry import Outcome, Tool, ToolCall

if TYPE_CHECKING:
    from collections.abc import Mapping

ROUNDS: Final = 200
AGENTS: Final = Path(__file__).resolve().parents[2] / "deploy" / "agents.example.toml"
CALL: Final = IncomingCall(call_sid=CallSid("CA1"), caller="+5511987654321", called="+1", trace_id=TraceId("0"))


class Line(NoLine):
    """A tool host that offers twenty tools and is never asked to run one."""

    def __init__(self) -> None:
        super().__init__()
        schema = {"type": "object", "properties": {name: {"type": "string"} for name in ("a", "b", "c")}}
        self.offered: Mapping[str, Tool] = {
            f"stock_{number}": Tool(f"stock_{number}", "", _nothing, parameters=schema, place="host")
            for number in range(20)
        }

    def available(self, tool: Tool) -> bool:
        """Have everything."""
        return bool(tool.name)


async def _nothing(_call: ToolCall) -> Outcome:
    return Outcome({})


async def main() -> None:
    """Become the agents of the example in turn."""
    key = SecretStr("made-up")
    settings = Settings(
        _env_file=None, cartesia_api_key=key, openai_api_key=key, cartesia_voice_id="v", agents_file=AGENTS
    )
    loaded = load(settings)
    gc.collect()
    gc.freeze()  # as the zygote does
    agents = list(load_agents(AGENTS).all)
    took: list[float] = []
    for number in range(ROUNDS):
        scribe = Scribe(lambda _message: None)
        hooks = Hooks(lambda _resource, _why: None, lambda _stage, _seconds: None)
        pipeline = AgentPipeline(loaded, hooks, scribe)
        pipeline.reach(Line())
        serving = Serving(settings, loaded.recordings, pipeline, lambda _message: None, scribe)
        agent = agents[number % len(agents)]
        child = cast("Any", _Child).__new__(_Child)
        child._pipeline, child._serving, child._agent = pipeline, serving, agent
        began = time.perf_counter()
        serving.use(agent)
        pipeline.prepare(agent, serving.session, CALL)
        child._know(Values(CALL.caller, CALL.called, agent.name, agent.timezone))
        took.append(time.perf_counter() - began)
    print(json.dumps(took))


if __name__ == "__main__":
    asyncio.run(main())
