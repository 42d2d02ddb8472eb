"""What BENCHMARKS.md says about how its numbers came about, and what they do not tell."""

from __future__ import annotations

from typing import Final

from tests.bench.load import LATE_FRAMES, LATE_TOKEN_S, OTHERS_SHARE, PERIOD_S
from tests.bench.options import CONNECT_MS, LLM_FIRST_TOKEN_MS, STT_FINAL_MS, TTS_FIRST_BYTE_MS
from tests.bench.targets import GAP_S, PROVIDERS_S

PROVIDERS_MS: Final = round(1000 * PROVIDERS_S)
GAP_MS: Final = round(1000 * GAP_S)
LATE_TOKEN_MS: Final = round(1000 * LATE_TOKEN_S)

METHOD: Final = f"""\
Everything runs on this one machine: carrier, stand-ins, Redis, router, pool, workers, prefetchers and the two other bots
share its cores, so a burst is also a burst of the carrier's own work. The stand-ins answer with fixed delays: connecting to
a provider {CONNECT_MS} ms, first audio of the voice {TTS_FIRST_BYTE_MS} ms, first token of the model {LLM_FIRST_TOKEN_MS}
ms, final transcript {STT_FINAL_MS} ms after it was asked for. Signatures are checked, tickets are signed, customers are
looked up through the queue, as in production.

What is compared:

- *offhook*: router, pool with zygote, workers and tool host, prefetchers and Redis together, with the settings of a fresh
  installation and as many ready workers as any round needs.
- *stock Pipecat* (`tests/bench/rivals/stock.py`): the bot of Pipecat's Twilio example and quickstart on the same services,
  one process under uvicorn, greeting by the model, default turn strategies, 8 kHz. Where the example leaves a choice, it is
  made in the bot's favour: no hang-up and no look-up over Twilio's REST API, no recording, logging at INFO, no forced
  garbage collection.
- *old flow* (`tests/bench/rivals/old_flow.py`): what this project replaces, one thing after another once the media socket is
  open: tools listed from an MCP server over HTTP ({CONNECT_MS} ms for each of its answers), the customer looked up (500 ms),
  local models, services and pipeline built, greeting by the voice.

How:

- The systems are measured in turns: a round is one measurement of each, straight after one another, all at rest before.
  Ratios are taken within rounds, median by median; tables show the median and, in brackets, p5 to p95 of values and the
  extremes of ratios.
- *Answers* are those to one recorded sentence, which every system answers with one completion and one spoken sentence. They
  count from the last audible sample the carrier sent to the first sample of the answer on its play-out clock. A round is one
  conversation with each system at the same time, one and a half seconds apart. *Beyond the providers* is what is left
  without their {PROVIDERS_MS} ms.
- *Speech → `clear`* counts from the first audible sample of a sentence said half a second into an answer to the `clear` the
  carrier reads.
- *Calls per core*: the system has one core (its threads are bound to it), carrier and stand-ins have the other. So many
  calls are up and each asks every {PERIOD_S} s, spread evenly, whether it was answered or not. The number at which answers
  take 20 % longer (by the median, against the first step) lies on a straight line between two steps. A gap is a silence of
  {GAP_MS} ms or more inside of what an agent says, by the play-out clock. A step does not count when the carrier sent more
  than {LATE_FRAMES:.0%} of its frames 20 ms late, the model's stand-in was more than {LATE_TOKEN_MS} ms late (p95), or others
  took more than {OTHERS_SHARE:.0%} of the system's core; it is taken once more then.
- *CPU of a talking call*: CPU time of all processes of the system during a step, of the steps before answers take longer.
- *Memory*: USS of all processes of the system with the largest number of calls up, less that before, for each call. A ready
  worker's is what its exit gives back; the other two have nothing ready.
- *Model connections* are TCP connections that the model's stand-in saw for the second and later answers of an uninterrupted
  conversation and not before.

Figures of this project alone:

- Calls at once are dialled in the same moment and have the same pause (drawn anew for each round), so their upgrades arrive
  at once as well. All workers are ready before each call or round; their replacements start while it goes on.
- *Webhook*, *upgrade* and *media* moments are taken by the carrier, on the caller's side, when it has read the last byte.
  "Upgrade accepted" is the moment it has read the 101; "upgrade written" is before that, after TCP connected.
- *Agent ready* is the worker's own: speech recognition and voice both connected, counted from the `start` it read; negative
  means before. A call whose worker did not say it is counted as missing, and a figure with missing values is not ok.
- Figures from histograms take the upper edge of each bucket, so they are never better than the truth.
- Percentiles are by nearest rank: with fewer than 100 values p99 is the worst of them.
- Workers are killed at moments drawn from a seed (half of them while they speak), at most three times in a call, so that
  none counts as poisonous; a call remembers when it answers at its end what its caller told it before the first kill.
  *Bridging words* count from the kill to the first audio read after the `clear`, *own words* to the first word of the voice
  that was played; their target is 1.5 s beyond the delays of model and voice. *Gaps* are underruns of at least a frame
  within what an agent said, by the carrier's play-out clock; *holes* are breaks in the sequence numbers that workers saw.
"""

LIMITS: Final = """\
Not measured: a real network, TLS, the vendors, other hardware, hours of running, more calls than ready workers (but see
bursts). The pauses of the carrier are Twilio's as documented by observation, not measured here. One sentence, one voice and
one language are asked and answered; the end of a turn is easy to tell in it. The stock bot could be run in several processes
behind a balancer: its figures at 10 and 30 at once are those of one. Calls per core come from one pass over the steps.
"""
