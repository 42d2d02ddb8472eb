"""The rows about what callers get: the numbers of now, first audio, replies, calls."""

from typing import Final

from deploy.grafana.panels import BLUE, GREEN, RED, YELLOW, Frame, Query, Row, Words, heat, number, row, timeline, trend
from deploy.grafana.queries import (
    FIRST_AUDIO_S,
    INSTANCE,
    POOL,
    REPLY_S,
    WAITED_S,
    buckets,
    gathered,
    grown,
    quantile,
    quantiles,
    within,
)

GREETING: Final = "offhook_greeting_start_latency_seconds"
START: Final = "offhook_start_to_first_media_seconds"
TURN: Final = "offhook_turn_latency_seconds"
WHOLE: Final = 'stage="total"'
ALL: Final = "$__range"


def now() -> Row:
    """What an operator looks at first."""
    return row(
        "Now",
        number(
            Frame(
                "Ready workers",
                "short",
                Words(
                    "Workers that can take a call this moment, of all pools.",
                    "`POOL_READY` for each pool, less for half a second after each call began.",
                    "At 0 callers wait: see the row Pool, and `/readyz` of the pool for the reason. Often "
                    "short: raise `POOL_READY`.",
                ),
                3,
                4,
            ),
            Query(gathered("sum", "offhook_workers", POOL, 'state="ready"'), "ready"),
            RED,
            {1: YELLOW, 2: GREEN},
        ),
        number(
            Frame(
                "Calls in progress",
                "short",
                Words(
                    "Calls with a live stream.",
                    "What you expect at this hour.",
                    "None when there should be some: is the number's webhook set (`offhook-doctor`), do requests "
                    "arrive (row Router)?",
                ),
                3,
                4,
            ),
            Query(gathered("sum", "offhook_calls_active", POOL), "calls"),
            BLUE,
        ),
        number(
            Frame(
                "Callers waiting",
                "short",
                Words(
                    "Callers in the hold line, which all routers share.",
                    "0.",
                    "More callers than workers: raise `POOL_READY` and `POOL_MAX`, or start another pool; set "
                    "`OVERFLOW_NUMBER`.",
                ),
                3,
                4,
            ),
            Query(gathered("max", "offhook_hold_waiting", INSTANCE), "waiting"),
            GREEN,
            {1: YELLOW, 5: RED},
        ),
        number(
            Frame(
                "Greetings in time",
                "percentunit",
                Words(
                    "Share of the calls shown that heard the greeting within 10 ms of the accepted socket.",
                    "99 %. A burst of calls may have 60 ms.",
                    "See the row First audio.",
                ),
                3,
                4,
            ),
            Query(within(FIRST_AUDIO_S[0], GREETING, POOL, over=ALL), "in time"),
            RED,
            {0.95: YELLOW, 0.99: GREEN},
        ),
        number(
            Frame(
                "Replies in time",
                "percentunit",
                Words(
                    "Share of the replies shown that began within 1.5 s of the end of the caller's speech.",
                    "95 %.",
                    "See the row Replies: it tells ears, model and voice apart.",
                ),
                3,
                4,
            ),
            Query(within(REPLY_S[1], TURN, POOL, WHOLE, over=ALL), "in time"),
            RED,
            {0.9: YELLOW, 0.95: GREEN},
        ),
        number(
            Frame(
                "Cold starts",
                "short",
                Words(
                    "Calls in the time shown that found no ready worker, and waited.",
                    "0.",
                    "Raise `POOL_READY` to the most calls that begin within a second.",
                ),
                3,
                4,
            ),
            Query(grown("offhook_cold_starts_total", POOL, over=ALL), "cold starts"),
            GREEN,
            {0.5: YELLOW, 5: RED},
        ),
        number(
            Frame(
                "Workers lost in calls",
                "short",
                Words(
                    "Workers that died, hung or took too much memory during a call, in the time shown.",
                    "0; and when not, every one of them `resumed` (row Failovers).",
                    "The pool's log has the worker's last words, with the stack when it was stuck.",
                ),
                3,
                4,
            ),
            Query(grown("offhook_failovers_total", POOL, over=ALL), "lost"),
            GREEN,
            {0.5: YELLOW, 5: RED},
        ),
        number(
            Frame(
                "Targets down",
                "short",
                Words(
                    "Processes that Prometheus knows of and cannot scrape.",
                    "0.",
                    "The row Processes says which: is it running, is its metrics port reachable from Prometheus?",
                ),
                3,
                4,
            ),
            Query("count(up) - sum(up)", "down"),
            GREEN,
            {1: RED},
        ),
        timeline(
            Frame(
                "Alerts that fire",
                "short",
                Words(
                    "The alerts of `prometheus/rules/alerts.yml`, while they fire.",
                    "No data: none does.",
                    "`prometheus/RUNBOOK.md` has a section for each.",
                ),
                24,
                6,
            ),
            Query('max by (alertname, severity) (ALERTS{alertstate="firing"})', "{{alertname}} ({{severity}})"),
            {1: ("firing", RED)},
        ),
    )


