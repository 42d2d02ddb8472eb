"""The rows about those who serve: pool and workers, failovers, providers."""

from typing import Final

from deploy.grafana.panels import (
    BLUE,
    GREEN,
    GREY,
    NOTHING,
    RED,
    YELLOW,
    Frame,
    Query,
    Row,
    Words,
    row,
    timeline,
    trend,
)
from deploy.grafana.queries import POOL, READY_S, RESUMED_S, gathered, grown, of, quantiles, share
from shared.workers import WorkerState

WORKER: Final = 'worker=~"$worker"'

STATES: Final = {
    WorkerState.SPAWNED: ("forked", "super-light-yellow"),
    WorkerState.WARMING: ("warming", YELLOW),
    WorkerState.READY: ("ready", GREEN),
    WorkerState.RESERVED: ("reserved", "light-blue"),
    WorkerState.IN_CALL: ("in a call", BLUE),
    WorkerState.RETIRED: ("retired", "purple"),
    WorkerState.FAILED: ("failed", RED),
    WorkerState.EXITED: ("ended", GREY),
}
"""How a state is called and colored; a state has the number of its place here, and an empty slot has 0."""

IN_USE: Final = 'state=~"ready|reserved|in_call"'


def pool() -> Row:
    """What each worker is doing, and whether there are enough of them."""
    numbered = [
        of("offhook_worker_state", POOL, WORKER, f'state="{state}"') + f" * {place}"
        for place, state in enumerate(STATES, start=1)
    ]
    return row(
        "Pool",
        timeline(
            Frame(
                "Workers, slot by slot",
                "short",
                Words(
                    "The state of the worker in each slot of each pool; a worker serves one call, and the next "
                    "one takes its slot.",
                    "As many ready as `POOL_READY`; warming for half a second; reserved for a moment before a call.",
                    "Long warming or failed: the panel Workers that did not become ready says which part. "
                    "Reserved and then retired: the carrier did not come, is `PUBLIC_BASE_URL` what it reaches?",
                ),
                24,
                9,
            ),
            Query(f"sum by (instance, worker) ({' or '.join(numbered)})", "{{instance}} · {{worker}}"),
            {0: ("empty", NOTHING)} | dict(enumerate(STATES.values(), start=1)),
        ),
        timeline(
            Frame(
                "What is warm, worker by worker",
                "short",
                Words(
                    "What each worker has ready: tools, voice detector (vad), turn model (turn), voice (tts), "
                    "ears (stt), model (llm).",
                    "tools, vad, turn and tts of each ready worker; stt and llm from its reservation on.",
                    "tts cold: its provider refuses or is away, `/readyz` of the pool says why. tools cold: "
                    "`EAGER_TOOL_LOADING` is off.",
                ),
                24,
                14,
            ),
            Query(
                gathered("max", "offhook_worker_warm", POOL, WORKER, by="instance, worker, resource"),
                "{{instance}} · {{worker}} {{resource}}",
            ),
            {0: ("cold", NOTHING), 1: ("warm", GREEN)},
        ),
        trend(
            Frame(
                "Workers by state",
                "short",
                Words(
                    "How many workers are in each state, of all pools.",
                    "ready stays at `POOL_READY` for each pool; reserved is a moment.",
                    "ready sinks to 0 in bursts: raise `POOL_READY`. in_call near `POOL_MAX`: raise that, or "
                    "start another pool.",
                ),
            ),
            Query(gathered("sum", "offhook_workers", POOL, by="state"), "{{state}}"),
            stacked=True,
        ),
        trend(
            Frame(
                "Warm resources",
                "short",
                Words(
                    "How many workers have each resource warm, of all pools.",
                    "tools, vad, turn and tts are as many as workers that are ready, reserved or in a call.",
                    "One lower than the others: see What is warm.",
                ),
            ),
            Query(gathered("sum", "offhook_worker_warm", POOL, by="resource"), "{{resource}}"),
        ),
        trend(
            Frame(
                "Fork to ready (last $window)",
                "s",
                Words(
                    "How long a worker takes from its fork until it can take a call. The line is the target "
                    "for 99 of 100.",
                    "0.2 s.",
                    "CPU is short, or the voice's provider is slow to connect. A burst waits for these.",
                ),
            ),
            *quantiles("offhook_pipeline_creation_seconds", POOL, of_them=(0.5, 0.99)),
            lines=(READY_S,),
        ),
        trend(
            Frame(
                "Time without a ready worker (last $window)",
                "s",
                Words(
                    "For how many seconds of the window each pool had none.",
                    "0.",
                    "Raise `POOL_READY`; when it stays up, workers do not become ready at all.",
                ),
            ),
            Query(grown("offhook_pool_empty_seconds_total", POOL, by="instance"), "{{instance}}"),
        ),
        trend(
            Frame(
                "Cold starts and lost reservations (last $window)",
                "short",
                Words(
                    "Calls that found no ready worker; reservations nobody came for.",
                    "0 of both.",
                    "Cold starts: raise `POOL_READY`. Reservations: the carrier read our answer and did not "
                    "open the stream, so look at its debugger and at the way `wss://` takes to the router.",
                ),
            ),
            Query(grown("offhook_cold_starts_total", POOL), "cold starts"),
            Query(grown("offhook_reservations_expired_total", POOL), "reservations expired"),
        ),
        trend(
            Frame(
                "Changes of agents, tools and clips (last $window)",
                "short",
                Words(
                    "What became of changes of the agents file, tools and clips.",
                    "done.",
                    "refused: there is a mistake in it, named in the log and in `/readyz`; everything is as it was.",
                ),
            ),
            Query(grown("offhook_reloads_total", POOL, by="outcome"), "{{outcome}}"),
        ),
    )


