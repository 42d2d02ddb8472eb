import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for sockets: their paths must stay under 108 bytes, which pytest's own folders may not."""
    with tempfile.TemporaryDirectory(prefix="offhook-") as name:
        yield Path(name)
