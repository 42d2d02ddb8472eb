"""Checks the files of `TOOLS_DIR` before anybody relies on them: in another process, since running one may end it or hang.

The pool asks before it listens when `TOOLS_STRICT` is on, and so does every zygote before it runs the files itself. A file is
therefore run twice.
"""

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import msgspec

from shared.errors import SettingsError
from shared.processes import Process
from shared.settings import Settings, environment
from worker.tools.custom_report import Begun, Line, Named, Trouble, trouble_in

PROBE: Final = "worker.tools.custom_probe"

WHERE_SIGNAL: Final = signal.SIGUSR1
"""Asks a file that hangs for its line: the probe writes its stack to the report."""

FILE_LIMIT_S: Final = 15.0
"""How long one file may take once it has begun; large libraries on a cold disk take five."""

START_LIMIT_S: Final = 60.0
"""How long the probe itself may take to begin; a loaded machine needs seconds."""

STACK_WAIT_S: Final = 1.0

_FRAME: Final = re.compile(r'File "(?P<path>.+)", line (?P<line>\d+) in ')
_decode: Final = msgspec.json.Decoder(Line).decode


@dataclass(frozen=True, slots=True)
class Checked:
    """What a folder is good for."""

    good: tuple[Named, ...] = ()
    troubles: tuple[Trouble, ...] = ()


def files(folder: Path) -> list[Path]:
    """List a folder's files of tools, by name. Names beginning with `_` or `.` are not tools.

    Raises:
        SettingsError: it cannot be read.
    """
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == ".py" and path.name[0] not in "_.")
    except OSError as error:
        raise SettingsError(f"TOOLS_DIR: {folder}: {error.strerror}") from None


def refuse_troubles(folder: Path, troubles: tuple[Trouble, ...]) -> None:
    """Insist on there being none.

    Raises:
        SettingsError: one line for each.
    """
    if troubles:
        raise SettingsError("\n".join(f"TOOLS_DIR: {folder / each.file}:{each.line}: {each.why}" for each in troubles))


def before_start(settings: Settings) -> None:
    """Check what can be checked before anything listens: that the folder is there and, if that is wanted, every file in it.

    Raises:
        SettingsError: one line per problem.
    """
    if settings.tools_dir is not None:
        there = files(settings.tools_dir)
        if settings.tools_strict and there:
            refuse_troubles(settings.tools_dir, check(settings.tools_dir).troubles)


def check(folder: Path, limit_s: float = FILE_LIMIT_S) -> Checked:
    """Try every file of a folder, each for `limit_s` seconds at most.

    Raises:
        SettingsError: the folder cannot be read.
    """
    left = files(folder)
    good: dict[str, Named] = {}
    troubles: list[Trouble] = []
    while left:
        for outcome in _outcomes(folder, left, limit_s):
            del left[0]
            if isinstance(outcome, Named) and outcome.name in good:
                why = f"{outcome.name} is the name of the tool in {good[outcome.name].file}"
                troubles.append(trouble_in(folder / outcome.file, outcome.line, why))
            elif isinstance(outcome, Named):
                good[outcome.name] = outcome
            else:
                troubles.append(outcome)
    return Checked(tuple(good.values()), tuple(troubles))


def _outcomes(folder: Path, left: list[Path], limit_s: float) -> Iterator[Named | Trouble]:
    """Give what came of one file after the other, until one has taken the probe with it; always of one at least."""
    with _Probe(folder, list(left)) as probe:
        for path in list(left):
            outcome = probe.outcome(path, limit_s)
            if outcome is None:
                yield probe.blame(path, limit_s)
                return
            yield outcome


class _Probe:
    """A process that tries files, and what it has written of them."""

    def __init__(self, folder: Path, paths: list[Path]) -> None:
        self._report, report = os.pipe()
        command = [sys.executable, "-m", PROBE, "--report-fd", str(report), str(folder), *(each.name for each in paths)]
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                command,
                env=environment(Process.ZYGOTE),
                stdin=subprocess.DEVNULL,
                stdout=2,  # ours may carry a protocol
                pass_fds=[report],
                start_new_session=True,  # what a file has started goes with it
            )
        except OSError:
            os.close(self._report)
            raise
        finally:
            os.close(report)
        self._unread = b""
        self._ended = False
        self._words: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._report)

    def outcome(self, path: Path, limit_s: float) -> Named | Trouble | None:
        """Wait for what comes of a file; None when it takes too long, or the probe is gone."""
        said = self._said(path, START_LIMIT_S)
        if isinstance(said, Begun):
            said = self._said(path, limit_s)
        return None if isinstance(said, Begun) else said

    def _said(self, path: Path, limit_s: float) -> Line | None:
        """Read what is said of a file next; what is no report is kept: a stack, as faulthandler writes it."""
        for line in self._lines(time.monotonic() + limit_s):
            try:
                said: Line = _decode(line)
            except msgspec.DecodeError:
                self._words.append(line.decode(errors="replace"))
                continue
            if said.file == path.name:
                return said
        return None

    def blame(self, path: Path, limit_s: float) -> Trouble:
        """Say what a file has done to the probe, and where."""
        if self._ended:  # its process has, or will in a moment; unless the file has closed what was not its own
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STACK_WAIT_S)
        status = self._process.poll()
        if status is None:
            os.kill(self._process.pid, WHERE_SIGNAL)
            self._said(path, STACK_WAIT_S)
            return trouble_in(path, self._line(path), f"it was not loaded within {limit_s:.0f} s")
        if status < 0:
            return trouble_in(path, self._line(path), f"it crashes the process ({signal.Signals(-status).name})")
        return trouble_in(path, self._line(path), f"it ends the process (status {status})")

    def _line(self, path: Path) -> int:
        """Find the innermost line of a file in the stack that was written; 1 when there is none."""
        found = (_FRAME.search(words) for words in self._words)
        return next((int(each["line"]) for each in found if each and each["path"] == str(path)), 1)

    def _lines(self, until: float) -> Iterator[bytes]:
        while True:
            line, newline, rest = self._unread.partition(b"\n")
            if newline:
                self._unread = rest
                yield line
                continue
            readable, _, _ = select.select([self._report], [], [], max(0.0, until - time.monotonic()))
            read = os.read(self._report, 65_536) if readable else b""
            if not read:
                self._ended = bool(readable)
                return
            self._unread += read
