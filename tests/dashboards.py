"""The committed dashboard as Grafana reads it, for tests: its panels, what each asks Prometheus, and its variables."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT: Final = Path(__file__).resolve().parents[1]
FOLDER: Final = ROOT / "deploy" / "grafana"
FILE: Final = FOLDER / "dashboards" / "offhook.json"

ALL: Final = {"pool": ".*", "instance": ".*", "worker": ".*"}
"""What Grafana puts in when All is chosen."""

METRIC: Final = re.compile(r"\b(?:offhook|redis|process|python)_[a-z0-9_]+\b|\bup\b|\bALERTS\b")
LABEL_VALUES: Final = re.compile(r"label_values\((.+), (\w+)\)")


@dataclass(frozen=True, slots=True)
class Asked:
    """One query of a panel."""

    panel: str
    ref: str
    expr: str
    instant: bool
    legend: str

    def __str__(self) -> str:
        return f"{self.panel} / {self.ref}"

    def filled(self, values: Mapping[str, str]) -> str:
        """Give the expression with the variables of Grafana replaced, as Grafana does."""
        return filled(self.expr, values)

    @property
    def metrics(self) -> set[str]:
        """Every metric it names."""
        return set(METRIC.findall(re.sub(r"\{[^}]*\}|\bby \([^)]*\)", "", self.expr)))

    @property
    def grouped(self) -> set[str]:
        """Every label it groups by."""
        return {name.strip() for group in re.findall(r"\bby \(([^)]*)\)", self.expr) for name in group.split(",")}

    @property
    def named(self) -> set[str]:
        """Every label in the names of its series."""
        return set(re.findall(r"\{\{(\w+)\}\}", self.legend))

    @property
    def labels(self) -> set[str]:
        """Every label it selects by, groups by, or has in the names of its series."""
        selectors = re.findall(r"\{([^}]*)\}", self.expr)
        selected = {name for selector in selectors for name in re.findall(r"(\w+)(?:=~?|!=|!~)", selector)}
        return self.grouped | selected | self.named


def board() -> dict[str, Any]:
    """Read the dashboard."""
    read: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return read


def panels() -> list[dict[str, Any]]:
    """List all panels but the headings of rows."""
    return [panel for panel in board()["panels"] if panel["type"] != "row"]


def queries() -> list[Asked]:
    """List every query of every panel."""
    return [
        Asked(panel["title"], target["refId"], target["expr"], target["instant"], target["legendFormat"])
        for panel in panels()
        for target in panel["targets"]
    ]


def variables() -> Iterator[tuple[str, str, str]]:
    """Give each variable that asks Prometheus: its name, the series it looks at, and the label whose values it has."""
    for variable in board()["templating"]["list"]:
        if variable["type"] == "query":
            found = LABEL_VALUES.fullmatch(variable["query"])
            assert found is not None, variable["query"]
            yield variable["name"], found[1], found[2]


def filled(text: str, values: Mapping[str, str]) -> str:
    """Replace variables; one that is not known is left, and Prometheus refuses the query."""
    return re.sub(r"\$(\w+)", lambda found: values.get(found[1], found[0]), text)
