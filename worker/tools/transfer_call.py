"""`transfer_call`: the caller is connected to a person."""

from worker.tools.registry import Outcome, Tool, ToolCall, ToolError


async def run(call: ToolCall) -> Outcome:
    """Connect the caller once what the agent says was heard. An interruption cancels it: the caller has something to say."""
    if call.session is None:
        raise ToolError("There is no call to transfer.")
    if not call.agent.transfer_number:
        raise ToolError("There is nobody to transfer the caller to. Offer to take a note.")
    await call.session.transfer()
    return Outcome({"status": "the caller is being connected"}, answer=False)


TOOL = Tool(
    name="transfer_call",
    description="Connect the caller to a person, when they ask for one. Say so in the same answer.",
    run=run,
    stage="critical",
    timeout_s=60.0,
    repeatable=True,
    quick=True,
    offered=lambda agent, _stage: bool(agent.transfer_number),
)
