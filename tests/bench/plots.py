"""Charts as SVG: lines over two axes, with ticks, units and a legend. Pure, and the same text for the same values.

A plotting library would draw more than the two kinds of chart a report needs, weigh more than the project's other development
dependencies together, and write text as outlines or with random ids: a change of a figure would not be readable in a diff.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from tests.bench.figures import number

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH, HEIGHT = 780, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 210, 44, 56
COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Told apart with any kind of colour vision. Source: Okabe and Ito, "Color Universal Design"."""

GREY, INK = "#d9d9d9", "#333333"
DASHES: Final = ("", "7 4", "2 3")
TICKS: Final = 6
HEADROOM: Final = 1.05
LEAST: Final = 1e-6  # no axis is shorter, and no value on an axis of decades smaller

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis shows, its unit included; `log` counts in decades and leaves out what is not above 0."""

    label: str
    log: bool = False
    most: float | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart. `colour` and `dash` number what belongs together; dots mark where something was measured."""

    name: str
    points: tuple[Point, ...]
    colour: int = 0
    dash: int = 0
    dots: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart."""

    title: str
    x: Axis
    y: Axis
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class _Scale:
    """Turns values into pixels."""

    low: float
    high: float
    log: bool
    begin: float
    end: float

    def place(self, value: float) -> float:
        """Give the pixel of a value."""
        low, high, value = (math.log10(one) if self.log else one for one in (self.low, self.high, value))
        return self.begin + (value - low) / (high - low) * (self.end - self.begin)

    def ticks(self) -> list[float]:
        """Give round values to be written at the axis."""
        if self.log:
            decades = range(round(math.log10(self.low)), round(math.log10(self.high)) + 1)
            return [10.0**decade for decade in decades]
        raw = (self.high - self.low) / TICKS
        power = 10.0 ** math.floor(math.log10(raw))
        width = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
        return [width * count for count in range(math.ceil(self.low / width), int(self.high / width + 1e-9) + 1)]


def shares(values: Sequence[float]) -> tuple[Point, ...]:
    """Give the distribution of values: for each value which share of all, in percent, is not above it."""
    ordered = sorted(values)
    steps: list[Point] = [(ordered[0], 0.0)] if ordered else []
    for count, value in enumerate(ordered, start=1):
        steps += [(value, steps[-1][1]), (value, 100.0 * count / len(ordered))]
    return tuple(steps)


def svg(chart: Chart) -> str:
    """Draw a chart."""
    across = _scale([x for line in chart.lines for x, _ in line.points], chart.x, LEFT, WIDTH - RIGHT)
    up = _scale([y for line in chart.lines for _, y in line.points], chart.y, HEIGHT - BOTTOM, TOP)
    root = Element(
        "svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH} {HEIGHT}", width=str(WIDTH), height=str(HEIGHT),
        role="img",
    )  # fmt: skip
    SubElement(root, "title").text = chart.title
    SubElement(root, "rect", width=str(WIDTH), height=str(HEIGHT), fill="white")
    whole = SubElement(root, "g", {"font-family": "sans-serif", "font-size": "12", "fill": INK})
    _text(whole, (LEFT, TOP - 20), chart.title, size="15")
    for tick in across.ticks():
        x = across.place(tick)
        _stroke(whole, (x, HEIGHT - BOTTOM), (x, TOP))
        _text(whole, (x, HEIGHT - BOTTOM + 18), number(tick), anchor="middle")
    for tick in up.ticks():
        y = up.place(tick)
        _stroke(whole, (LEFT, y), (WIDTH - RIGHT, y))
        _text(whole, (LEFT - 8, y + 4), number(tick), anchor="end")
    _text(whole, ((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14), chart.x.label, anchor="middle")
    middle = (TOP + HEIGHT - BOTTOM) / 2
    _text(whole, (18, middle), chart.y.label, anchor="middle").set("transform", f"rotate(-90 18 {_short(middle)})")
    for place, line in enumerate(chart.lines):
        _draw(whole, line, across, up, chart)
        _legend(whole, line, TOP + 12 + 20 * place)
    indent(root)
    return tostring(root, encoding="unicode") + "\n"


def _scale(values: Sequence[float], axis: Axis, begin: float, end: float) -> _Scale:
    high = axis.most if axis.most is not None else max([value for value in values if math.isfinite(value)], default=1.0)
    if not axis.log:
        return _Scale(
            0.0, max(LEAST, high if axis.most is not None else high * HEADROOM), log=False, begin=begin, end=end
        )
    low = max(LEAST, min([value for value in values if value > 0], default=1.0))
    bottom = math.floor(math.log10(low) + 1e-9)
    top = max(bottom + 1, math.ceil(math.log10(max(high, low)) - 1e-9))
    return _Scale(10.0**bottom, 10.0**top, log=True, begin=begin, end=end)


def _draw(whole: Element, line: Line, across: _Scale, up: _Scale, chart: Chart) -> None:
    """Draw a line; what lies above the axis leaves the chart and is not drawn."""
    seen = [
        (x, y)
        for x, y in line.points
        if not (chart.x.log and x < LEAST) and not (chart.y.log and y < LEAST) and y <= up.high and x <= across.high
    ]
    places = [(across.place(x), up.place(y)) for x, y in seen]
    if not places:
        return
    points = " ".join(f"{_short(x)},{_short(y)}" for x, y in _unlike(places))
    SubElement(whole, "polyline", {"points": points, "fill": "none", **_stroked(line)})
    if line.dots:
        for x, y in places:
            SubElement(whole, "circle", cx=_short(x), cy=_short(y), r="3.5", fill=COLOURS[line.colour])


def _unlike(places: Sequence[Point]) -> list[Point]:
    """Leave out what falls on the pixel before."""
    return [place for place, _ in itertools.groupby(places, lambda one: (round(one[0], 1), round(one[1], 1)))]


def _legend(whole: Element, line: Line, y: float) -> None:
    x = WIDTH - RIGHT + 14
    place = {"x1": _short(x), "y1": _short(y - 4), "x2": _short(x + 26), "y2": _short(y - 4)}
    SubElement(whole, "line", {**place, **_stroked(line)})
    _text(whole, (x + 32, y), line.name)


def _stroked(line: Line) -> dict[str, str]:
    dashed = {"stroke-dasharray": DASHES[line.dash]} if DASHES[line.dash] else {}
    return {"stroke": COLOURS[line.colour], "stroke-width": "2", **dashed}


def _stroke(whole: Element, begin: Point, end: Point) -> None:
    place = {"x1": _short(begin[0]), "y1": _short(begin[1]), "x2": _short(end[0]), "y2": _short(end[1])}
    SubElement(whole, "line", place, stroke=GREY)


def _text(whole: Element, place: Point, words: str, anchor: str = "start", size: str = "12") -> Element:
    style = {"x": _short(place[0]), "y": _short(place[1]), "text-anchor": anchor, "font-size": size}
    one = SubElement(whole, "text", style)
    one.text = words
    return one


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