def first_audio() -> Row:
    """From the socket to the greeting."""
    return row(
        "First audio",
        heat(
            Frame(
                "First audio, call by call",
                "s",
                Words(
                    "From the accepted media socket to the first media message written, call by call.",
                    "All below the edge at 10 ms; up to 60 ms when thirty calls arrive at once.",
                    "Compare it with the panel beside it: what only this one shows is the carrier's pause "
                    "before `start`, or a router that is short of CPU. Slow in both: see event loop lag.",
                ),
                12,
            ),
            buckets(GREETING, POOL),
        ),
        heat(
            Frame(
                "First audio in the worker, call by call",
                "s",
                Words(
                    "From the carrier's `start` read to the first media message written: our own part of it.",
                    "Below 1 ms; below 10 ms in a burst.",
                    "The machine has too few CPUs for its calls, or an agent has no greeting clip and its "
                    "voice speaks the greeting.",
                ),
                12,
            ),
            buckets(START, POOL),
        ),
        trend(
            Frame(
                "First audio, percentiles (last $window)",
                "s",
                Words(
                    "The same, as percentiles. The lines are the targets: 10 ms for a call, 60 ms for one of "
                    "thirty at once.",
                    "p99 below the first line, p50 at 2 ms.",
                    "Only p99 over it: bursts; give the host more CPU. All of them: "
                    "`DIRECT_GREETING_INJECTION` is off or clips are missing.",
                ),
                12,
            ),
            *quantiles(GREETING, POOL),
            Query(quantile(0.99, START, POOL), "p99 in the worker"),
            lines=FIRST_AUDIO_S,
        ),
        trend(
            Frame(
                "First audio within its targets (last $window)",
                "percentunit",
                Words(
                    "Share of the calls whose greeting began within 10 ms, and within 60 ms.",
                    "99 % within 10 ms, all within 60 ms.",
                    "As for the percentiles.",
                ),
                12,
            ),
            *(Query(within(edge, GREETING, POOL), f"within {edge * 1000:g} ms") for edge in FIRST_AUDIO_S),
            most=1,
        ),
    )


def replies() -> Row:
    """From the end of the caller's speech to the agent's."""
    return row(
        "Replies",
        heat(
            Frame(
                "Replies, turn by turn",
                "s",
                Words(
                    "From the end of the caller's speech to the first audio of the reply, turn by turn.",
                    "Most below 0.8 s, nearly all below 1.5 s.",
                    "The panels below tell ears, model and voice apart.",
                ),
                12,
            ),
            buckets(TURN, POOL, WHOLE),
        ),
        trend(
            Frame(
                "Replies, percentiles (last $window)",
                "s",
                Words(
                    "The same, as percentiles, with lines at 0.8 s and 1.5 s.",
                    "p50 below the first line, p95 below the second.",
                    "Up in one stage: that provider is slow, see Providers. Up in all: CPU, see event loop "
                    "lag; a pool that is full slows everybody down.",
                ),
                12,
            ),
            *quantiles(TURN, POOL, WHOLE),
            lines=REPLY_S,
        ),
        trend(
            Frame(
                "Stages of a reply, p50 (last $window)",
                "s",
                Words(
                    "End of speech to final words (stt), to the model's first token (llm), to the first audio (tts).",
                    "Below 0.2 s for ears and voice; the model as fast as its provider says.",
                    "stt: the ear's provider, or `turns.patience`. llm: prompt cache (row Providers), model. "
                    "tts: `CARTESIA_TTS_BUFFER_MS`.",
                ),
            ),
            Query(quantile(0.5, TURN, POOL, 'stage!="total"', by="stage"), "{{stage}}"),
        ),
        trend(
            Frame(
                "Stages of a reply, p95 (last $window)",
                "s",
                Words(
                    "The same for the slow ones.",
                    "Not more than twice the p50.",
                    "One stage far apart from its p50: retries of that provider, see Providers.",
                ),
            ),
            Query(quantile(0.95, TURN, POOL, 'stage!="total"', by="stage"), "{{stage}}"),
        ),
        trend(
            Frame(
                "The first answer of a call (last $window)",
                "s",
                Words(
                    "First completion of a call asked for to its first token, and `start` to ears and voice "
                    "connected (0: before).",
                    "As fast as later ones, since its connection was opened while the carrier was dialling; "
                    "ears connected before `start`.",
                    "Slow ears: the provider's connect time. Slow model: `OPENAI_CACHE_WARMUP`, and variables "
                    "last in the prompt.",
                ),
            ),
            *quantiles("offhook_first_llm_response_seconds", POOL, of_them=(0.5, 0.95)),
            Query(quantile(0.95, "offhook_agent_ready_seconds", POOL), "ears and voice, p95"),
        ),
    )


