"""What can be said of compose.yaml without an engine; tests/containers runs it."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Final

import yaml

from tests.standins.process import ROOT

SERVICES: Final[dict[str, dict[str, Any]]] = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]
BY_NAME: Final = {"doctor", "call"}
"""Profiles of what is run by its name, when the rest is there."""


def test_an_image_is_built_by_one_service() -> None:
    """Two builds of the same have two ids: what was started from the first would be made anew by the next `up`."""
    builders, images = defaultdict(list), set()
    for name, service in SERVICES.items():
        if BY_NAME & set(service.get("profiles", ())):
            continue
        images.add(service["image"])
        if "build" in service:
            builders[service["image"]].append(name)
    ours = {image for image in images if "offhook" in image}
    assert {image: len(names) for image, names in builders.items()} == dict.fromkeys(ours, 1)
