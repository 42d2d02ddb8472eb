"""Settings that stand in files: a secret each (`<NAME>_FILE`), and a file of defaults (`SETTINGS_FILE`).

Docker and Kubernetes mount secrets as files, and the name `<NAME>_FILE` for where one lies is what images of databases made
common. An own source, because pydantic-settings' `secrets_dir` takes a folder whose files have the settings' names.
"""

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, DotEnvSettingsSource, PydanticBaseSettingsSource

from shared.errors import SettingsError, system_words

SUFFIX: Final = "_file"
MAX_BYTES: Final = 65_536
"""No secret is longer; a path given by mistake may lead to anything."""

Variables = Mapping[str, str | None]

WITH_PASSWORD: Final = frozenset({"redis_url"})
"""Settings that are no secret and may hold one."""


def in_files(fields: Mapping[str, FieldInfo]) -> frozenset[str]:
    """Name the settings that may be in a file of their own, by field."""
    return frozenset(name for name, field in fields.items() if field.annotation is SecretStr) | WITH_PASSWORD


class SecretFiles(PydanticBaseSettingsSource):
    """Reads each secret whose file is named.

    `named` are the variables there are, by lower-case name; `fallback` those that count where `named` says nothing; `passed`
    are the fields whose values were given outright.
    """

    def __init__(
        self, settings_cls: type[BaseSettings], named: Variables, fallback: Variables, passed: frozenset[str]
    ) -> None:
        super().__init__(settings_cls)
        self._ranks = (named, fallback)
        self._passed = passed

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Read the file of a field; None when none is named, or when the value is given otherwise.

        Raises:
            SettingsError: value and file are both given, or the file cannot be read.
        """
        del field
        name = field_name.upper()
        for variables in () if field_name in self._passed else self._ranks:
            path, value = variables.get(field_name + SUFFIX), variables.get(field_name)
            if path and value:
                raise SettingsError(f"{name}: given twice, also as {name}_FILE")
            if path:
                return _read(f"{name}_FILE", Path(path)), field_name, False
            if value:
                break
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Give the values found, by field.

        Raises:
            SettingsError: some could not be read; one line for each.
        """
        found: dict[str, Any] = {}
        problems: list[str] = []
        for name in sorted(in_files(self.settings_cls.model_fields)):
            try:
                value, _, _ = self.get_field_value(self.settings_cls.model_fields[name], name)
            except SettingsError as error:
                problems.append(str(error))
            else:
                found |= {} if value is None else {name: value}
        if problems:
            raise SettingsError("\n".join(problems))
        return found


def defaults(settings_cls: type[BaseSettings], path: str) -> DotEnvSettingsSource:
    """Read a file of settings, written as `.env` is; a file that is not there has none.

    Raises:
        SettingsError: something is there and cannot be read.
    """
    try:
        if Path(path).is_dir():  # what a container gets for a file that its host does not have
            raise SettingsError(f"SETTINGS_FILE: {path}: is a folder")
        return DotEnvSettingsSource(settings_cls, env_file=path)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"SETTINGS_FILE: {path}: {_words(error)}") from error


def env_file_refused(error: OSError | UnicodeDecodeError) -> SettingsError:
    """Say why `.env` cannot be read."""
    return SettingsError(f".env: {_words(error)}")


def _read(name: str, path: Path) -> str:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
            raise SettingsError(f"{name}: {path}: is no file")  # children read it again: what is read once will not do
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise SettingsError(f"{name}: {path}: is no secret, it has more than {MAX_BYTES} bytes")
        text = content.decode()
    except (OSError, ValueError) as error:
        raise SettingsError(f"{name}: {path}: {_words(error)}") from error
    if not text.strip():
        raise SettingsError(f"{name}: {path}: is empty")
    return text


def _words(error: OSError | ValueError) -> str:
    return system_words(error) if isinstance(error, OSError) else "is no text"
