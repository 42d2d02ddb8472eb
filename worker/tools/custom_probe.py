"""Loads the files of a folder in a process of its own, where they can do no harm, and says what came of each.

    python -m worker.tools.custom_probe --report-fd N FOLDER FILE...

Started by `custom_check`. Each file is announced before it is run; of a file
that ends the process, or hangs, nothing but the announcement is heard. What files print goes to stderr.
"""

import argparse
import faulthandler
import os
import threading
import traceback
from pathlib import Path
from typing import Any, Final, NoReturn, Self

import msgspec

from worker.tools.builtin import BUILT_IN
from worker.tools.custom_check import WHERE_SIGNAL
from worker.tools.custom_files import load_file, open_folder, threads
from worker.tools.custom_report import Begun, Broken, Line, Named, Trouble, trouble_in

_STDOUT: Final = 1
_STDERR: Final = 2


class _Starts:
    """Notes which line of a file starts a thread."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._start = threading.Thread.start
        self.line = 1

    def __enter__(self) -> Self:
        def noted(thread: threading.Thread) -> None:
            lines = [frame.lineno for frame in traceback.extract_stack() if frame.filename == self._path]
            self.line = (lines[-1] if lines else None) or 1
            self._start(thread)

        setattr(threading.Thread, "start", noted)  # noqa: B010 - its own type knows no other
        return self

    def __exit__(self, *_error: object) -> None:
        threading.Thread.start = self._start  # type: ignore[method-assign]


def _probe(path: Path) -> Named | Trouble:
    before = threads()
    try:
        with _Starts(path) as starts:
            _, named = load_file(path)
    except Broken as broken:
        found: Named | Trouble = broken.trouble
    else:
        found = named
        if named.name in BUILT_IN:
            found = trouble_in(path, named.line, f"{named.name} is the name of a tool that is built in")
    if started := threads() - before:
        why = f"it starts {len(started)} thread(s) when it is loaded: start them when the tool is called"
        return trouble_in(path, starts.line, why)
    return found


def _leave(status: Any = 0) -> NoReturn:
    raise SystemExit(f"os._exit({status})")


def main(arguments: list[str] | None = None) -> None:
    """Load each file and report on it; leave at once, whatever they have left running."""
    parser = argparse.ArgumentParser(prog="python -m worker.tools.custom_probe", description="Loads files of tools.")
    parser.add_argument("--report-fd", type=int, required=True, help="where the report is written")
    parser.add_argument("folder", type=Path)
    parser.add_argument("files", nargs="*")
    options = parser.parse_args(arguments)
    report, leave = options.report_fd, os._exit
    os.set_inheritable(report, False)
    os.dup2(_STDERR, _STDOUT)
    faulthandler.enable(report)
    faulthandler.register(WHERE_SIGNAL, report, all_threads=True)
    os._exit = _leave  # a file that leaves is caught with its line
    import numpy as np  # noqa: F401 - it starts threads of its own; workers have them, or have been told not to

    open_folder(options.folder)
    for name in options.files:
        _write(report, Begun(name))
        _write(report, _probe(options.folder / name))
    leave(0)


def _write(report: int, line: Line) -> None:
    os.write(report, msgspec.json.encode(line) + b"\n")


if __name__ == "__main__":
    main()
