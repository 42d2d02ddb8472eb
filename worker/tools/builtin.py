"""The tools every installation has."""

from typing import Final

from worker.tools import end_call, get_current_time
from worker.tools.registry import Tool, by_name

BUILT_IN: Final[dict[str, Tool]] = by_name([get_current_time.TOOL, end_call.TOOL])
