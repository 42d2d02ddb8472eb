"""How the panels of our dashboards look: four kinds, each with a unit and with words on what is good and what to do.

Nothing here knows a metric; `dashboard` says what is shown. Ids and places are given out by it, too.
"""

import itertools
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

from grafana_foundation_sdk.builders import common as look
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import heatmap, prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models import heatmap as heat_models
from grafana_foundation_sdk.models import prometheus as query_models

SOURCE: Final = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")
"""The variable: who has a Prometheus of their own chooses it there."""

WIDTH: Final = 24
"""Columns of Grafana's grid."""

GREEN, YELLOW, RED, BLUE, GREY = "green", "yellow", "red", "blue", "#6e7077"
NOTHING: Final = "transparent"

Panel: TypeAlias = timeseries.Panel | heatmap.Panel | statetimeline.Panel | stat.Panel
Made = TypeVar("Made", timeseries.Panel, heatmap.Panel, statetimeline.Panel, stat.Panel)
"""The builders of the kinds of panels."""


@dataclass(frozen=True, slots=True)
class Words:
    """What is said of a panel: what it shows, how it looks when all is well, and what to do when it does not."""

    shows: str
    good: str
    do: str

    def __str__(self) -> str:
        return f"{self.shows}\n\n**Good:** {self.good}\n\n**Otherwise:** {self.do}"


@dataclass(frozen=True, slots=True)
class Query:
    """What Prometheus is asked, and how its series are called; `{{label}}` stands for a label's value."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Frame:
    """What every panel has: a title of its own, a unit of Grafana's, words, and a size on the grid of 24 columns."""

    title: str
    unit: str
    words: Words
    width: int = 8
    height: int = 8


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under one heading; the widths of those beside each other add up to the grid's."""

    title: str
    panels: tuple[Panel, ...]


def row(title: str, *panels: Panel) -> Row:
    """Make a row."""
    return Row(title, panels)


def trend(
    frame: Frame, *queries: Query, lines: Sequence[float] = (), stacked: bool = False, most: float | None = None
) -> timeseries.Panel:
    """Show values over time; `lines` are targets, drawn where they are, in yellow and then in red."""
    made = (
        timeseries.Panel()
        .min(0)
        .fill_opacity(40 if stacked else 8)
        .line_width(1)
        .legend(_legend(["lastNotNull", "max"]))
    )
    made.show_points(common.VisibilityMode.AUTO).tooltip(_tooltip()).span_nulls(False)
    if stacked:
        made.stacking(look.StackingConfig().mode(common.StackingMode.NORMAL))
    if most is not None:
        made.max(most)
    if lines:
        colors = [YELLOW, RED][-len(lines) :]
        made.thresholds(_thresholds(NOTHING, dict(zip(lines, colors, strict=True))))
        made.thresholds_style(look.GraphThresholdsStyleConfig().mode(common.GraphTresholdsStyleMode.DASHED))
    return _framed(made, frame, queries)


def heat(frame: Frame, query: Query) -> heatmap.Panel:
    """Show how many observations fell where over time; the query gives the buckets by `le`."""
    color = heatmap.HeatmapColorOptions().mode(heat_models.HeatmapColorMode.SCHEME).scheme("Oranges").steps(64)
    color.scale(heat_models.HeatmapColorScale.EXPONENTIAL).exponent(0.5).fill("dark-orange")
    made = heatmap.Panel().calculate(False).cell_gap(1).color(color).show_legend().show_tooltip().show_y_histogram()
    made.filter_values(heatmap.FilterValueRange().le(1e-9))  # a cell with nothing in it stays dark
    made.y_axis(heatmap.YAxisConfig().unit(frame.unit).axis_placement(common.AxisPlacement.LEFT))
    made.cell_values(heatmap.CellValues().unit("short").decimals(1))
    made.rows_frame(heatmap.RowsHeatmapOptions().layout(common.HeatmapCellLayout.AUTO).value("observations"))
    return _framed(made, frame, (query,), query_models.PromQueryFormat.HEATMAP)


