"""What a process may not do: tests run as root where containers are built, and root may do everything."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOBODY: Final = 65_534


@contextlib.contextmanager
def no_entry(folder: Path, mode: int = 0) -> Iterator[None]:
    """Shut a folder or a file for this process, or leave it what the mode says; meanwhile it has no powers of root."""
    before = folder.stat().st_mode
    folder.chmod(mode)
    former = os.geteuid()
    try:
        if former == 0:
            os.seteuid(NOBODY)
        yield
    finally:
        os.seteuid(former)
        folder.chmod(before)
