"""`end_call`: say goodbye, let it be heard, hang up."""

from worker.tools.registry import Outcome, Tool, ToolCall, ToolError


async def run(call: ToolCall) -> Outcome:
    """End the call once the goodbye was heard. An interruption cancels it: the caller has something more to say."""
    if call.session is None:
        raise ToolError("There is no call to end.")
    await call.session.hang_up()
    return Outcome({"status": "the call is over"}, answer=False)


TOOL = Tool(
    name="end_call",
    description="End the call after the caller said goodbye. Say goodbye in the same answer.",
    run=run,
    stage="critical",
    timeout_s=60.0,
    repeatable=True,
    quick=True,
)
