"""Loads the files of `TOOLS_DIR`: each by itself, so that a broken one leaves out its own tool and is named with its line.

A file is not imported under its own name, which may be that of anybody's module, but as `offhook_tools.<name>`; the folder is at
the end of the search path all the same, so that files can import what they share.
"""

import io
import re
import sys
import tokenize
import traceback
import types
from pathlib import Path
from typing import Final

from worker.tools.custom import LISTED, Marked
from worker.tools.custom_report import Broken, Named, trouble_in
from worker.tools.custom_run import Runner
from worker.tools.custom_signature import BadSignature, describe, line_of
from worker.tools.registry import Tool

PACKAGE: Final = "offhook_tools"

NAME: Final = re.compile(r"[A-Za-z0-9_]{1,64}")
"""Source: OpenAI API reference, chat completions, `tools[].function.name`."""


def open_folder(folder: Path) -> None:
    """Let the files of a folder import each other; opening it again does no harm."""
    package = types.ModuleType(PACKAGE, "The files of `TOOLS_DIR`.")
    package.__path__ = [str(folder)]
    sys.modules[PACKAGE] = package
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def load_file(path: Path) -> tuple[Tool, Named]:
    """Run a file and make a tool of the function it decorates. Its folder has been opened (`open_folder`).

    Raises:
        Broken: with the line at fault.
    """
    source = _source(path)
    module = _module(path, source)
    try:
        marked, line = _only(path, source, vars(module).get(LISTED, []))
        return _tool(path, source, marked), Named(path.name, line, marked.function.__name__)
    except Broken:
        del sys.modules[module.__name__]
        raise


def threads() -> set[str]:
    """List the threads of this process, also those Python knows nothing of."""
    return {task.name for task in Path("/proc/self/task").iterdir()}


def _only(path: Path, source: str, marked: list[Marked]) -> tuple[Marked, int]:
    """Give the one decorated function of a file, and its line."""
    if not marked:
        raise Broken(trouble_in(path, 1, "no function in it is decorated with @tool"))
    if len(marked) > 1:
        first, second = (each.function.__name__ for each in marked[:2])
        why = f"@tool stands on {second}, but on {first} already: one tool in each file"
        raise Broken(trouble_in(path, line_of(marked[1].function, source), why))
    return marked[0], line_of(marked[0].function, source)


def _tool(path: Path, source: str, marked: Marked) -> Tool:
    function = marked.function
    name = function.__name__
    if not NAME.fullmatch(name):
        why = f"{name} is no name for a tool: English letters, digits and underscores, at most 64"
        raise Broken(trouble_in(path, line_of(function, source), why))
    try:
        described = describe(function)
    except BadSignature as error:
        raise Broken(trouble_in(path, line_of(function, source, error.parameter), str(error))) from None
    return Tool(
        name=name,
        description=described.description,
        run=Runner(function, described),
        arguments=described.arguments,
        stage=marked.stage,
        writes=marked.writes,
        repeatable=marked.repeatable,
        timeout_s=marked.timeout_s,
    )


def _source(path: Path) -> str:
    """Read a file as Python does: UTF-8, or what its first lines say."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Broken(trouble_in(path, 1, error.strerror or "cannot be read")) from None
    if b"\0" in content:
        raise Broken(
            trouble_in(path, content[: content.index(b"\0")].count(b"\n") + 1, "it holds a zero byte: no text")
        )
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
        return content.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise Broken(trouble_in(path, line, f"it is not {error.encoding.upper()}: save it as UTF-8")) from None
    except SyntaxError as error:  # an encoding nobody knows, or the first two lines are no UTF-8
        raise Broken(trouble_in(path, 1, f"its encoding cannot be read: {error.msg}")) from None


def _module(path: Path, source: str) -> types.ModuleType:
    """Run a file as a module."""
    module = types.ModuleType(f"{PACKAGE}.{path.stem}")
    module.__file__, module.__package__ = str(path), PACKAGE
    sys.modules[module.__name__] = module  # dataclasses and annotations look their module up
    try:
        exec(compile(source, str(path), "exec", dont_inherit=True), vars(module))  # noqa: S102 - it is what the folder is for
    except BaseException as error:  # noqa: BLE001 - SystemExit too: a file that leaves must not take everything with it
        del sys.modules[module.__name__]
        raise Broken(trouble_in(path, *_blamed(path, error))) from None
    return module


def _blamed(path: Path, error: BaseException) -> tuple[int, str]:
    """Find the line of a file at which an error left it, and say what it was."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno or 1, f"{type(error).__name__}: {error.msg}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    line = (frames[-1].lineno if frames else None) or 1
    try:
        words = str(error)
    except Exception:  # noqa: BLE001 - an exception of theirs that cannot be written
        words = ""
    kind = type(error).__name__
    return line, f"{kind}: {words}" if words else kind
