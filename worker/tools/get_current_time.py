"""`get_current_time`: what time it is where the business is."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, Field

from worker.tools.registry import Outcome, Tool, ToolCall, ToolError


class Arguments(BaseModel):
    """What the model may say."""

    timezone: str | None = Field(None, description="IANA time zone, only when the caller asks about another place.")


async def run(call: ToolCall) -> Outcome:
    """Tell the time in the agent's time zone, or in the one the model asks for; an unknown zone is said in words."""
    zone = call.arguments.timezone or call.agent.timezone
    try:
        now = datetime.now(UTC).astimezone(ZoneInfo(zone))
    except (ZoneInfoNotFoundError, ValueError, OSError):  # `Europe` is a folder
        raise ToolError(f"There is no time zone called {zone}. Use an IANA name such as America/Sao_Paulo.") from None
    return Outcome(
        {"time": now.strftime("%H:%M"), "weekday": now.strftime("%A"), "date": now.date().isoformat(), "timezone": zone}
    )


TOOL = Tool(
    name="get_current_time",
    description="Get the current time, weekday and date at the business.",
    run=run,
    arguments=Arguments,
    stage="critical",
    repeatable=True,
    quick=True,
)
