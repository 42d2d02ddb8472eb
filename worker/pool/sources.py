"""The files that agents, tools and clips are read from, and how to see that one has changed."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from shared import agents_file
from shared.settings import Settings

MOST_FILES: Final = 10_000
"""Of one folder: whoever points a setting at a whole disk must not keep us looking."""

Stamp = tuple[int, int, int]
"""When it was changed (ns), its size, which file it is: of the file itself, not of a link to it."""


@dataclass(frozen=True, slots=True)
class Look:
    """What there was at one moment: the files, and the existing folders to watch for changes of them."""

    files: Mapping[Path, Stamp | None]
    folders: frozenset[Path]


def look(settings: Settings) -> Look:
    """Look at every file. Takes milliseconds, more on a slow volume."""
    paths: list[Path] = []
    if settings.agents_file is not None:
        paths += agents_file.sources(settings.agents_file)
    folders = {path.parent for path in paths}
    for root, ending in ((settings.assets_dir, ""), (settings.tools_dir, ".py")):
        if root is not None:
            for folder, names in islice(_walk(root), MOST_FILES):
                folders.add(folder)
                paths += [folder / name for name in names if name.endswith(ending)]
    files = {path: _stamp(path) for path in islice(paths, MOST_FILES)}
    return Look(files, frozenset(folder for folder in folders if folder.is_dir()))


def _walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Give the folders below a root with the names of their files, without hidden ones and without what Python makes."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__pycache__")))
        yield Path(folder), sorted(name for name in names if not name.startswith("."))


def _stamp(path: Path) -> Stamp | None:
    """Say which state a file is in; None when there is none."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
