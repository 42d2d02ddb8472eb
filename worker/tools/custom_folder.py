"""The tools of `TOOLS_DIR`, as whoever runs tools gets them: what is good, and what is wrong with the rest."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared import logs
from shared.errors import SettingsError
from shared.messages import Problem
from shared.settings import Settings
from worker.tools import custom_check
from worker.tools.custom_check import Checked
from worker.tools.custom_files import load_file, open_folder, threads
from worker.tools.custom_report import Broken, Named, Trouble
from worker.tools.registry import Tool

MOST_SHOWN: Final = 20
"""Troubles that are reported: a message has 64 KiB."""

_log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class Custom:
    """Tools by the names of their files, and why other files give none."""

    tools: tuple[Tool, ...] = ()
    troubles: tuple[Trouble, ...] = ()

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What is reported of the troubles: the first of them, and how many there are beyond."""
        shown = [Problem(resource="custom_tools", detail=str(each)) for each in self.troubles[:MOST_SHOWN]]
        if more := len(self.troubles) - len(shown):
            shown.append(Problem(resource="custom_tools", detail=f"and {more} more, which are in the log"))
        return tuple(shown)


def load_custom(settings: Settings) -> Custom:
    """Load the folder of the settings, if there is one. Every trouble is logged.

    Raises:
        SettingsError: one line per problem: the folder cannot be read; a file is broken and `TOOLS_STRICT` is on; or one has
            started a thread in this process after all, which must not be forked then.
    """
    if settings.tools_dir is None:
        return Custom()
    custom = _load(settings.tools_dir)
    _report(settings, settings.tools_dir, custom.troubles)
    return custom


def check_custom(settings: Settings) -> Checked:
    """Say what the folder of the settings is good for, and load none of it here. Every trouble is logged.

    Raises:
        SettingsError: as `load_custom`.
    """
    if settings.tools_dir is None:
        return Checked()
    checked = custom_check.check(settings.tools_dir)
    _report(settings, settings.tools_dir, checked.troubles)
    return checked


def load_good(folder: Path, good: Iterable[Named]) -> list[Tool]:
    """Load files that were found good, in a process that is not forked any more; what is broken by now is left out and logged."""
    open_folder(folder)
    tools: list[Tool] = []
    for named in good:
        try:
            tool = load_file(folder / named.file)[0]
        except Broken as broken:
            _left_out(broken.trouble)
            continue
        if tool.name == named.name:  # else it was written anew since, and may be called as another
            tools.append(tool)
    return tools


def _report(settings: Settings, folder: Path, troubles: tuple[Trouble, ...]) -> None:
    for each in troubles:
        _left_out(each)
    if settings.tools_strict:
        custom_check.refuse_troubles(folder, troubles)


def _left_out(trouble: Trouble) -> None:
    _log.warning("custom tool left out", file=trouble.file, line=trouble.line, why=trouble.why)


def _load(folder: Path) -> Custom:
    checked = custom_check.check(folder)
    open_folder(folder)
    tools: list[Tool] = []
    troubles = list(checked.troubles)
    for named in checked.good:
        before = threads()
        try:
            tools.append(load_file(folder / named.file)[0])
        except Broken as broken:
            troubles.append(broken.trouble)
        if threads() - before:
            raise SettingsError(
                f"TOOLS_DIR: {folder / named.file}:1: it starts threads when it is loaded, though not always"
            )
    return Custom(tuple(tools), tuple(troubles))
