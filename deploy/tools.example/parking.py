"""An example of a tool of your own. Set TOOLS_DIR to a folder of files like this one; each has one decorated function.

What a file needs beyond Python and this project must be installed beside them. A file is loaded before any call, and twice
(a check comes first): connections are opened when the tool is called, not here.
"""

from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from _parking import spaces_on

from worker.tools.custom import CallInfo, ToolError, tool


@tool(stage="essential", timeout_s=3.0, repeatable=True)
def parking(info: CallInfo, day: date | None = None, cars: int = 1) -> dict[str, Any]:
    """Say whether a visitor can park at the house.

    Args:
        info: Filled in for every call; the model does not see it.
        day: The day of the visit, today when the caller named none.
        cars: How many cars come.
    """
    today = datetime.now(ZoneInfo(info.timezone)).date()
    visit = day or today
    if visit < today:
        raise ToolError("That day is over. Ask the caller which day they mean.")
    return {"day": visit, "room": cars <= spaces_on(visit), "where": "behind the house, entrance in Elm Street"}