def calls() -> Row:
    """How calls go and end."""
    return row(
        "Calls",
        trend(
            Frame(
                "Calls in progress and waiting",
                "short",
                Words(
                    "Calls with a live stream at each pool, and callers in the hold line.",
                    "Nobody waits.",
                    "Waiting while workers are ready: a router has lost its pool, see Router. Else more "
                    "workers are needed.",
                ),
            ),
            Query(gathered("sum", "offhook_calls_active", POOL, by="instance"), "calls {{instance}}"),
            Query(gathered("max", "offhook_hold_waiting", INSTANCE), "waiting"),
        ),
        trend(
            Frame(
                "Calls ended, by reason (last $window)",
                "short",
                Words(
                    "Why calls were over.",
                    "`caller_hangup`, `agent_hangup` and `transferred`.",
                    "`hangup_before_reply`: callers give up early, see First audio and Replies. `worker_lost`, "
                    "`poisoned`, `stream_lost`: the pool's log names call and reason.",
                ),
            ),
            Query(grown("offhook_calls_total", POOL, by="end_reason"), "{{end_reason}}"),
            stacked=True,
        ),
        trend(
            Frame(
                "What callers got behind the stream (last $window)",
                "short",
                Words(
                    "What `/call-ended` answered when a stream was over.",
                    "`hang_up`, `transfer`, or `nothing` when the caller had hung up.",
                    "`reconnect`: a pool or its machine died. `apology`: nobody knew why the call had ended.",
                ),
            ),
            Query(grown("offhook_stream_ends_total", INSTANCE, by="result"), "{{result}}"),
            stacked=True,
        ),
        trend(
            Frame(
                "Time in the hold line (last $window)",
                "s",
                Words(
                    "How long callers who had to wait did so. The line is the default of `HOLD_MAX`.",
                    "No data: nobody waited. Else a few seconds.",
                    "More workers: `POOL_READY`, `POOL_MAX`, another pool.",
                ),
            ),
            *quantiles("offhook_hold_seconds", INSTANCE, of_them=(0.5, 0.95)),
            lines=(WAITED_S,),
        ),
        trend(
            Frame(
                "How waiting ended (last $window)",
                "short",
                Words(
                    "What became of callers in the hold line.",
                    "`served`.",
                    "`left`: they gave up. `overflow` and `apology`: they waited `HOLD_MAX`. Set "
                    "`OVERFLOW_NUMBER` if there are apologies.",
                ),
            ),
            Query(grown("offhook_hold_seconds_count", INSTANCE, by="outcome"), "{{outcome}}"),
            stacked=True,
        ),
        trend(
            Frame(
                "Odd things (last $window)",
                "short",
                Words(
                    "Calls that were cut off and were to go on, by what they got; what streams brought that "
                    "they should not.",
                    "0.",
                    "Reconnections: see whether a pool or its machine was lost. Oddities: somebody who is not "
                    "the carrier, or a proxy in between that changes frames.",
                ),
            ),
            Query(grown("offhook_reconnections_total", INSTANCE, by="result"), "cut off, {{result}}"),
            Query(grown("offhook_stream_oddities_total", POOL, by="oddity"), "{{oddity}}"),
        ),
    )
