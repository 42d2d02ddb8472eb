"""The rows about the other parts: router, prefetch and jobs, processes, Redis."""

from deploy.grafana.panels import Frame, Query, Row, Words, row, trend
from deploy.grafana.queries import (
    INSTANCE,
    KNOWN_S,
    LAG_S,
    POOL,
    WEBHOOK_S,
    gathered,
    grown,
    of,
    quantile,
    quantiles,
    rate,
)


def router() -> Row:
    """What the carrier asks of us and what it is answered."""
    return row(
        "Router",
        trend(
            Frame(
                "Webhook latency, p99 (last $window)",
                "s",
                Words(
                    "From a webhook read to its answer written, by result. The line is the target.",
                    "Below 25 ms.",
                    "Redis or a pool answers late; event loop lag; too many routers on too few CPUs. The "
                    "carrier waits 15 s, the caller rings.",
                ),
            ),
            Query(quantile(0.99, "offhook_webhook_seconds", INSTANCE, by="result"), "{{result}}"),
            lines=(WEBHOOK_S,),
        ),
        trend(
            Frame(
                "Webhooks answered (last $window)",
                "short",
                Words(
                    "What the carrier was told.",
                    "`reserved`.",
                    "`held`: no worker was ready. `no_worker`: not even a place in the line. `forbidden`: "
                    "`PUBLIC_BASE_URL` or `TWILIO_AUTH_TOKEN` is not the carrier's, or it was not the carrier.",
                ),
            ),
            Query(grown("offhook_webhook_seconds_count", INSTANCE, by="result"), "{{result}}"),
            stacked=True,
        ),
        trend(
            Frame(
                "Requests refused (last $window)",
                "short",
                Words(
                    "By route and reason.",
                    "0, apart from strangers who try.",
                    "signature_*: see Webhooks answered. expired: the carrier came later than `TICKET_TTL`. "
                    "no_pool: no pool is connected.",
                ),
            ),
            Query(grown("offhook_requests_refused_total", INSTANCE, by="route, reason"), "{{route}}, {{reason}}"),
            stacked=True,
        ),
        trend(
            Frame(
                "Media upgrades (last $window)",
                "short",
                Words(
                    "Sockets handed to a pool, and those refused.",
                    "All handed off.",
                    "Requests refused says why.",
                ),
            ),
            Query(grown("offhook_upgrades_total", INSTANCE, by="result"), "{{result}}"),
            stacked=True,
        ),
        trend(
            Frame(
                "Upgrades refused by pools (last $window)",
                "short",
                Words(
                    "Upgrades a pool refused after a router had handed them over, by reason.",
                    "0.",
                    "spent: the same upgrade came twice. expired: it came too late.",
                ),
            ),
            Query(grown("offhook_handoffs_refused_total", POOL, by="reason"), "{{reason}}"),
            stacked=True,
        ),
        trend(
            Frame(
                "Ready workers, as routers see them",
                "short",
                Words(
                    "What each router believes, and what the pools say.",
                    "The same.",
                    "A router sees fewer: it is not connected to a pool (`HANDOFF_DIR` shared? same version?); "
                    "`/readyz` says which it knows.",
                ),
            ),
            Query(gathered("sum", "offhook_router_ready_workers", INSTANCE, by="instance"), "router {{instance}}"),
            Query(gathered("sum", "offhook_workers", POOL, 'state="ready"'), "pools"),
        ),
    )


