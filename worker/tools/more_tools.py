"""`more_tools`: an agent that begins with few tools gets further ones when a caller needs them."""

from collections.abc import Mapping
from typing import Final, Literal

from pydantic import BaseModel, Field

from shared.agents import STAGES
from worker.tools.registry import Outcome, Tool, ToolCall, ToolError

NAME: Final = "more_tools"


class Arguments(BaseModel):
    """What the model may say."""

    stage: Literal["essential", "full"] = Field(
        description="essential: customers and appointments. full: also facts, messages, changes, everything else."
    )


def tool(described: Mapping[str, Tool]) -> Tool:
    """Make the tool; it has a line for each of the tools that are described here, and the names of all others."""

    async def run(call: ToolCall) -> Outcome:
        """Let the model see the tools of a further stage, from its next answer on."""
        if call.session is None:
            raise ToolError("There is no call: all tools are listed already.")
        added = call.session.widen(call.arguments.stage)
        if not added:
            return Outcome({"stage": call.arguments.stage, "note": "There are no further tools in this stage."})
        lines = {name: described[name].description if name in described else "" for name in added}
        return Outcome({"stage": call.arguments.stage, "tools": lines, "note": "You can use them now."})

    return Tool(
        name=NAME,
        description="Get further tools when the caller asks for what yours cannot do. Then go on by yourself.",
        run=run,
        arguments=Arguments,
        stage="critical",
        repeatable=True,
        quick=True,
        offered=lambda _agent, stage: stage != STAGES[-1],
    )
