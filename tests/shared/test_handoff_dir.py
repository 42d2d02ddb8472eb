"""`HANDOFF_DIR`: made when absent, and whatever is wrong with it is one line that names the setting."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared import handoff_dir
from shared.errors import SettingsError
from tests.powerless import no_entry


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name."""
    with tempfile.TemporaryDirectory(prefix="offhook-") as name:
        yield Path(name)


def refused(folder: Path) -> str:
    with pytest.raises(SettingsError) as caught:
        handoff_dir.prepare(folder)
    return str(caught.value)


def test_it_is_made_for_our_user_only(folder: Path) -> None:
    handoff_dir.prepare(folder / "run" / "sockets")
    handoff_dir.prepare(folder / "run" / "sockets")
    assert (folder / "run" / "sockets").stat().st_mode & 0o7777 == 0o700


def test_sockets_are_known_by_their_names(folder: Path) -> None:
    for name in ("b.sock", "a.sock", ".a12", "notes"):
        (folder / name).touch()
    assert handoff_dir.look(folder) == [folder / "a.sock", folder / "b.sock"]


def test_a_file_in_its_place_is_named(folder: Path) -> None:
    (folder / "file").touch()
    assert refused(folder / "file") == f"HANDOFF_DIR: {folder}/file: is not a folder"
    assert refused(folder / "file" / "below") == f"HANDOFF_DIR: {folder}/file/below: Not a directory"


def test_whose_it_is_stands_beside_what_is_not_permitted(folder: Path) -> None:
    shut = folder / "shut"
    shut.mkdir()
    folder.chmod(0o755)
    owner = os.geteuid()
    with no_entry(shut):
        us = os.geteuid()
        assert refused(shut) == (
            f"HANDOFF_DIR: {shut}: Permission denied: it belongs to uid {owner} (mode 0000), this process is uid {us}"
        )
        assert refused(shut / "below") == (
            f"HANDOFF_DIR: {shut}/below: Permission denied: {shut} belongs to uid {owner} (mode 0000), "
            f"this process is uid {us}"
        )


@pytest.mark.parametrize("mode", [0o404, 0o101])
def test_a_folder_that_may_be_read_or_searched_only_is_refused(folder: Path, mode: int) -> None:
    """Reading alone shows sockets that cannot be used, searching alone shows none."""
    half = folder / "half"
    half.mkdir()
    folder.chmod(0o755)
    with no_entry(half, mode):
        assert "Permission denied" in refused(half)


def test_a_path_that_no_socket_can_have_is_refused_before_anything_is_made(folder: Path) -> None:
    room = handoff_dir.MOST_PATH_BYTES - len(os.fsencode(folder)) - len("//00000000.sock")
    handoff_dir.prepare(folder / ("x" * room))
    too_long = folder / ("y" * (room + 1))
    assert refused(too_long).startswith(f"HANDOFF_DIR: {too_long}/00000000.sock: has 108 bytes")
    assert not too_long.exists()