def failovers() -> Row:
    """Workers that were lost in a call."""
    return row(
        "Failovers",
        trend(
            Frame(
                "Workers lost in calls (last $window)",
                "short",
                Words(
                    "Why a worker was lost during a call, and what became of the call.",
                    "0; and when not, `resumed`.",
                    "`ended` and `hung_up`: no worker was ready, or each that took the call died. The pool's "
                    "log has the last words of each.",
                ),
            ),
            Query(grown("offhook_failovers_total", POOL, by="reason, outcome"), "{{reason}}, {{outcome}}"),
            stacked=True,
        ),
        trend(
            Frame(
                "Death to the next word (last $window)",
                "s",
                Words(
                    "From a worker's death to the next worker's first word. The lines: bridging words, own words.",
                    "No data: none was lost. Else below the first line where an answer was owed.",
                    "Over the second line: no worker was ready at that moment, see Workers by state.",
                ),
            ),
            *quantiles("offhook_failover_seconds", POOL, of_them=(0.5, 0.99)),
            lines=RESUMED_S,
        ),
        trend(
            Frame(
                "Workers above a memory limit (last $window)",
                "short",
                Words(
                    "Workers found above `WORKER_MEMORY_SOFT_MB` and `WORKER_MEMORY_HARD_MB`.",
                    "0.",
                    "soft: a tool of yours keeps what it reads. hard: the call went on in another worker.",
                ),
            ),
            Query(grown("offhook_workers_over_memory_total", POOL, by="limit"), "{{limit}}"),
        ),
    )


def providers() -> Row:
    """Those who hear, think and speak for us, and what tools stand on."""
    return row(
        "Providers",
        trend(
            Frame(
                "Second tries in calls (last $window)",
                "short",
                Words(
                    "Tries after the first, by provider and cause.",
                    "0.",
                    "limited: the plan's limit, see `TTS_MAX_CONNECTIONS` and `STT_MAX_CONNECTIONS`. failed, "
                    "silent, lost: the provider's status page; let agents have another (`STT_PROVIDER`, "
                    "`TTS_PROVIDER`).",
                ),
            ),
            Query(grown("offhook_provider_retries_total", POOL, by="provider, cause"), "{{provider}}, {{cause}}"),
            stacked=True,
        ),
        trend(
            Frame(
                "Workers that did not become ready (last $window)",
                "short",
                Words(
                    "By what did not become warm.",
                    "0.",
                    "tts: key, voice or limit of the provider. tools: your `TOOLS_DIR`. zygote: the pool's log "
                    "has the traceback.",
                ),
            ),
            Query(grown("offhook_warmups_failed_total", POOL, by="resource"), "{{resource}}"),
            stacked=True,
        ),
        trend(
            Frame(
                "Voices of workers",
                "short",
                Words(
                    "Workers whose voice is connected, and those who should have one.",
                    "Both are the same.",
                    "The provider has closed connections: its limit, its idle time (`RECYCLE_AFTER`), an outage.",
                ),
            ),
            Query(gathered("sum", "offhook_worker_warm", POOL, 'resource="tts"'), "voice connected"),
            Query(gathered("sum", "offhook_workers", POOL, IN_USE), "ready, reserved or in a call"),
        ),
        trend(
            Frame(
                "Answers that waited for a connection (last $window)",
                "percentunit",
                Words(
                    "Share of the connections to the model that an answer waited for; the others were opened ahead.",
                    "0 %.",
                    "The model's server closes idle connections early, or a proxy does. Each costs a caller a "
                    "TLS handshake.",
                ),
            ),
            Query(share("offhook_llm_connections_opened_total", 'when="awaited"', POOL), "awaited"),
            most=1,
        ),
        trend(
            Frame(
                "Prompt read from the cache (last $window)",
                "percentunit",
                Words(
                    "Share of the prompt's tokens that the model's provider had read before.",
                    "Above 60 % with prompts of more than 1,024 tokens; 0 % with shorter ones, which are not cached.",
                    "Put variables last in the prompt; `OPENAI_PROMPT_CACHE`, `OPENAI_CACHE_WARMUP`.",
                ),
            ),
            Query(share("offhook_llm_prompt_tokens_total", 'cached="yes"', POOL), "cached"),
            most=1,
        ),
        trend(
            Frame(
                "Tool host and MCP servers",
                "short",
                Words(
                    "1 while tools can be had: the pool's tool host, and each MCP server of the agents file.",
                    "1. The tool host is 0 in a pool whose tools need none.",
                    "The pool's log says why it ended; it is started again by itself. Calls go on, and the "
                    "model is told.",
                ),
            ),
            Query(gathered("min", "offhook_tool_host_up", POOL, by="instance"), "tool host {{instance}}"),
            Query(gathered("min", "offhook_mcp_server_up", POOL, by="instance, server"), "{{server}} {{instance}}"),
            most=1,
        ),
    )
