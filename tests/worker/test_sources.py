"""Which files a pool looks at, and what it takes for a change."""

import os
from pathlib import Path

import pytest

from shared.processes import Process
from shared.settings import Settings, load
from worker.pool.sources import look


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Give settings with one file of each kind."""
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "manifest.toml").write_text("")
    (tmp_path / "tools" / "more").mkdir(parents=True)
    (tmp_path / "tools" / "more" / "a.py").write_text("")
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "a.md").write_text("Be brief.")
    (tmp_path / "agents.toml").write_text('[agents.default]\nprompt_file = "prompts/a.md"\n')
    return load(
        Process.POOL, openai_api_key="made-up", cartesia_api_key="made-up", cartesia_voice_id="made-up",
        assets_dir=tmp_path / "assets", tools_dir=tmp_path / "tools", agents_file=tmp_path / "agents.toml", _env_file=None,
    )  # fmt: skip


NAMES = ("assets/manifest.toml", "tools/more/a.py", "prompts/a.md", "agents.toml")


def test_every_file_is_looked_at_and_every_folder_of_them_watched(settings: Settings, tmp_path: Path) -> None:
    seen = look(settings)
    assert set(seen.files) == {tmp_path / name for name in NAMES}
    assert None not in seen.files.values()
    assert seen.folders == {tmp_path, *(tmp_path / name for name in ("assets", "tools", "tools/more", "prompts"))}
    assert look(settings) == seen


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_was_written_replaced_or_removed_is_a_change(settings: Settings, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    before = look(settings)
    os.utime(path, ns=(1, 1))
    touched = look(settings)
    fresh = tmp_path / "fresh.tmp"
    fresh.write_bytes(path.read_bytes())
    os.utime(fresh, ns=(1, 1))
    fresh.replace(path)
    replaced = look(settings)
    path.unlink()
    removed = look(settings)
    assert len({str(sorted(map(str, each.files.items()))) for each in (before, touched, replaced, removed)}) == 4


def test_a_file_behind_links_changes_with_what_they_point_to(settings: Settings, tmp_path: Path) -> None:
    """As in a mounted ConfigMap, where only a link to a folder is replaced."""
    for number in (1, 2):
        (tmp_path / f"v{number}").mkdir()
        (tmp_path / f"v{number}" / "agents.toml").write_text("")
        os.utime(tmp_path / f"v{number}" / "agents.toml", ns=(number, number))
    (tmp_path / "data").symlink_to("v1")
    (tmp_path / "agents.toml").unlink()
    (tmp_path / "agents.toml").symlink_to("data/agents.toml")
    before = look(settings)
    (tmp_path / "new").symlink_to("v2")
    (tmp_path / "new").replace(tmp_path / "data")
    assert look(settings).files != before.files


def test_what_python_and_editors_leave_is_no_change(settings: Settings, tmp_path: Path) -> None:
    before = look(settings)
    (tmp_path / "tools" / "__pycache__").mkdir()
    (tmp_path / "tools" / "__pycache__" / "a.py").write_text("")
    (tmp_path / "tools" / ".a.py.swp").write_text("")
    (tmp_path / "tools" / "notes.txt").write_text("")
    assert look(settings) == before


def test_what_is_not_there_yet_is_looked_for(settings: Settings, tmp_path: Path) -> None:
    """A prompt file that is missing makes the change wrong that names it; its coming mends that."""
    (tmp_path / "agents.toml").write_text('[agents.default]\nprompt_file = "later/b.md"\n')
    missing = look(settings)
    assert missing.files[tmp_path / "later" / "b.md"] is None
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "b.md").write_text("Be brief.")
    assert look(settings).files != missing.files
