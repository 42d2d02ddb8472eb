"""The bench's own arithmetic: what a benchmark says must at least be computed right."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from tests.bench.document import document, sections, with_section
from tests.bench.figures import Figure, Target, number, percentile
from tests.bench.histogram import edges
from tests.bench.machine import OthersShare, machine, versions
from tests.bench.measure import Measured, last_words, trailing_quiet_s
from tests.bench.options import BESIDE, FULL, QUICK, QUICK_BESIDE, QUICK_SHARE, SHARE, parse
from tests.bench.outages import Restart
from tests.bench.plan import Results
from tests.bench.report import figures, markdown, text

CALL = Measured("CA1", 0.004, 0.003, 0.001, 0.0005, {"agent_ready_s": -0.2}, (0.04,), 0, "caller_hangup")
ABOUT = {"cores": "2"}
LOST = Measured("CA2", None, None, None, None, {}, (), 0, "")


@given(st.lists(st.floats(0, 1000), min_size=1), st.floats(0, 1))
def test_a_percentile_is_a_value_that_occurred_and_covers_its_share(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9


def test_p99_of_few_values_is_the_worst_of_them() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.99) == 3.0
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_a_figure_is_ok_only_when_every_target_is_met_and_nothing_is_missing() -> None:
    both = (Target(0.5, 0.002), Target(0.99, 0.01))
    assert Figure("g", "n", (0.001, 0.002, 0.009), both).verdict == "ok"
    assert Figure("g", "n", (0.001, 0.002, 0.011), both).verdict == "over"
    assert Figure("g", "n", (0.001,), both, missing=1).verdict == "over"
    assert Figure("g", "n", (), both).verdict == "over"
    assert Figure("g", "n", (9.0,)).verdict == ""
    assert Figure("g", "n", (0.97,), (Target(0.5, 1.0, least=True),), unit="%").verdict == "over"


@pytest.mark.parametrize(
    ("value", "words"), [(0.0, "0"), (2.461, "2.46"), (-0.5, "-0.5"), (54.12, "54.1"), (60.0, "60"), (1753.4, "1753")]
)
def test_numbers_have_as_many_decimals_as_are_worth_reading(value: float, words: str) -> None:
    assert number(value) == words


def test_observations_of_a_histogram_are_upper_edges() -> None:
    registry = CollectorRegistry()
    histogram = Histogram("seconds", "s", ["result"], registry=registry, buckets=(0.1, 0.2, 0.4))
    for value in (0.05, 0.15, 0.16, 9.0):
        histogram.labels("good").observe(value)
    histogram.labels("bad").observe(0.3)
    page = generate_latest(registry).decode()
    assert edges(page, "seconds", result="good") == [0.1, 0.2, 0.2, float("inf")]
    assert edges(page, "seconds", result="bad") == [0.4]
    assert edges(page, "nothing") == []


def test_the_quiet_end_of_a_recording_is_not_the_callers_voice() -> None:
    assert trailing_quiet_s(b"\x00" * 8000 + b"\xff" * 4000) == 0.5
    assert trailing_quiet_s(b"\x00" * 80) == 0
    assert trailing_quiet_s(b"\x7f\xff" * 400) == 0.1


def test_the_line_that_ends_a_call_is_the_workers() -> None:
    lines: list[dict[str, object]] = [
        {"event": "call ended", "call_sid": "CA1", "reason": "caller_hangup"},  # the pool's
        {"event": "call ended", "call_sid": "CA1", "end_reason": "caller_hangup", "agent_ready_s": -0.2},
        {"event": "bound", "call_sid": "CA1"},
    ]
    assert last_words(lines) == {"CA1": lines[1]}


def test_a_call_without_media_makes_its_figures_not_ok() -> None:
    found = figures(Results(singles_paused=[CALL, LOST], singles_at_once=[CALL]), 30, 32, 8)
    first = next(one for one in found if one.name.startswith("upgrade accepted"))
    assert first.missing == 1
    assert first.verdict == "over"
    assert "(+1 missing)" in text(found)


def test_both_tables_have_a_line_for_every_figure() -> None:
    found = figures(Results(singles_paused=[CALL, LOST], router=Restart(calls=1)), 30, 32, 8)
    assert all(one.name.strip() in text(found) for one in found)
    assert markdown(found).count("\n| ") >= len(found)


def test_what_a_run_did_not_try_has_no_line_and_what_it_tried_in_vain_has_one() -> None:
    assert figures(Results(), 30, 32, 8) == []
    names = [one.name for one in figures(Results(singles_paused=[LOST]), 30, 32, 8)]
    assert "upgrade accepted → first media, carrier pauses 0.2-0.5 s" in names
    assert "upgrade accepted → first media, no pause" not in names
    faults = figures(Results(router=Restart(calls=1)), 30, 32, 8)
    assert next(one for one in faults if one.name.startswith("kill -9 while speaking → bridging")).verdict == "over"


def test_the_document_names_what_is_over_and_neither_host_nor_path() -> None:
    found = figures(Results(singles_paused=[LOST]), 30, 32, 8)
    written = document(found, machine(), ["a remark"])
    assert "Over the target:\n\n- one call after another: " in written
    assert "- a remark" in written
    assert str(Path.cwd()) not in written
    assert "://" not in written
    assert "pipecat-ai" in versions()


def test_quick_is_a_setting_or_a_flag_and_writes_no_report_by_itself() -> None:
    assert (parse([], "").extent, parse([], "").beside) == (SHARE, BESIDE)
    assert parse([], "").report == Path("BENCHMARKS.md")
    for options in (parse([], "1"), parse(["--quick"], "")):
        assert (options.extent, options.beside) == (QUICK_SHARE, QUICK_BESIDE)
        assert options.report is None
    assert parse(["--quick", "--report", "x.md"], "").report == Path("x.md")


def test_what_takes_longer_is_measured_by_words_of_its_own() -> None:
    assert parse([], "").kind == "beside"
    for kind in ("own", "faults"):
        assert (parse([kind], "").kind, parse([kind], "").extent) == (kind, FULL)
        assert parse([kind], "1").extent is QUICK


def test_another_kind_of_run_changes_its_own_section_and_nothing_else() -> None:
    whole = document(figures(Results(singles_paused=[CALL]), 30, 32, 8), ABOUT, ["a remark"])
    faults = figures(Results(router=Restart(calls=2, kept=2)), 30, 32, 8)
    once = with_section(whole, "faults", faults, ABOUT, ["of faults"])
    assert "## Faults and bursts" in once
    assert "of faults" in once
    assert {name: body for name, body in sections(once).items() if name != "Faults and bursts"} == sections(whole)
    assert with_section(once, "faults", faults, ABOUT, ["of faults"]) == once
    again = document(figures(Results(singles_paused=[LOST]), 30, 32, 8), ABOUT, ["another"], before=once)
    assert sections(again)["Faults and bursts"] == sections(once)["Faults and bursts"]
    assert "a remark" not in again


def test_the_share_of_other_processes_is_said() -> None:
    assert "other processes" in OthersShare().remark()
