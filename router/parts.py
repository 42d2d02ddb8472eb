"""What the router is made of, and how it is put together from settings."""

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from router.ending import Endings, Look
from router.handoff import Door
from router.health import Health
from router.hold import Rules
from router.intake import Intake
from router.line import Line
from router.overflow import Overflow
from router.pools import Pools
from router.twilio import MessageReport, Signatures
from router.twiml import APOLOGY_CLIP, HOLD_CLIP, Twiml
from router.webhook import Enqueue, Webhook
from shared import metrics
from shared.clips import RATE_HZ
from shared.holdline import HoldLine, NoHoldLine
from shared.metrics_router import RouterMetrics
from shared.settings import Settings
from shared.ticket import TicketOffice

Report = Callable[[MessageReport], Coroutine[Any, Any, bool]]
"""Queue what Twilio says of a message; False when it could not be. Never raises."""


async def _nothing_to_close() -> None:
    pass


async def _nobody_to_tell(_: MessageReport) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Outside:
    """What the router uses beyond its own process and the pools; `close` is called once, when it stops."""

    enqueue: Enqueue
    look: Look
    close: Callable[[], Coroutine[Any, Any, None]] = _nothing_to_close
    hold_line: HoldLine = field(default_factory=NoHoldLine)
    report: Report = _nobody_to_tell


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of the application. `clips` are WAV files by id."""

    intake: Intake
    webhook: Webhook
    line: Line
    door: Door
    health: Health
    twiml: Twiml
    clips: Mapping[str, bytes]
    endings: Endings
    report: Report
    close: Callable[[], Coroutine[Any, Any, None]]


def assemble(settings: Settings, clips: Mapping[str, bytes], outside: Outside) -> Parts:
    """Put the router together; nothing is connected or bound yet."""
    registry = metrics.registry()
    counted = RouterMetrics(registry)
    line = Line(outside.hold_line, counted)

    def ready(count: int) -> None:
        counted.ready_workers(count)
        line.ready(count)

    pools = Pools(settings.handoff_dir, ready)
    office = TicketOffice(settings.ticket_secret)
    token = settings.twilio_auth_token.get_secret_value()
    signatures = Signatures(token, settings.public_base_url) if settings.twilio_validate_signatures else None
    twiml = Twiml(settings.public_base_url, apology_clip=APOLOGY_CLIP in clips, hold_clip=HOLD_CLIP in clips)
    overflow = Overflow(settings.agents_file, settings.overflow_number)
    rules = Rules(
        settings.hold_max, settings.overflow_number, len(clips.get(HOLD_CLIP, b"")) / (2 * RATE_HZ)
    )  # of 16 bits
    return Parts(
        intake=Intake(signatures),
        webhook=Webhook(
            pools,
            outside.enqueue,
            office,
            twiml,
            counted,
            settings.ticket_ttl,
            line,
            rules,
            overflow,
            settings.parallel_context_prefetch,
        ),
        line=line,
        door=Door(office, signatures, pools, counted),
        health=Health(pools, registry, settings.console_token.get_secret_value()),
        twiml=twiml,
        clips=clips,
        endings=Endings(pools, outside.look),
        report=outside.report,
        close=outside.close,
    )
