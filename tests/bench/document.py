"""BENCHMARKS.md: the machine, the method, the limits, the table. Nothing in it names a host or a path."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.bench.machine import versions
from tests.bench.options import CONNECT_MS, LLM_FIRST_TOKEN_MS, STT_FINAL_MS, TTS_FIRST_BYTE_MS
from tests.bench.report import markdown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.figures import Figure

METHOD: Final = f"""\
Everything runs on this one machine: carrier, stand-ins, Redis, router, pool, workers and prefetchers share its cores, so a
burst is also a burst of the carrier's own work. The stand-ins answer with fixed delays: connecting to a provider
{CONNECT_MS} ms, first audio of the voice {TTS_FIRST_BYTE_MS} ms, first token of the model {LLM_FIRST_TOKEN_MS} ms,
final transcript {STT_FINAL_MS} ms after it was asked for.
Signatures are checked, tickets are signed, customers are looked up through the queue, as in production.

- Calls at once are dialled in the same moment and have the same pause (drawn anew for each round), so their upgrades arrive
  at once as well. All workers are ready before each call or round; their replacements start while it goes on.
- *Webhook*, *upgrade* and *media* moments are taken by the carrier, on the caller's side, when it has read the last byte.
  "Upgrade accepted" is the moment it has read the 101; "upgrade written" is before that, after TCP connected.
- *Agent ready* is the worker's own: speech recognition and voice both connected, counted from the `start` it read; negative
  means before. A call whose worker did not say it is counted as missing, and a figure with missing values is not ok.
- *Reply heard* counts from the last audible sample the carrier sent to the first sample of the reply on its play-out clock,
  which includes waiting until the caller has certainly finished.
- Figures from histograms take the upper edge of each bucket, so they are never better than the truth.
- Percentiles are by nearest rank: with fewer than 100 values p99 is the worst of them.
- Workers are killed at moments drawn from a seed (half of them while they speak), at most three times in a call, so that none
  counts as poisonous; a call remembers when it answers at its end what its caller told it before the first kill. *Bridging words*
  count from the kill to the first audio read after the `clear`, *own words* to the first word of the voice that was played; their
  target is 1.5 s beyond the delays of model and voice. *Gaps* are underruns of at least a frame within what an agent said, by the
  carrier's play-out clock; *holes* are breaks in the sequence numbers that workers saw.
- USS comes from the kernel's `smaps_rollup`; a worker's is what its exit gives back.
"""

LIMITS: Final = """\
Not measured: a real network, TLS, the vendors, other hardware, hours of running, more calls than ready workers. The pauses
of the carrier are Twilio's as documented by observation, not measured here.
"""


def document(found: Sequence[Figure], about: dict[str, str], remarks: Sequence[str]) -> str:
    """Write the file."""
    over = [f"{figure.group}: {figure.name}" for figure in found if figure.ok is False]
    verdict = ["Every target is met."] if not over else ["Over the target:", "", *(f"- {name}" for name in over)]
    return "\n".join([
        "# Benchmarks",
        "",
        "Written by `make bench`; run it again to compare.",
        "",
        *verdict,
        "",
        "## Machine",
        "",
        ", ".join(f"{name} {value}" for name, value in about.items()) + ".",
        "",
        ", ".join(f"{name} {value}" for name, value in versions().items()) + ".",
        "",
        "## Figures",
        "",
        markdown(found),
        "",
        *[f"- {remark}" for remark in remarks],
        *([""] if remarks else []),
        "## Method",
        "",
        METHOD,
        "## Limits",
        "",
        LIMITS.rstrip(),
        "",
    ])  # fmt: skip
