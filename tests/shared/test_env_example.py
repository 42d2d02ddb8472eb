"""deploy/env.example documents every setting, and its defaults are the code's."""

import re
from pathlib import Path

from shared.settings import Settings

TEXT = (Path(__file__).resolve().parents[2] / "deploy" / "env.example").read_text()
DOCUMENTED = dict(re.findall(r"^#?([A-Z][A-Z_]+)=(.*)$", TEXT, re.MULTILINE))


def test_every_setting_is_documented_and_nothing_else_is() -> None:
    assert set(DOCUMENTED) == {name.upper() for name in Settings.model_fields}


def test_the_commented_defaults_are_the_defaults_of_the_code() -> None:
    for name, shown in re.findall(r"^#([A-Z][A-Z_]+)=(.*)$", TEXT, re.MULTILINE):
        if name in {"AGENTS_FILE", "ASSETS_DIR", "TOOLS_DIR"}:
            continue  # examples of paths
        default = Settings.model_fields[name.lower()].default
        text = default.get_secret_value() if hasattr(default, "get_secret_value") else default
        written = "" if text is None else str(text).lower() if isinstance(text, bool) else str(text)
        assert shown == written, name
