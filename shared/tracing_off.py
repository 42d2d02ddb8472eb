"""Keeps OpenTelemetry out of a process that was not asked for traces.

redis and Pipecat load it wherever it is installed (60 modules), and look for it once, when they are loaded themselves. So
it cannot be found until that is done. Who wants it later, a tool of somebody's or `shared.tracing`, finds it.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Final

LIBRARY: Final = "opentelemetry"


class _Hidden(MetaPathFinder):
    """Finds nothing, and lets nobody else look for one library."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Say that the library is not installed."""
        del path, target
        if fullname.partition(".")[0] == LIBRARY:
            raise ModuleNotFoundError(f"{LIBRARY} is hidden while others are loaded", name=fullname)
        return None


_hidden: Final = _Hidden()


def hide() -> None:
    """Let nobody find the library from now on; harmless for a process that has it by now."""
    if _hidden not in sys.meta_path:
        sys.meta_path.insert(0, _hidden)


def over() -> None:
    """Let everybody find it again."""
    if _hidden in sys.meta_path:
        sys.meta_path.remove(_hidden)
