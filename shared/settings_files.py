"""Settings that stand in files: a secret each (`<NAME>_FILE`), and a file of defaults (`SETTINGS_FILE`).

Docker and Kubernetes mount secrets as files, and the name `<NAME>_FILE` for where one lies is what images of databases made
common. An own source, because pydantic-settings' `secrets_dir` takes a folder whose files have the settings' names.
"""

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

WITH_PASSWORD: Final = frozenset({"redis_url"})
"""Settings that are no secret and may hold one."""


def in_files(fields: Mapping[str, FieldInfo]) -> frozenset[str]:
    """Name the settings that may be in a file of their own, by field."""
    return frozenset(name for name, field in fields.items() if field.annotation is SecretStr) | WITH_PASSWORD


class SecretFiles(PydanticBaseSettingsSource):
    """Reads each secret whose file is named. `named` are the variables there are, by lower-case name."""

    def __init__(
        self, settings_cls: type[BaseSettings], named: Mapping[str, str | None], taken: frozenset[str]
    ) -> None:
        super().__init__(settings_cls)
        self._named = named
        self._taken = taken

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Read the file of a field; None when none is named, or when the value is given otherwise.

        Raises:
            SettingsError: value and file are both given, or the file cannot be read.
        """
        del field
        path = self._named.get(field_name + SUFFIX)
        if not path or field_name in self._taken:
            return None, field_name, False
        name = field_name.upper()
        if self._named.get(field_name):
            raise SettingsError(f"{name}: given twice, also as {name}_FILE")
        return _read(f"{name}_FILE", Path(path)), field_name, False

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
        SettingsError: it is there and cannot be read.
    """
    try:
        return DotEnvSettingsSource(settings_cls, env_file=path)
    except (OSError, UnicodeDecodeError) as error:
        words = system_words(error) if isinstance(error, OSError) else "is no text"
        raise SettingsError(f"SETTINGS_FILE: {path}: {words}") from error


def _read(name: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1).decode()
    except OSError as error:
        raise SettingsError(f"{name}: {path}: {system_words(error)}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{name}: {path}: is no text") from error
    if len(text) > MAX_BYTES:
        raise SettingsError(f"{name}: {path}: is no secret, it has more than {MAX_BYTES} bytes")
    if not text.strip():
        raise SettingsError(f"{name}: {path}: is empty")
    return text
