"""`get_current_time`: what time it is where the business is."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from worker.tools.registry import Outcome, Tool, ToolCall


async def run(call: ToolCall) -> Outcome:
    """Tell the time in the agent's time zone, or in the one the model asks for; an unknown zone is said in words."""
    zone = str(call.arguments.get("timezone") or call.session.agent.timezone)
    try:
        now = datetime.now(UTC).astimezone(ZoneInfo(zone))
    except (ZoneInfoNotFoundError, ValueError, OSError):  # `Europe` is a folder
        return Outcome({"error": f"There is no time zone called {zone}. Use an IANA name such as America/Sao_Paulo."})
    return Outcome(
        {"time": now.strftime("%H:%M"), "weekday": now.strftime("%A"), "date": now.date().isoformat(), "timezone": zone}
    )


TOOL = Tool(
    name="get_current_time",
    description="Get the current time, weekday and date at the business.",
    run=run,
    parameters={
        "timezone": {"type": "string", "description": "IANA time zone, only when the caller asks about another place."}
    },
)
