"""What was measured, in order: percentiles, and a figure beside its target. Pure.

Percentiles are by nearest rank: a value that really occurred, and with few values p99 is the largest of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

UNITS: Final = {"ms": 1000.0, "MB": 1 / 1e6, "%": 100.0, "": 1.0}
"""What a value (seconds, bytes, a share, a count) is multiplied with to be shown in a unit."""


def percentile(values: Sequence[float], share: float) -> float:
    """Give the smallest value that at least this share (0..1) of all values do not exceed.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(frozen=True, slots=True)
class Target:
    """The most (or with `least` the least) that one percentile may be, in the base unit of the figure."""

    share: float
    limit: float
    least: bool = False

    def met(self, values: Sequence[float]) -> bool:
        """Judge the values; none at all meet nothing."""
        if not values:
            return False
        value = percentile(values, self.share)
        return value >= self.limit if self.least else value <= self.limit


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. Values are seconds, bytes, shares or counts; `missing` is how many calls gave none."""

    group: str
    name: str
    values: tuple[float, ...]
    targets: tuple[Target, ...] = ()
    unit: str = "ms"
    missing: int = 0
    note: str = ""

    @property
    def ok(self) -> bool | None:
        """Whether every target is met by what was measured and nothing is missing; None without a target."""
        if not self.targets:
            return None
        return not self.missing and all(target.met(self.values) for target in self.targets)

    @property
    def verdict(self) -> str:
        """`ok`, `over`, or nothing to judge."""
        return {True: "ok", False: "over", None: ""}[self.ok]

    def shown(self, share: float) -> str:
        """Give a percentile in the figure's unit, or a dash."""
        return number(percentile(self.values, share) * UNITS[self.unit]) if self.values else "-"

    @property
    def target_shown(self) -> str:
        """Give the targets in words."""
        return ", ".join(
            f"p{target.share * 100:g} {'≥' if target.least else '≤'} {number(target.limit * UNITS[self.unit])}"
            for target in self.targets
        )


def number(value: float) -> str:
    """Write a number with as many decimals as are worth reading."""
    if value and abs(value) < 10:
        return f"{value:.2f}".rstrip("0").rstrip(".") or "0"
    return f"{value:.1f}".rstrip("0").rstrip(".") if abs(value) < 100 else f"{value:.0f}"
