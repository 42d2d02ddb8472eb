"""The comparison's own arithmetic, its charts, and that the bots it compares with answer a call at all."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING
from xml.etree.ElementTree import fromstring

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bench import load, processes, systems, talking
from tests.bench.beside import charts, figures, markdown, rows, steps, text
from tests.bench.compare import Comparison, Crowd
from tests.bench.document import document
from tests.bench.load import Limit, Step
from tests.bench.measure import leading_quiet_s
from tests.bench.plots import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, Chart, Line, shares, svg
from tests.bench.systems import NAMES, OLD, OURS, STOCK, Rival
from tests.bench.talking import Talk, answers, cached_shares, gaps, later_connections
from tests.effort import some
from tests.standins.carrier_playout import Span
from tests.standins.process import running

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NEVER = float("inf")


def span(start_s: float, duration_s: float, utterance: int) -> Span:
    return Span(start_s, b"\x00" * round(8000 * duration_s), utterance)


def step(system: str, calls: int, *replies: float, gap_s: float = 0.0, missing: int = 0) -> Step:
    return Step(system, calls, replies, missing, (gap_s,) if gap_s else (), 0.1, 0.0, 0.0, 0.0)


def comparison(**ladders: Sequence[Step]) -> Comparison:
    found = Comparison(crowds={1: Crowd()})
    for name, first in ((OURS, 0.001), (STOCK, 1.0), (OLD, 2.0)):
        found.crowds[1].first[name] = [[first], [2 * first]]
        found.crowds[1].ready[name] = [[0.1], [None]]
        found.replies[name] = [[0.6, 0.7], [0.6]] if name == OURS else [[1.5, 1.5], [1.2]]
        found.barge_ins[name] = [[0.25], [0.26]]
        found.call_bytes[name] = [20e6]
    found.later_connections[OURS] = [0, 0]
    for name, steps_ in ladders.items():
        found.steps[{"ours": OURS, "stock": STOCK, "old": OLD}[name]] = list(steps_)
    return found


def test_an_answer_is_what_begins_after_the_caller_has_fallen_silent() -> None:
    heard = [span(0.0, 1.0, 0), span(3.0, 0.5, 1), span(3.5, 2.0, 1), span(9.0, 1.0, 2)]
    assert answers(heard, [2.0, 8.0]) == pytest.approx([1.0, 1.0])


def test_what_was_being_said_when_the_caller_fell_silent_is_no_answer() -> None:
    heard = [span(1.0, 1.0, 0), span(2.0, 1.0, 0), span(3.0, 1.0, 0)]
    assert answers(heard, [1.5]) == [None]
    assert answers([*heard, span(5.0, 1.0, 1)], [1.5]) == [pytest.approx(3.5)]


def test_an_answer_that_comes_after_the_next_question_is_missing() -> None:
    assert answers([span(7.0, 1.0, 0)], [1.0, 6.0]) == [None, pytest.approx(1.0)]
    assert answers([], [1.0]) == [None]


def test_gaps_are_silences_inside_of_what_is_said_within_the_window() -> None:
    heard = [span(0.0, 1.0, 0), span(1.05, 1.0, 0), span(4.0, 1.0, 1), span(5.03, 1.0, 1), span(6.5, 1.0, 1)]
    assert gaps(heard, 0.04, 0.0, 10.0) == pytest.approx([0.05, 0.47])
    assert gaps(heard, 0.04, 2.0, 10.0) == pytest.approx([0.47])


def test_the_quiet_beginning_of_a_recording_is_not_the_callers_voice() -> None:
    assert leading_quiet_s(b"\xff" * 4000 + b"\x00" * 80) == 0.5
    assert leading_quiet_s(b"\xff" * 80) == 0.01
    assert talking.said_s(b"\x00" * 161) == pytest.approx(0.04)


def test_connections_that_were_there_before_the_second_question_do_not_count() -> None:
    talk = Talk(dialled_at=0.0, second_at=10.0, plain_until=20.0)

    def asked(at: float, connection: int, kind: str = "completion", system: str = OURS) -> Mapping[str, object]:
        model = {"model": systems.MODELS[system]} if kind == "completion" else {}
        return {"at": at, "connection": connection, "kind": kind, **model}

    before = [asked(1.0, 1), asked(2.0, 2, "models")]
    assert later_connections([*before, asked(11.0, 1), asked(12.0, 2)], OURS, talk) == 0
    assert later_connections([*before, asked(11.0, 3), asked(12.0, 3), asked(13.0, 4)], OURS, talk) == 2
    assert later_connections([*before, asked(11.0, 3, system=STOCK), asked(25.0, 4)], OURS, talk) == 0


def test_the_part_of_a_prompt_that_was_read_before_is_that_of_later_answers_of_the_system() -> None:
    talk = Talk(dialled_at=0.0, second_at=10.0, plain_until=20.0)

    def asked(at: float, cached: int, system: str = OURS) -> dict[str, object]:
        usage = {"prompt_tokens": 2000, "prompt_tokens_details": {"cached_tokens": cached}}
        return {"at": at, "kind": "completion", "model": systems.MODELS[system], "usage": usage}

    log = [asked(5.0, 0), asked(11.0, 1000), asked(12.0, 1500, STOCK), asked(21.0, 2000)]
    assert cached_shares(log, OURS, talk) == [0.5]


def test_a_limit_lies_on_the_line_between_two_steps() -> None:
    taken = [step(OURS, 2, 1.0), step(OURS, 10, 1.0), step(OURS, 20, 1.5)]
    assert load.held(taken, 1.25) == Limit(15.0, broke=True)
    assert load.held(taken, 2.0) == Limit(20.0, broke=False)
    assert load.held([*taken, step(OURS, 24, missing=3)], 2.0) == Limit(20.0, broke=True)
    assert load.held([], 1.0) == Limit(0.0, broke=False)
    assert load.held([step(OURS, 2, 3.0)], 1.0) == Limit(0.0, broke=True)


def test_an_unanswered_question_counts_as_the_longest_answer() -> None:
    assert step(OURS, 2, 1.0, 1.2, missing=1).median == 1.2
    assert step(OURS, 2, 1.0, missing=2).median == NEVER


def test_gaps_end_what_is_whole() -> None:
    taken = [step(OURS, 2, 1.0), step(OURS, 6, 1.0), step(OURS, 10, 1.0, gap_s=0.05)]
    assert load.whole(taken) == Limit(6.0, broke=True)
    assert load.whole(taken[:2]) == Limit(6.0, broke=False)


def test_steps_go_on_until_nothing_is_left_to_be_learnt() -> None:
    late = [step(OURS, 2, 1.0), step(OURS, 6, 1.3)]
    assert not load.exhausted([], 1.0)
    assert not load.exhausted(late, 1.0)  # no gap was heard yet
    torn = [*late, step(OURS, 10, 1.4, gap_s=0.1)]
    assert load.exhausted(torn, 1.0)
    assert not load.exhausted(torn, 1.5)
    assert load.exhausted([step(OURS, 2, missing=9)], 99.0)


def test_a_step_in_which_the_bench_itself_was_late_does_not_count() -> None:
    one = step(OURS, 2, 1.0)
    assert not one.void
    late = [replace(one, late_frames=0.02), replace(one, late_token_s=0.05), replace(one, others=0.2)]
    assert all(each.void for each in late)
    found = comparison(ours=[one, *late], stock=[step(STOCK, 2, 1.0)])
    assert found.valid(OURS) == [one]
    assert steps(found).count("does not count") == 3


def test_ratios_are_those_of_the_medians_of_each_round() -> None:
    reply = next(row for row in rows(comparison()) if row.name.startswith("caller's last sample"))
    assert reply.ratios[STOCK] == pytest.approx((0.65 / 1.5, 0.5))
    assert reply.ratio(STOCK) == "0.47 (0.43 to 0.50)"
    ready = next(row for row in rows(comparison()) if "ear and voice" in row.name)
    assert ready.missing[OURS] == 1
    assert ready.cell(OURS) == "100, 1 missing"


def test_answers_are_judged_without_the_time_of_the_providers_and_with_what_is_missing() -> None:
    found = {one.name: one for one in figures(comparison())}
    beyond = found["answer beyond the providers' own time"]
    assert beyond.values == pytest.approx((0.11, 0.21, 0.11))
    assert beyond.verdict == "ok"
    silent = comparison()
    silent.replies[OURS][0][0] = None
    assert {one.name: one for one in figures(silent)}[beyond.name].verdict == "over"


def test_calls_per_core_are_judged_only_when_the_steps_went_so_far() -> None:
    name = "calls per core at equal answers, ratio to stock's"
    assert name not in {one.name for one in figures(comparison(ours=[step(OURS, 2, 0.6)], stock=[step(STOCK, 2, 1.5)]))}
    stock = [step(STOCK, 2, 1.5), step(STOCK, 10, 2.5)]
    ours = [step(OURS, 2, 0.6), step(OURS, 10, 0.8), step(OURS, 20, 0.9)]
    figure = next(one for one in figures(comparison(ours=ours, stock=stock)) if one.name == name)
    assert figure.values == pytest.approx((20 / 4.4,))
    assert figure.note == "≥ 20 and 4.4"
    unbroken = next(one for one in figures(comparison(ours=ours, stock=stock[:1])) if one.name == name)
    assert unbroken.verdict == "over"


def test_the_document_shows_the_comparison_with_its_charts() -> None:
    found = comparison(ours=[step(OURS, 2, 0.6, gap_s=0.1)], stock=[step(STOCK, 2, 1.5, missing=9)])
    written = document(figures(found), {"cores": "2"}, [], found)
    assert "## Beside the stock Pipecat bot" in written
    assert all(f"(tests/bench/plots/{name})" in written for name in charts(found))
    assert "| 2 | stock Pipecat | never |" in written
    assert all(name in text(rows(found)) and name in markdown(rows(found)) for name in NAMES)


def test_charts_are_well_formed_and_name_their_axes_and_lines() -> None:
    found = comparison(ours=[step(OURS, 2, 0.6), step(OURS, 6, missing=4)], stock=[step(STOCK, 2, 1.5)])
    for chart in charts(found).values():
        root = fromstring(svg(chart))  # noqa: S314 - our own text
        words = {"".join(one.itertext()) for one in root.iter("{http://www.w3.org/2000/svg}text")}
        assert {chart.title, chart.x.label, chart.y.label} <= words
        assert {line.name for line in chart.lines} <= words
        assert svg(chart) == svg(chart)


@given(st.lists(st.tuples(st.floats(0, 1e7), st.floats(0, 1e7)), max_size=20), st.booleans(), st.booleans())
def test_every_point_of_a_chart_lies_in_its_frame(points: list[tuple[float, float]], log_x: bool, log_y: bool) -> None:  # noqa: FBT001
    chart = Chart("t", Axis("x", log=log_x), Axis("y", log=log_y), (Line("l", tuple(points), dots=True),))
    for circle in fromstring(svg(chart)).iter("{http://www.w3.org/2000/svg}circle"):  # noqa: S314 - our own text
        assert LEFT - 1 <= float(circle.attrib["cx"]) <= WIDTH - RIGHT + 1
        assert TOP - 1 <= float(circle.attrib["cy"]) <= HEIGHT - BOTTOM + 1


def test_a_distribution_rises_to_a_hundred_percent() -> None:
    assert shares([2.0, 1.0]) == ((1.0, 0.0), (1.0, 0.0), (1.0, 50.0), (2.0, 50.0), (2.0, 100.0))
    assert shares([]) == ()


def test_cpu_is_that_of_processes_that_are_still_there_and_of_new_ones() -> None:
    assert processes.spent_s({1: 1.0, 2: 5.0}, {1: 1.5, 3: 0.25}) == 0.75


def test_processes_are_bound_with_all_their_threads_and_their_children() -> None:
    program = "import threading, time; threading.Thread(target=time.sleep, args=(60,)).start(); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        family = processes.family([child.pid])
        core = frozenset([min(os.sched_getaffinity(0))])
        processes.pin(family, core)
        tasks = [thread.id for thread in psutil.Process(child.pid).threads()]
        assert len(tasks) == 2
        assert {frozenset(os.sched_getaffinity(task)) for task in tasks} == {core}
        assert processes.uss(family) > 0
        assert processes.cpu_s(family).keys() == {child.pid}
        child.kill()
    assert processes.family([child.pid]) == []
    assert processes.uss(family) == 0


async def test_the_bots_compared_with_answer_a_call_on_the_same_stand_ins() -> None:
    """One call each: a greeting that can be interrupted, an answer, and word of when they were ready."""
    names = some((STOCK, OLD), 1)
    async with (
        running("cartesia", connect_ms=0.0, lexicon=str(systems.LEXICON)) as cartesia,
        running("openai_api") as openai,
    ):
        async with running("supabase_api") as supabase, systems.rivals(cartesia, openai, supabase, names) as (found, _):
            await asyncio.gather(*map(_answers, found))
        log = (await openai.state())["log"]
    completions = [one for one in log if one["kind"] == "completion"]
    assert {one["model"] for one in completions} == {systems.MODELS[name] for name in names}
    for one in completions:
        asked = [message["content"] for message in one["messages"] if message["role"] == "user"]
        stock = one["model"] == systems.MODELS[STOCK]
        assert (asked[0] == "Please introduce yourself to the user.") is stock
        assert bool(one["tools"]) is not stock


async def _answers(rival: Rival) -> None:
    async with rival.carrier() as carrier:
        call = await carrier.dial()
        await call.until(lambda: bool(call.streams and call.streams[0].media))
        await call.say(talking.recording("no"))
        await call.hears(lambda line: line.utterances > 1 and not line.playing and line.quiet_s > 1)
        assert "You said: No," in call.heard.text(), rival.name
        assert call.streams[0].clears, rival.name
        assert await rival.readiness([call]) != [None], rival.name
