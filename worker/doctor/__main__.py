"""`offhook-doctor`, `python -m worker.doctor`: checks a deployment before its first caller does.

    offhook-doctor                      all checks; where a number's calls go elsewhere, a person at a terminal is asked
    offhook-doctor --json               for programs
    offhook-doctor --only tls,call      some of them
    offhook-doctor --set-webhook        make the calls to our numbers come here, if all else is well

Exit code 0: it takes calls; 1: something failed (with --strict: or could be better); 2: wrong settings or arguments.
"""

import argparse
import asyncio
import logging
import shutil
import sys
from collections.abc import Sequence
from typing import Final

from shared import logs, settings
from shared.errors import SettingsError
from shared.logs import mask
from shared.phones import is_e164
from shared.processes import Process
from worker.doctor import account, call, carrier, certificate, database, files, pools, speech, store
from worker.doctor.case import Case, agents_of
from worker.doctor.findings import SETTINGS, Finding, Report, State, bad, failed, not_tried, status
from worker.doctor.rounds import Check, examine
from worker.doctor.table import summary, table, written

CHECKS: Final = (
    Check(SETTINGS, "the settings of every process", files.settings),
    Check("agents", "the agents file, and what its agents need", files.agents),
    Check("clips", "the recordings, and who is greeted by one", files.clips),
    Check("tools", "the files of TOOLS_DIR", files.tools),
    Check("redis", "reachable, its version, whether it keeps things", store.redis),
    Check("prefetchers", "whether somebody works on the queues", store.prefetchers, ("redis",)),
    Check("pools", "HANDOFF_DIR, each pool's version and readiness", pools.pools),
    Check("directory", "the pools that Redis knows", store.directory, ("redis",)),
    Check("supabase", "the key, and the functions of the migrations", database.supabase),
    Check("model", "key, model and first token", speech.models),
    Check("voice", "key, voice and first sound of each voice", speech.voices),
    Check("ear", "key, model and connection of each ear", speech.ears),
    Check("router", "the router itself", carrier.router),
    Check("tls", "the certificate of PUBLIC_BASE_URL", certificate.tls),
    Check("public", "the router by its public address; its clock", carrier.public, ("tls",)),
    Check("signature", "Twilio's signature for that address", carrier.signed, ("public",)),
    Check("call", "a call: webhook, stream, first sound, hang-up", call.call, ("signature",)),
    Check("account", "Twilio's account and token", account.account),
    Check("numbers", "where the numbers' calls go", account.numbers, ("account",)),
)
ANSWERING: Final = ("tls", "public", "signature", "call")
"""What must be well before a number's calls are made to come here."""

WIDTH: Final = 120


def main(arguments: Sequence[str] | None = None) -> None:
    """Check, show, offer, and exit."""
    options = _options(arguments)
    logs.configure("CRITICAL")  # what libraries and files say is in the table
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    try:
        conf = settings.load(Process.DOCTOR)
    except SettingsError as error:
        report: Report = _unreadable(error, options.checks)
        _end(options, report)
    case = Case(conf, agents_of(conf), tuple(options.number), options.router.rstrip("/"))
    report = asyncio.run(examine(case, options.checks))
    if options.set_webhook:
        report = asyncio.run(_point_here(case, report))
    code = _show(options, report)
    if _asks(options) and _offered(report):
        report = _ask(case, report)
        code = status(report, strict=options.strict)
    sys.exit(code)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = [check.name for check in CHECKS]
    listed = "\n".join(f"  {check.name:12} {check.about}" for check in CHECKS)
    parser = argparse.ArgumentParser(
        prog="offhook-doctor",
        description="Checks a deployment before its first caller does.",
        epilog=f"checks:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", default="", metavar="NAMES", help="these checks only, separated by commas")
    parser.add_argument("--skip", default="", metavar="NAMES", help="all checks but these")
    parser.add_argument("--number", action="append", default=[], help="a number of ours (E.164); may be repeated")
    parser.add_argument("--router", default="", metavar="URL", help="where the router is, behind the edge")
    parser.add_argument("--set-webhook", action="store_true", help="make the calls to our numbers come here")
    parser.add_argument("--strict", action="store_true", help="warnings count as failures")
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_args(arguments)
    only, skip = _names(options.only), _names(options.skip)
    for name in [*only, *skip]:
        if name not in names:
            parser.error(f"there is no check {name}, only {', '.join(names)}")
    for number in options.number:
        if not is_e164(number):
            parser.error(f"--number: {number} is not a number such as +15550001111")
    options.checks = [check for check in CHECKS if (not only or check.name in only) and check.name not in skip]
    return options


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _unreadable(error: SettingsError, checks: Sequence[Check]) -> Report:
    """Report settings that cannot be read: without them nothing else can be looked at."""
    lines = [
        bad(line, f"{files.TEMPLATE} says what {line.partition(':')[0]} is for") for line in str(error).splitlines()
    ]
    others = [check.name for check in checks if check.name != SETTINGS]
    return {SETTINGS: lines} | {name: [not_tried(f"`{SETTINGS}` have to be right first")] for name in others}


def _end(options: argparse.Namespace, report: Report) -> None:
    sys.exit(_show(options, report))


def _show(options: argparse.Namespace, report: Report) -> int:
    """Write the report, and give the exit status."""
    code = status(report, strict=options.strict)
    if options.json:
        _say(written(report, code))
        return code
    width = min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)
    _say("\n".join([*table(report, width), "", summary(report)]))
    return code


# --- the offer --------------------------------------------------------------------------------------------------------


def _asks(options: argparse.Namespace) -> bool:
    """Say whether there is a person to ask."""
    return not options.json and not options.set_webhook and sys.stdin.isatty() and sys.stdout.isatty()


def _offered(report: Report) -> list[str]:
    return [finding.number for finding in report.get("numbers", ()) if finding.number]


def _ask(case: Case, report: Report) -> Report:
    """Ask a person for each number, and do what was said."""
    numbers = []
    for number in _offered(report):
        if not _answers(report):
            _say(_unwell(number).said)
            continue
        sys.stdout.write(f"{account.ends_of(number)}: make its calls come to {account.webhook(case)}? [y/N] ")
        sys.stdout.flush()
        if sys.stdin.readline().strip().lower() in {"y", "yes"}:
            numbers.append(number)
    changed = asyncio.run(_point_here(case, report, numbers))
    for finding in changed.get("numbers", ()):
        if finding not in report.get("numbers", ()):
            _say(mask(finding.said))
    return changed


async def _point_here(case: Case, report: Report, numbers: Sequence[str] | None = None) -> Report:
    """Make the calls to numbers (by default: all that are offered) come here, in place of what was found about them."""
    wanted = _offered(report) if numbers is None else numbers
    findings: list[Finding] = []
    for finding in report.get("numbers", ()):
        if not finding.number or finding.number not in wanted:
            findings.append(finding)
        elif _answers(report):
            findings += await account.point_here(case, finding.number)
        else:
            findings.append(_unwell(finding.number))
    return {**report, "numbers": findings} if "numbers" in report else report


def _answers(report: Report) -> bool:
    """Say whether calls that come here would be answered, as far as that was looked at."""
    return not any(failed(report.get(name, ())) for name in ANSWERING)


def _unwell(number: str) -> Finding:
    said = f"{account.ends_of(number)}: not set: calls that come here are not answered"
    return Finding(
        State.FAILED, said, "mend the other lines first; or --only account,numbers --set-webhook", number=number
    )


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