def prefetch() -> Row:
    """What is looked up before a call and stored behind it."""
    return row(
        "Prefetch and jobs",
        trend(
            Frame(
                "Lookups, by outcome (last $window)",
                "short",
                Words(
                    "What became of the lookups of callers.",
                    "found and unknown.",
                    "failed: the database refuses (key, migrations). unavailable: it does not answer.",
                ),
                6,
            ),
            Query(grown("offhook_context_prefetch_seconds_count", INSTANCE, by="outcome"), "{{outcome}}"),
            stacked=True,
        ),
        trend(
            Frame(
                "Lookup latency (last $window)",
                "s",
                Words(
                    "From the job queued to the record published. The line is the default of `PREFETCH_TIMEOUT`.",
                    "p95 below 0.5 s, while the greeting still plays.",
                    "Jobs wait: raise `PREFETCH_WORKERS`. They do not: the database is slow.",
                ),
                6,
            ),
            *quantiles("offhook_context_prefetch_seconds", INSTANCE, of_them=(0.5, 0.95)),
            lines=(KNOWN_S,),
        ),
        trend(
            Frame(
                "Record in the prompt (last $window)",
                "s",
                Words(
                    "From the reservation to the caller's record in the system instruction.",
                    "Below the line: the first answer knows who calls.",
                    "As for the lookups; the call goes on without the record after `PREFETCH_TIMEOUT`.",
                ),
                6,
            ),
            *quantiles("offhook_context_injection_seconds", POOL, of_them=(0.5, 0.95)),
            lines=(KNOWN_S,),
        ),
        trend(
            Frame(
                "Lookups queued (last $window)",
                "short",
                Words(
                    "Jobs the routers queued, or could not.",
                    "queued, one for each call.",
                    "failed: Redis is away; calls are served without records.",
                ),
                6,
            ),
            Query(grown("offhook_prefetch_enqueued_total", INSTANCE, by="result"), "{{result}}"),
            stacked=True,
        ),
        trend(
            Frame(
                "Jobs in the queues",
                "short",
                Words(
                    "Jobs of RQ by queue and state.",
                    "queued near 0; scheduled are those that are tried again later.",
                    "queued grows: are prefetchers running, are there enough (`PREFETCH_WORKERS`)? failed: see "
                    "Given up.",
                ),
                6,
            ),
            Query(gathered("max", "offhook_rq_jobs", INSTANCE, by="queue, state"), "{{queue}}, {{state}}"),
        ),
        trend(
            Frame(
                "Oldest job that waits",
                "s",
                Words(
                    "Age of the oldest queued job of each queue.",
                    "Below 1 s in `prefetch`; minutes in the others are no harm.",
                    "Above `PREFETCH_TIMEOUT` in `prefetch`: nobody's record comes in time. Prefetchers are "
                    "stuck or gone.",
                ),
                6,
            ),
            Query(gathered("max", "offhook_rq_oldest_job_seconds", INSTANCE, by="queue"), "{{queue}}"),
        ),
        trend(
            Frame(
                "Records waiting, lost and given up",
                "short",
                Words(
                    "Records of calls that wait for Redis at each pool, those given up while it was away (last "
                    "$window), and jobs after calls that were given up.",
                    "0 of each.",
                    "Waiting: Redis is away. Given up: `python -m worker.records` lists them and tries them again.",
                ),
                6,
            ),
            Query(gathered("sum", "offhook_records_waiting", POOL), "waiting"),
            Query(grown("offhook_records_lost_total", POOL), "lost"),
            Query(gathered("max", "offhook_dead_letters", INSTANCE), "given up"),
        ),
        trend(
            Frame(
                "Messages to customers (last $window)",
                "short",
                Words(
                    "Attempts to send a message, by outcome, and the carrier's reports of what became of them.",
                    "sent, and reports queued.",
                    "refused: the carrier says why in the prefetcher's log (template, opt-in). unknown: it did "
                    "not answer; nothing is sent twice.",
                ),
                6,
            ),
            Query(grown("offhook_messages_total", INSTANCE, by="outcome"), "{{outcome}}"),
            Query(grown("offhook_message_reports_total", INSTANCE, by="result"), "report {{result}}"),
        ),
    )


