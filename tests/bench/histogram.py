"""Read the observations out of a Prometheus histogram, as far as it tells them. Pure."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families


def edges(page: str, name: str, **labels: str) -> list[float]:
    """Give each observation as the upper edge of its bucket, so never too small; infinity for the last bucket."""
    buckets = [
        (float(sample.labels["le"]), int(sample.value))
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == f"{name}_bucket" and all(sample.labels.get(key) == value for key, value in labels.items())
    ]
    found: list[float] = []
    for edge, cumulated in sorted(buckets):
        found += [edge] * (cumulated - len(found))
    return found
