"""Secrets in files and a file of defaults: what is read wins as documented, and what cannot be read is one line."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

from shared import logs, settings_files
from shared.errors import SettingsError
from shared.processes import WITHHELD, Process
from shared.settings import Settings, load
from shared.settings import environment as environment_of
from tests.powerless import no_entry

BASE: Final = {"PUBLIC_BASE_URL": "https://voice.example.com"}
IN_FILES: Final = sorted(name.upper() for name in settings_files.in_files(Settings.model_fields))
PLACES: Final = ("environment", ".env", "SETTINGS_FILE")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the machine the tests run on: no variables, no `.env`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logs, "_secrets", set())
    known = {name.upper() for name in Settings.model_fields}
    for name in os.environ:
        if name.upper() in known or name.upper().removesuffix("_FILE") in known:
            monkeypatch.delenv(name)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder whose parents everybody may search."""
    with tempfile.TemporaryDirectory(prefix="offhook-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


class Places:
    """Where settings stand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self._monkeypatch = monkeypatch
        self._folder = folder

    def put(self, place: str, variables: Mapping[str, str]) -> None:
        """Set variables in one of `PLACES`."""
        if place == "environment":
            for name, value in variables.items():
                self._monkeypatch.setenv(name, value)
            return
        path = self._folder / (".env" if place == ".env" else "defaults.env")
        if place == "SETTINGS_FILE":
            self._monkeypatch.setenv("SETTINGS_FILE", str(path))
        former = path.read_text() if path.exists() else ""
        path.write_text(former + "".join(f"{name}={value}\n" for name, value in variables.items()))

    def secret(self, text: str, name: str = "secret") -> str:
        """Write a file and give its path."""
        (self._folder / name).write_text(text)
        return str(self._folder / name)


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Places:
    return Places(monkeypatch, tmp_path)


def token() -> str:
    return load(Process.ROUTER, public_base_url=BASE["PUBLIC_BASE_URL"]).twilio_auth_token.get_secret_value()


def problems(process: Process = Process.ROUTER) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(process)
    return str(caught.value).splitlines()


def test_secrets_and_the_address_of_redis_may_be_in_files_and_nothing_else_may() -> None:
    secret = {name.upper() for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}
    assert set(IN_FILES) == secret | {"REDIS_URL"}
    assert "TWILIO_AUTH_TOKEN" in IN_FILES


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", IN_FILES)
def test_each_is_read_from_the_file_that_is_named_wherever_it_is_named(places: Places, name: str, place: str) -> None:
    value = "redis://:a-secret@redis:6379/1" if name == "REDIS_URL" else "whsec_" + "QUJD" * 8
    places.put(place, BASE | {f"{name}_FILE": places.secret(f"{value}\n")})
    settings = load(Process.PREFETCHER)
    found = getattr(settings, name.lower())
    assert (found if name == "REDIS_URL" else found.get_secret_value()) == value


def test_names_are_read_in_small_letters_too(places: Places) -> None:
    places.put("environment", {"twilio_auth_token_file": places.secret("in-the-file")})
    assert token() == "in-the-file"


def test_what_was_in_a_file_is_hidden_in_everything_that_is_logged(places: Places) -> None:
    places.put("environment", {
        "TWILIO_AUTH_TOKEN_FILE": places.secret("in-the-file\n"),
        "REDIS_URL_FILE": places.secret("redis://:pass%2Fword@redis:6379/0\n", "redis"),
    })  # fmt: skip
    token()
    assert logs.mask("it is in-the-file, pass/word or pass%2Fword") == "it is [secret], [secret] or [secret]"


def test_an_empty_path_is_none(places: Places) -> None:
    places.put("environment", {"TWILIO_AUTH_TOKEN_FILE": "", "TWILIO_AUTH_TOKEN": "outright"})
    assert token() == "outright"


@pytest.mark.parametrize("place", PLACES)
def test_a_secret_that_is_given_twice_in_one_place_is_refused(places: Places, place: str) -> None:
    places.put(place, BASE | {"TWILIO_AUTH_TOKEN": "outright", "TWILIO_AUTH_TOKEN_FILE": places.secret("in-the-file")})
    assert problems() == ["TWILIO_AUTH_TOKEN: given twice, also as TWILIO_AUTH_TOKEN_FILE"]


def test_nor_may_the_environment_and_the_env_file_disagree_about_one(places: Places) -> None:
    """The environment wins over `.env` for a value; of a value and a file nobody can tell which is the old one."""
    places.put(".env", BASE | {"TWILIO_AUTH_TOKEN": "outright"})
    places.put("environment", {"TWILIO_AUTH_TOKEN_FILE": places.secret("in-the-file")})
    assert problems() == ["TWILIO_AUTH_TOKEN: given twice, also as TWILIO_AUTH_TOKEN_FILE"]


@pytest.mark.parametrize("place", ["environment", ".env"])
def test_what_the_file_of_defaults_says_counts_only_where_nothing_else_does(places: Places, place: str) -> None:
    places.put("SETTINGS_FILE", BASE | {"TWILIO_AUTH_TOKEN": "a-default", "POOL_READY": "7", "HOLD_MAX": "7"})
    assert token() == "a-default"
    places.put(place, {"TWILIO_AUTH_TOKEN_FILE": places.secret("in-the-file"), "POOL_READY": "5"})
    assert token() == "in-the-file"
    settings = load(Process.PREFETCHER)
    assert (settings.pool_ready, settings.hold_max) == (5, 7)


@pytest.mark.parametrize("place", ["environment", ".env"])
def test_a_file_that_is_named_there_gives_way_to_a_value_from_elsewhere(places: Places, place: str) -> None:
    places.put("SETTINGS_FILE", {"TWILIO_AUTH_TOKEN_FILE": places.secret("in-the-file")})
    assert token() == "in-the-file"
    places.put(place, {"TWILIO_AUTH_TOKEN": "outright"})
    assert token() == "outright"


def test_a_file_of_defaults_need_not_be_there_and_may_be_named_in_the_env_file(places: Places, tmp_path: Path) -> None:
    places.put(".env", {"SETTINGS_FILE": str(tmp_path / "later.env")})
    assert load(Process.PREFETCHER).pool_ready == 4
    (tmp_path / "later.env").write_text("POOL_READY=6\nSETTINGS_FILE=nowhere.env\n")
    assert load(Process.PREFETCHER).pool_ready == 6


def test_a_wrong_value_in_the_file_of_defaults_is_named_as_anywhere(places: Places) -> None:
    places.put("SETTINGS_FILE", BASE | {"TWILIO_AUTH_TOKEN": "x", "POOL_READY": "none"})
    (line,) = problems()
    assert line.startswith("POOL_READY: ")


def test_a_file_of_defaults_that_is_a_folder_or_no_text_is_named(places: Places, tmp_path: Path) -> None:
    """A folder is what a container gets for a file that is not there on the host."""
    (tmp_path / "folder").mkdir()
    places.put("environment", {"SETTINGS_FILE": str(tmp_path / "folder")})
    assert problems() == [f"SETTINGS_FILE: {tmp_path}/folder: is a folder"]
    (tmp_path / "binary").write_bytes(b"\xff\xfe=1")
    places.put("environment", {"SETTINGS_FILE": str(tmp_path / "binary")})
    assert problems() == [f"SETTINGS_FILE: {tmp_path}/binary: is no text"]


def test_secrets_that_cannot_be_read_are_one_line_each_and_nothing_of_their_content_is_said(
    places: Places, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    os.mkfifo(tmp_path / "pipe")
    long = places.secret("k\u00e9y" * settings_files.MAX_BYTES, "long")
    places.put("environment", BASE | {
        "CARTESIA_API_KEY_FILE": str(tmp_path / "binary"),
        "CONSOLE_TOKEN_FILE": str(tmp_path / "pipe"),
        "ELEVENLABS_API_KEY_FILE": long,
        "MCP_TOKEN_FILE": "/dev/zero",
        "OPENAI_API_KEY_FILE": str(tmp_path / "folder"),
        "REDIS_URL_FILE": places.secret(" \n", "blank"),
        "TICKET_KEY_FILE": places.secret("", "empty"),
        "TWILIO_AUTH_TOKEN_FILE": str(tmp_path / "nowhere"),
    })  # fmt: skip
    assert problems() == [
        f"CARTESIA_API_KEY_FILE: {tmp_path}/binary: is no text",
        f"CONSOLE_TOKEN_FILE: {tmp_path}/pipe: is no file",
        f"ELEVENLABS_API_KEY_FILE: {tmp_path}/long: is no secret, it has more than 65536 bytes",
        "MCP_TOKEN_FILE: /dev/zero: is no file",
        f"OPENAI_API_KEY_FILE: {tmp_path}/folder: Is a directory",
        f"REDIS_URL_FILE: {tmp_path}/blank: is empty",
        f"TICKET_KEY_FILE: {tmp_path}/empty: is empty",
        f"TWILIO_AUTH_TOKEN_FILE: {tmp_path}/nowhere: No such file or directory",
    ]


def test_what_we_may_not_read_is_named(places: Places, open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(open_folder)
    secret = open_folder / "secret"
    secret.write_text("in-the-file")
    with no_entry(secret):
        places.put("environment", BASE | {"TWILIO_AUTH_TOKEN_FILE": str(secret)})
        assert problems() == [f"TWILIO_AUTH_TOKEN_FILE: {secret}: Permission denied"]
        places.put("environment", {"TWILIO_AUTH_TOKEN_FILE": "", "SETTINGS_FILE": str(secret)})
        assert problems() == [f"SETTINGS_FILE: {secret}: Permission denied"]
    secret.rename(open_folder / ".env")
    with no_entry(open_folder / ".env"):
        places.put("environment", {"SETTINGS_FILE": ""})
        assert problems() == [".env: Permission denied"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("process", list(WITHHELD))
def test_a_child_neither_reads_a_secret_that_is_withheld_from_it_nor_hears_where_it_is(
    places: Places, process: Process, place: str, tmp_path: Path
) -> None:
    hidden = {f"{name}_FILE": str(tmp_path / f"nowhere-{name}") for name in map(str.upper, WITHHELD[process])}
    needed = {"OPENAI_API_KEY": "o", "CARTESIA_API_KEY": "c", "CARTESIA_VOICE_ID": "v"}
    places.put("environment", {name: value for name, value in needed.items() if name.lower() not in WITHHELD[process]})
    places.put(place, hidden)
    inherited = environment_of(process)
    assert not {name.upper() for name in inherited} & (hidden.keys() | {name.removesuffix("_FILE") for name in hidden})
    assert inherited["PATH"] == os.environ["PATH"]
    load(process)  # a file of theirs that is not there is nothing to it