def processes() -> Row:
    """What our processes need and whether they are there."""
    return row(
        "Processes",
        trend(
            Frame(
                "Targets",
                "short",
                Words(
                    "1 while Prometheus can scrape a process.",
                    "1 for each.",
                    "Is it running? Does its metrics port listen on the address Prometheus uses?",
                ),
            ),
            Query(gathered("min", "up", INSTANCE, by="job, instance"), "{{job}} {{instance}}"),
            most=1,
        ),
        trend(
            Frame(
                "Versions",
                "short",
                Words(
                    "Processes by version and by the protocol they speak with each other.",
                    "One version; two for the minutes of a rolling update.",
                    "Two for longer: something was not updated. Router and pool of different protocols do not "
                    "talk to each other.",
                ),
            ),
            Query("count by (version, protocol) (offhook_build_info)", "{{version}}, protocol {{protocol}}"),
            stacked=True,
        ),
        trend(
            Frame(
                "Event loop lag, p99 (last $window)",
                "s",
                Words(
                    "How late the loops of each pool and its workers ran a timer.",
                    "Below 10 ms.",
                    "CPU is short: fewer calls on this host, or more CPUs. One pool alone: a tool of yours "
                    "blocks (`TOOLS_DIR`), the log has the stack.",
                ),
            ),
            Query(quantile(0.99, "offhook_event_loop_lag_seconds", POOL, by="instance"), "{{instance}}"),
            lines=(LAG_S,),
        ),
        trend(
            Frame(
                "CPU",
                "percentunit",
                Words(
                    "CPU of routers, pools, prefetchers and Redis' exporter: the process that is scraped, "
                    "without workers and other children.",
                    "A few percent; 100 % is one CPU.",
                    "A router or pool near 100 % is the limit of its host: start another one.",
                ),
            ),
            Query(rate("process_cpu_seconds_total", INSTANCE), "{{job}} {{instance}}"),
        ),
        trend(
            Frame(
                "Memory",
                "bytes",
                Words(
                    "Resident memory of the same processes.",
                    "Level, day by day.",
                    "It climbs for days: restart it (a pool drains first) and say so in an issue.",
                ),
            ),
            Query(of("process_resident_memory_bytes", INSTANCE), "{{job}} {{instance}}"),
        ),
        trend(
            Frame(
                "Open files",
                "percentunit",
                Words(
                    "Share of the open files a process may have that it has.",
                    "Below 50 %.",
                    "Raise the limit (`ulimit -n`): each live call needs two in its pool.",
                ),
            ),
            Query(of("process_open_fds", INSTANCE) + " / " + of("process_max_fds", INSTANCE), "{{job}} {{instance}}"),
            most=1,
        ),
    )


def redis() -> Row:
    """Redis, as its exporter and as our processes see it."""
    return row(
        "Redis",
        trend(
            Frame(
                "Redis answers",
                "short",
                Words(
                    "1 while Redis answers its exporter, each pool, and the prefetchers that look into the queues.",
                    "1 for each.",
                    "Calls go on and new ones are answered; records, journal and lookups pause. Start it "
                    "again, nothing else is needed.",
                ),
                6,
            ),
            Query(gathered("min", "redis_up", INSTANCE, by="instance"), "exporter {{instance}}"),
            Query(gathered("min", "offhook_redis_up", POOL, by="instance"), "pool {{instance}}"),
            Query(gathered("min", "offhook_rq_up", INSTANCE, by="instance"), "prefetcher {{instance}}"),
            most=1,
        ),
        trend(
            Frame(
                "Memory of Redis",
                "bytes",
                Words(
                    "What Redis uses, and the limit when one is set (0: none).",
                    "Some megabytes, level.",
                    "It climbs: jobs that nobody takes, see Jobs in the queues.",
                ),
                6,
            ),
            Query(of("redis_memory_used_bytes", INSTANCE), "used {{instance}}"),
            Query(of("redis_memory_max_bytes", INSTANCE), "limit {{instance}}"),
        ),
        trend(
            Frame(
                "Clients of Redis",
                "short",
                Words(
                    "Connections, and those of them that wait for something.",
                    "A handful for each process.",
                    "It climbs: something connects and does not let go; `CLIENT LIST` names it.",
                ),
                6,
            ),
            Query(of("redis_connected_clients", INSTANCE), "connected {{instance}}"),
            Query(of("redis_blocked_clients", INSTANCE), "waiting {{instance}}"),
        ),
        trend(
            Frame(
                "Commands of Redis",
                "ops",
                Words(
                    "Commands a second.",
                    "Some tens without calls, a few more for each call.",
                    "Thousands: somebody else uses this Redis.",
                ),
                6,
            ),
            Query(rate("redis_commands_processed_total", INSTANCE), "{{instance}}"),
        ),
    )