def timeline(frame: Frame, query: Query, values: Mapping[int, tuple[str, str]]) -> statetimeline.Panel:
    """Show which state each series is in over time: each value has a name and a color."""
    named = {
        str(value): dashboard.ValueMappingResult(text=text, color=color, index=index)
        for index, (value, (text, color)) in enumerate(values.items())
    }
    made = statetimeline.Panel().mappings([dashboard.ValueMap(options=named)]).merge_values(True)
    made.show_value(common.VisibilityMode.AUTO).row_height(0.9).line_width(0).fill_opacity(80)
    made.legend(look.VizLegendOptions().show_legend(True).placement(common.LegendPlacement.BOTTOM).calcs([]))
    made.tooltip(_tooltip()).color_scheme(build.FieldColor().mode(dashboard.FieldColorModeId.THRESHOLDS))
    made.thresholds(_thresholds(GREY, {}))
    return _framed(made, frame, (query,))


def number(frame: Frame, query: Query, base: str = GREEN, steps: Mapping[float, str] | None = None) -> stat.Panel:
    """Show one value of now (or of the whole time shown); `steps` are the values from which on its color is another."""
    made = stat.Panel().thresholds(_thresholds(base, steps or {})).color_mode(common.BigValueColorMode.BACKGROUND)
    made.graph_mode(common.BigValueGraphMode.NONE).text_mode(common.BigValueTextMode.VALUE)
    made.color_scheme(build.FieldColor().mode(dashboard.FieldColorModeId.THRESHOLDS)).no_value("none")
    if frame.unit == "short":
        made.decimals(0)  # `increase` extrapolates, and nobody is interested in 0.97 calls
    made.reduce_options(look.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False))
    return _framed(made, frame, (query,), instant=True)


def variable_of(name: str, label: str, query: str, about: str) -> build.QueryVariable:
    """Make a variable whose values come from Prometheus: any number of them, all by default."""
    made = build.QueryVariable(name).label(label).description(about).datasource(SOURCE).query(query)
    made.refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(dashboard.VariableSort.ALPHABETICAL_ASC)
    made.multi(True).include_all(True).all_value(".*")
    return made.current(dashboard.VariableOption(selected=True, text=["All"], value=["$__all"]))


def interval_of(name: str, label: str, choices: Sequence[str], chosen: str, about: str) -> build.IntervalVariable:
    """Make a variable that is a length of time."""
    options = [dashboard.VariableOption(selected=each == chosen, text=each, value=each) for each in choices]
    made = build.IntervalVariable(name).label(label).description(about).values(",".join(choices)).options(options)
    return made.current(dashboard.VariableOption(selected=True, text=chosen, value=chosen))


def source_of(name: str, label: str, text: str, uid: str) -> build.DatasourceVariable:
    """Make the variable that says which Prometheus is asked."""
    made = build.DatasourceVariable(name).label(label).type("prometheus")
    return made.current(dashboard.VariableOption(selected=True, text=text, value=uid))


def numbered(made: dashboard.Dashboard) -> dashboard.Dashboard:
    """Give rows and panels their ids, which a link to a panel names: in order, and each once."""
    for number_, panel in enumerate(_all(made.panels or []), start=1):
        panel.id_val = number_
    return made


def _all(panels: Iterable[dashboard.Panel | dashboard.RowPanel]) -> Iterable[dashboard.Panel | dashboard.RowPanel]:
    for panel in panels:
        yield panel
        if isinstance(panel, dashboard.RowPanel):
            yield from panel.panels


def _framed(
    made: Made,
    frame: Frame,
    queries: Sequence[Query],
    form: query_models.PromQueryFormat = query_models.PromQueryFormat.TIME_SERIES,
    *,
    instant: bool = False,
) -> Made:
    made.title(frame.title).unit(frame.unit).description(str(frame.words)).datasource(SOURCE)
    made.span(frame.width).height(frame.height)
    for letter, query in zip(string.ascii_uppercase, queries, strict=False):
        asked = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(letter).format(form)
        asked.datasource(SOURCE).editor_mode(query_models.QueryEditorMode.CODE)
        made.with_target(asked.instant() if instant else asked.range())
    return made


def _legend(calculated: list[str]) -> look.VizLegendOptions:
    made = look.VizLegendOptions().show_legend(True).display_mode(common.LegendDisplayMode.TABLE)
    return made.placement(common.LegendPlacement.BOTTOM).calcs(calculated)


def _tooltip() -> look.VizTooltipOptions:
    return look.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING)


def _thresholds(base: str, steps: Mapping[float, str]) -> build.ThresholdsConfig:
    above = itertools.starmap(dashboard.Threshold, sorted(steps.items()))
    return (
        build.ThresholdsConfig()
        .mode(dashboard.ThresholdsMode.ABSOLUTE)
        .steps([dashboard.Threshold(value=None, color=base), *above])
    )
