"""What the README promises about faults is what a test of that name shows."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.compile(r"`(test_[a-z0-9_]+)`")
WRITTEN = re.compile(r"^(?:async )?def (test_[a-z0-9_]+)", re.MULTILINE)


def test_every_row_of_the_fault_table_names_a_test_that_is_there() -> None:
    named = set(NAMED.findall((ROOT / "README.md").read_text(encoding="utf-8")))
    there = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in WRITTEN.findall(path.read_text(encoding="utf-8"))
    }
    assert len(named) > 20
    assert named <= there
