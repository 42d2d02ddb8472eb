"""What is checked before a pool starts and before each change, for calls that are to be recorded."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from shared.errors import SettingsError
from shared.settings import Settings
from worker.pool import checking

if TYPE_CHECKING:
    from pathlib import Path

RATE_HZ = 8000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder of clips: one that tells of recordings in English, and one that is a little too long for that."""
    rows = []
    for name, size in (("consent", 5 * RATE_HZ), ("long", 5 * RATE_HZ + 800)):
        audio = b"\x10\x90" * (size // 2)
        (tmp_path / f"{name}.ulaw").write_bytes(audio)
        fields = {
            "id": name, "file": f"{name}.ulaw", "text": "We record.", "language": "en", "voice": "v",
            "sha256": hashlib.sha256(audio).hexdigest(), "licence": "CC0",
        }  # fmt: skip
        lines = [f'{key} = "{value}"' for key, value in fields.items()]
        rows.append("\n".join(["[[clip]]", *lines, f"duration_ms = {size // 8}"]))
    (tmp_path / "manifest.toml").write_text("\n".join(rows), encoding="utf-8")
    return tmp_path


def recording(folder: Path, **changed: Any) -> Settings:
    """Give the settings of an installation that records, with changes."""
    usual: dict[str, Any] = {
        "assets_dir": folder,
        "greeting_audio_enabled": False,
        "recording_enabled": True,
        "recordings_dir": folder / "made" / "recordings",
        "records_webhook_url": "https://example.com",
        "records_webhook_secret": "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
    }
    return Settings(_env_file=None, **usual | changed)


def problems(settings: Settings) -> list[str]:
    """Give what is wrong."""
    with pytest.raises(SettingsError) as raised:
        checking.check(settings)
    return str(raised.value).splitlines()


def test_where_everything_is_right_the_folder_of_recordings_is_made_for_nobody_else(folder: Path) -> None:
    settings = recording(folder)
    checked = checking.check(settings)
    assert checked.unrecorded == ()
    assert settings.recordings_dir.stat().st_mode & 0o077 == 0
    assert list(settings.recordings_dir.iterdir()) == []


@pytest.mark.parametrize(
    ("clip", "words"),
    [("consnet", "the manifest has no clip 'consnet'"), ("long", "clip 'long' plays 5.1 s, more than the 5 s allowed")],
)
def test_a_clip_that_cannot_tell_callers_of_the_recording_is_named(folder: Path, clip: str, words: str) -> None:
    assert problems(recording(folder, recording_clip=clip)) == [f"RECORDING_CLIP: {words}"]


def test_a_folder_that_cannot_be_made_is_named(folder: Path) -> None:
    place = folder / "manifest.toml" / "recordings"
    assert problems(recording(folder, recordings_dir=place)) == [
        f"RECORDINGS_DIR: {place}: cannot be written: Not a directory"
    ]


def test_a_folder_that_takes_no_file_is_named_also_where_there_are_no_clips(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_where: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("worker.pool.checking.tempfile.TemporaryFile", full)
    settings = recording(folder, assets_dir=folder / "absent")
    manifest, place = problems(settings)
    assert "manifest.toml" in manifest
    assert place == f"RECORDINGS_DIR: {settings.recordings_dir}: cannot be written: No space left on device"


def test_who_does_not_record_needs_neither(folder: Path) -> None:
    place = folder / "manifest.toml" / "recordings"
    settings = recording(folder, recording_enabled=False, recording_clip="none-such", recordings_dir=place)
    assert checking.check(settings).unrecorded == ()


def test_agents_whose_callers_cannot_be_told_are_named_in_the_log(folder: Path) -> None:
    agents = folder / "agents.toml"
    agents.write_text(
        """[agents.recepcao]
        language = "pt-BR"
        numbers = ["+551130000000"]
        [agents.sales]
        language = "en-GB"
        numbers = ["+15550002222"]
        """,
        encoding="utf-8",
    )
    with capture_logs() as lines:
        checking.warn(checking.check(recording(folder, agents_file=agents)))
        checking.warn(checking.check(recording(folder, agents_file=agents, recording_enabled=False)))
    [line] = lines
    assert (line["log_level"], line["agents"]) == ("warning", ["recepcao"])
    assert "RECORDING_CLIP" in line["event"]


@pytest.mark.parametrize(
    ("agent", "missing"),
    [
        ('stt = "elevenlabs"', ["ELEVENLABS_API_KEY"]),
        ('tts = "elevenlabs"', ["ELEVENLABS_API_KEY", "ELEVENLABS_VOICE_ID"]),
        ('tts = "elevenlabs"\nvoice = "v"', ["ELEVENLABS_API_KEY"]),
        ('stt = "cartesia"\ntts = "openai"', ["CARTESIA_API_KEY", "OPENAI_API_KEY"]),
    ],
)
def test_what_is_missing_for_the_providers_of_one_agent_is_named_with_it(
    tmp_path: Path, agent: str, missing: list[str]
) -> None:
    file = tmp_path / "agents.toml"
    file.write_text(f'[agents.clinic]\nnumbers = ["+15551234567"]\n{agent}\n')
    settings = Settings(_env_file=None, agents_file=file)
    assert problems(settings) == [f"{name}: missing for agent clinic" for name in missing]
