"""What is said of the files of `TOOLS_DIR`: by the process that tries them, to whoever asked for it and to the operator. Pure."""

from pathlib import Path
from typing import Final

import msgspec

MOST_WHY: Final = 400
"""Characters of an explanation: whoever reads it has the file."""


class Begun(msgspec.Struct, frozen=True, tag=True):
    """A file is about to be run."""

    file: str


class Named(msgspec.Struct, frozen=True, tag=True):
    """A file gives this tool; `line` is that of its function."""

    file: str
    line: int
    name: str


class Trouble(msgspec.Struct, frozen=True, tag=True):
    """Why a file gives no tool."""

    file: str
    line: int
    why: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.why}"


Line = Begun | Named | Trouble


class Broken(Exception):
    """A file gives no tool; raised with its trouble."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(str(trouble))
        self.trouble = trouble


def trouble_in(path: Path, line: int, why: str) -> Trouble:
    """Say what is wrong with a file, on one line."""
    return Trouble(path.name, line, " ".join(why.split())[:MOST_WHY])
