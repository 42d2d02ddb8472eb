"""How our dashboards ask Prometheus, and the targets they draw.

A metric is filtered by the variable of the processes that expose it: `POOL` for pools, `INSTANCE` for routers, prefetchers,
Redis and for what every process exposes of itself. What is rare is counted over `$window`.
"""

from typing import Final

from deploy.grafana.panels import Query

POOL: Final = 'instance=~"$pool"'
INSTANCE: Final = 'instance=~"$instance"'

FIRST_AUDIO_S: Final = (0.01, 0.06)
"""99 of 100 calls hear the greeting within the first; within the second when thirty arrive at the same moment."""

REPLY_S: Final = (0.8, 1.5)
"""End of speech to first audio: half of the replies within the first, nearly all within the second; providers take most of it."""

WEBHOOK_S: Final = 0.025
"""For 99 of 100 webhooks."""

READY_S: Final = 0.4
"""For 99 of 100 workers, from fork to READY."""

RESUMED_S: Final = (0.25, 1.5)
"""Death of a worker to bridging words; to the next worker's own words."""

KNOWN_S: Final = 2.0
"""The default of `PREFETCH_TIMEOUT`: so long the first answer waits for the caller's record."""

WAITED_S: Final = 60.0
"""The default of `HOLD_MAX`."""

LAG_S: Final = 0.1
"""From here on speech begins to have gaps."""


def of(metric: str, *matchers: str) -> str:
    """Select series of a metric."""
    return f"{metric}{{{','.join(matchers)}}}"


def gathered(how: str, gauge: str, *matchers: str, by: str = "") -> str:
    """Ask for the `sum`, `max` or `min` of a gauge's series; give `by` to tell some apart."""
    return f"{how}{_by(by)}({of(gauge, *matchers)})"


def grown(metric: str, *matchers: str, by: str = "", over: str = "$window") -> str:
    """Ask by how much a counter has grown; give `by` to tell its series apart."""
    return f"sum{_by(by)}(increase({of(metric, *matchers)}[{over}]))"


def rate(counter: str, *matchers: str) -> str:
    """Ask how fast each series of a counter grows, as finely as the panel can show."""
    return f"rate({of(counter, *matchers)}[$__rate_interval])"


def quantile(q: float, histogram: str, *matchers: str, by: str = "", over: str = "$window") -> str:
    """Ask below which time the share `q` of a histogram's observations is."""
    labels = ", ".join(each for each in ("le", by) if each)
    return f"histogram_quantile({q:g}, sum by ({labels}) (rate({of(f'{histogram}_bucket', *matchers)}[{over}])))"


def within(edge_s: float, histogram: str, *matchers: str, over: str = "$window") -> str:
    """Ask which share of a histogram's observations is at most `edge_s`, which has to be one of its edges."""
    below = of(f"{histogram}_bucket", *matchers, f'le="{edge_s:g}"')
    return f"sum(rate({below}[{over}])) / sum(rate({of(f'{histogram}_count', *matchers)}[{over}]))"


def share(counter: str, part: str, *matchers: str) -> str:
    """Ask which share of a counter's growth the series that match `part` have."""
    return f"sum(rate({of(counter, *matchers, part)}[$window])) / sum(rate({of(counter, *matchers)}[$window]))"


def quantiles(histogram: str, *matchers: str, of_them: tuple[float, ...] = (0.5, 0.95, 0.99)) -> tuple[Query, ...]:
    """Ask for several quantiles of a histogram, named as percentiles."""
    return tuple(Query(quantile(q, histogram, *matchers), f"p{q * 100:g}") for q in of_them)


def buckets(histogram: str, *matchers: str) -> Query:
    """Ask for the buckets of a heat map."""
    return Query(f"sum by (le) (increase({of(f'{histogram}_bucket', *matchers)}[$__rate_interval]))", "{{le}}")


def _by(labels: str) -> str:
    return f" by ({labels}) " if labels else ""
