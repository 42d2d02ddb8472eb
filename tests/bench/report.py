"""Results as figures beside their targets, and those as a table for a terminal and for BENCHMARKS.md. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.bench import beside, switches, targets, tools, turns
from tests.bench.figures import Figure, Target
from tests.bench.targets import P50, P99

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tests.bench.measure import Measured
    from tests.bench.outages import Restart
    from tests.bench.plan import Results

HEADER: Final = ("", "n", "p50", "p99", "unit", "target", "")


def figures(results: Results, at_once: int, ready: int, few: int) -> list[Figure]:
    """Put every number that was asked for beside its target, and what explains it below."""
    own = [
        *_one_after_another(results),
        *_crowd(results, f"{at_once} at once, {ready} ready workers"),
        *_workers(results, ready, few),
        *tools.figures(results.tools),
        *turns.figures(results.turns),
        *switches.figures(results.switches),
    ]
    return [
        *(beside.figures(results.comparison) if results.comparison is not None else []),
        *(figure for figure in own if figure.values or figure.missing),
        *(_faults(results) if results.router.calls else []),
        *(_overload(results, ready) if results.burst.calls else []),
    ]


def _one_after_another(results: Results) -> list[Figure]:
    group = "one call after another"
    both = [*results.singles_paused, *results.singles_at_once]
    asked = [one.measured for one in results.replies]
    return [
        _of(group, "webhook sent → TwiML read (with connecting)", both, lambda one: one.webhook, *targets.WEBHOOK),
        *_first_media(group, results.singles_paused, "carrier pauses 0.2-0.5 s", *targets.FIRST_MEDIA),
        *_first_media(group, results.singles_at_once, "no pause", *targets.FIRST_MEDIA),
        _ready(group, "start → agent ready, carrier pauses 0.2-0.5 s", results.singles_paused, *targets.READY_PAUSED),
        _ready(group, "start → agent ready, no pause", results.singles_at_once, *targets.READY),
        _gaps(group, asked),
        _plain(group, "reply heard (last sample said → first sample played)", [one.reply_s for one in results.replies]),
        *(
            _of(group, f"  of it, in the worker: {what}", asked, _timing(f"turn_{stage}_s"))
            for stage, what in (
                ("stt", "end of speech → final text"),
                ("llm", "→ first token"),
                ("tts", "→ first audio"),
                ("total", "end of speech → first audio"),
            )
        ),
    ]


def _crowd(results: Results, group: str) -> list[Figure]:
    both = [*results.bursts_paused, *results.bursts_at_once]
    knowing = [one.measured for one, _ in results.knowing]
    knew = sum(knew for _, knew in results.knowing)
    silent = sum(one.reply_s is None for one, _ in results.knowing)
    share = (results.asked_knowing / len(results.knowing),) if results.knowing else ()
    return [
        _of(group, "webhook sent → TwiML read (with connecting)", both, lambda one: one.webhook, *targets.WEBHOOK),
        Figure(group, "webhook in the router (upper edges of its histogram)", tuple(results.router_webhook_edges)),
        *_first_media(group, results.bursts_paused, "carrier pauses 0.2-0.5 s", *targets.FIRST_MEDIA_AT_ONCE),
        *_first_media(group, results.bursts_at_once, "no pause", *targets.FIRST_MEDIA_AT_ONCE),
        _ready(group, "start → agent ready, carrier pauses 0.2-0.5 s", results.bursts_paused, *targets.READY_PAUSED),
        _ready(group, "start → agent ready, no pause", results.bursts_at_once, *targets.READY_AT_ONCE),
        _gaps(group, results.bursts_paused),
        Figure(
            group,
            "first answer asked for with its caller's record (500 ms lookup)",
            share,
            targets.KNOWING,
            unit="%",
            note=f"{results.asked_knowing} of {len(results.knowing)} calls; {knew} heard it without a gap, {silent} nothing",
        ),
        _of(group, "reservation → customer in context (500 ms lookup)", knowing, _timing("context_injection_s")),
        _plain(group, "reply heard, all asking within 3.5 s", [one.reply_s for one, _ in results.knowing]),
    ]


def _faults(results: Results) -> list[Figure]:
    group = "faults, from the caller's side"
    killed, stalled = results.killed, results.stalled
    return [
        _share(group, "kill -9: calls whose stream stayed open", killed.streams_kept, killed.calls, f"{killed.hits} kills"),
        _share(group, "kill -9: calls that remembered what was said before", killed.remembered, killed.calls),
        _share(group, "kill -9: answers owed that were given, whole", killed.answered, killed.owed),
        Figure(group, "kill -9 while speaking → bridging words read", tuple(killed.bridging_s), targets.BRIDGING),
        Figure(
            group, "kill -9 while speaking → the agent's own words heard", tuple(killed.own_words_s),
            targets.OWN_WORDS,
        ),
        Figure(group, "stopped while speaking → bridging words read", tuple(stalled.bridging_s), targets.STALLED_BRIDGING),
        _share(group, "stopped: calls whose stream stayed open", stalled.streams_kept, stalled.calls),
        *_restart(group, "router killed and started again", results.router),
        *_restart(group, "Redis stopped and started again, empty", results.redis),
        _share(
            group, "  webhooks answered meanwhile", len(results.redis.webhooks_s),
            len(results.redis.webhooks_s) + results.redis.webhooks_failed,
        ),
        Figure(group, "  webhook sent → TwiML read meanwhile", tuple(results.redis.webhooks_s), targets.WEBHOOK_WITHOUT_REDIS),
    ]  # fmt: skip


def _restart(group: str, what: str, restart: Restart) -> list[Figure]:
    return [
        _share(group, f"{what}: calls that went on", restart.kept, restart.calls),
        Figure(group, "  gaps in what the agents said (sum for each call)", tuple(restart.gaps_s), targets.NONE_LOST),
        Figure(group, "  holes in what the agents heard", (restart.frames_lost,), targets.NONE_LOST, unit=""),
        *([Figure(group, "  killed → the next call served", (restart.back_s,))] if restart.back_s else []),
    ]


def _overload(results: Results, ready: int) -> list[Figure]:
    burst = results.burst
    group = f"{burst.calls} calls in one moment, {ready} ready workers"
    return [
        _share(group, "served, or told why not", burst.served + burst.turned_away, burst.calls,
               f"{burst.served} served, {burst.held} of them held before, {burst.turned_away} turned away"),
        Figure(group, "upgrade accepted → first media, served at once", tuple(burst.first_s), targets.FIRST_MEDIA_OF_A_BURST),
        Figure(group, "gaps in what other agents said meanwhile", tuple(burst.live_gaps_s)),
    ]  # fmt: skip


def _share(group: str, name: str, count: int, of: int, note: str = "") -> Figure:
    share = (count / of,) if of else ()
    return Figure(group, name, share, targets.EVERY_CALL, unit="%", note=note or f"{count} of {of}")


def _workers(results: Results, ready: int, few: int) -> list[Figure]:
    group = "workers"
    lines = [
        Figure(
            group,
            "fork → READY, 2 at once, seen by the pool (upper edges)",
            tuple(results.build_edges),
            targets.BUILD,
        ),
        Figure(group, "fork → READY, 2 at once, in the worker", tuple(results.build_s)),
        Figure(group, "fork → READY of replacements, with calls up", tuple(results.refill_edges)),
    ]
    for memory, count in ((results.few, few), (results.many, ready)):
        if memory is not None:
            sizes = tuple(float(size) for size in memory.workers)
            lines.append(
                Figure(group, f"USS of a ready worker, {count} ready", sizes, targets.READY_WORKER_BYTES, unit="MB")
            )
    if results.many is not None:
        lines += [
            Figure(group, f"USS of the {name}, {ready} ready", (float(size),), unit="MB")
            for name, size in (
                ("zygote", results.many.zygote),
                ("pool", results.many.pool),
                ("router", results.many.router),
            )
        ]
        name = f"PSS of pool, zygote and {ready} ready workers together"
        lines.append(Figure(group, name, (float(results.many.pss),), unit="MB"))
    return lines


def _of(
    group: str, name: str, calls: Sequence[Measured], read: Callable[[Measured], float | None], *limits: Target
) -> Figure:
    return _plain(group, name, [read(one) for one in calls], *limits)


def _plain(group: str, name: str, values: Iterable[float | None], *limits: Target) -> Figure:
    all_of_them = list(values)
    known = tuple(value for value in all_of_them if value is not None)
    return Figure(group, name, known, limits, missing=len(all_of_them) - len(known))


def _first_media(group: str, calls: Sequence[Measured], pause: str, *limits: Target) -> list[Figure]:
    return [
        _of(group, f"upgrade accepted → first media, {pause}", calls, lambda one: one.upgrade_to_media, *limits),
        _of(group, f"  upgrade written → first media, {pause}", calls, lambda one: one.dialled_to_media),
        _of(group, f"  start → first media in the worker, {pause}", calls, _timing("start_to_first_media_s")),
    ]


def _ready(group: str, name: str, calls: Sequence[Measured], *limits: Target) -> Figure:
    return _of(group, name, calls, _timing("agent_ready_s"), *limits)


def _gaps(group: str, calls: Sequence[Measured]) -> Figure:
    return _of(group, "gaps in the greeting (sum for each call)", calls, lambda one: sum(one.greeting_gaps))


def _timing(name: str) -> Callable[[Measured], float | None]:
    return lambda one: one.worker.get(name)


def rows(found: Sequence[Figure]) -> list[tuple[str, ...]]:
    """Give the cells of each figure, in the order of HEADER."""
    return [
        (
            figure.name,
            str(len(figure.values)) + (f" (+{figure.missing} missing)" if figure.missing else ""),
            figure.shown(P50),
            figure.shown(P99),
            figure.unit,
            figure.target_shown,
            " ".join(filter(None, (figure.verdict, figure.note))),
        )
        for figure in found
    ]


def text(found: Sequence[Figure]) -> str:
    """Lay the table out for a terminal."""
    cells = rows(found)
    widths = [max(len(row[index]) for row in (HEADER, *cells)) for index in range(len(HEADER))]

    def laid(row: tuple[str, ...]) -> str:
        sides = ("<", ">", ">", ">", "<", "<", "<")
        return "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)).rstrip()

    lines: list[str] = []
    group = ""
    for figure, row in zip(found, cells, strict=True):
        if figure.group != group:
            group = figure.group
            lines += ["", laid((group, *HEADER[1:]))]
        lines.append(laid(row))
    return "\n".join(lines)


def markdown(found: Sequence[Figure]) -> str:
    """Lay the table out for BENCHMARKS.md."""
    lines: list[str] = []
    group = ""
    for figure, row in zip(found, rows(found), strict=True):
        if figure.group != group:
            group = figure.group
            lines += ["", f"| {group} | n | p50 | p99 | unit | target | |", "|---|--:|--:|--:|---|---|---|"]
        lines.append("| " + " | ".join(cell.strip() for cell in row) + " |")
    return "\n".join(lines[1:])
