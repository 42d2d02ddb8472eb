"""What lies on this machine: the settings, the agents file, the clips, the tools."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from shared.agents import Agent
from shared.clips import MANIFEST, Clip, load_clip, load_manifest
from shared.errors import ClipError, SettingsError
from shared.settings import Settings
from shared.settings_check import problems
from worker.call.greeting import Recording, opening, record
from worker.doctor.case import Case
from worker.doctor.findings import Finding, bad, doubtful, good, not_tried
from worker.pool.checking import check
from worker.tools.custom_folder import check_custom

AGENTS: Final = "AGENTS_FILE"
TEMPLATE: Final = "deploy/env.example"


async def settings(case: Case) -> AsyncGenerator[Finding, None]:
    """Say which settings are wrong or missing, for any of the processes."""
    wrong = problems()
    for line in wrong:
        yield bad(line, f"{TEMPLATE} says what {line.partition(':')[0]} is for")
    if not wrong:
        yield good("complete, for every process")
    conf = case.conf
    if not conf.twilio_validate_signatures:
        yield doubtful(
            "anybody can place calls: TWILIO_VALIDATE_SIGNATURES is false", "set it to true for real callers"
        )
    if urlsplit(conf.public_base_url).scheme == "http":
        yield doubtful(
            "PUBLIC_BASE_URL is of this machine: Twilio cannot reach it", "for real callers it must be https"
        )


async def agents(case: Case) -> AsyncGenerator[Finding, None]:
    """Say what is wrong with the agents file, or with what its agents need."""
    wrong = [line for line in await asyncio.to_thread(_wrong, case.conf) if not _of_clips(case.conf, line)]
    for line in wrong:
        yield bad(line, "the pool refuses such a change, and does not start with it")
    if wrong:
        return
    names = ", ".join(agent.name for agent in case.agents.all)
    yield good(names if case.conf.agents_file else f"{names} (built in: there is no AGENTS_FILE)")
    for agent in case.agents.all:
        if agent.timezone == "UTC":
            yield doubtful(
                f"agent {agent.name} has no timezone: its times are UTC",
                f"{AGENTS}: agent {agent.name}: timezone (Etc/UTC if that is meant)",
            )


async def clips(case: Case) -> AsyncGenerator[Finding, None]:
    """Say which recordings are missing or broken, and who is greeted without one."""
    conf = case.conf
    wrong = [line for line in await asyncio.to_thread(_wrong, conf) if _of_clips(conf, line)]
    for line in wrong:
        yield bad(line, f"audio_assets/README.md says how recordings are made; {MANIFEST} lists them (ASSETS_DIR)")
    if wrong:
        return
    there = await asyncio.to_thread(load_manifest, conf.assets_dir)
    yield good(f"{len(there)} of {conf.assets_dir / MANIFEST}")
    recordings = await asyncio.to_thread(_recordings, case, there)
    for agent in case.agents.all:
        yield _greeting(conf, agent, recordings)


async def tools(case: Case) -> AsyncGenerator[Finding, None]:
    """Run the files of the tools folder, as the pool does at its start, and say which are left out."""
    if case.conf.tools_dir is None:
        yield good("no TOOLS_DIR: the built-in ones")
        return
    try:
        checked = await asyncio.to_thread(check_custom, case.conf)
    except SettingsError as error:
        for line in str(error).splitlines():
            yield bad(line, "the pool does not start with it")
        return
    yield good(f"{len(checked.good)} in {case.conf.tools_dir}")
    for each in checked.troubles:
        yield doubtful(f"left out: {each}", "mend the file: python -m worker.tools shows it again")


def _wrong(conf: Settings) -> list[str]:
    try:
        check(conf)
    except SettingsError as error:
        return str(error).splitlines()
    return []


def _of_clips(conf: Settings, line: str) -> bool:
    """Say whether a line of `worker.pool.checking` is about recordings: theirs begin with a clip, its file, or who names it."""
    clips = ("clip ", f"{conf.assets_dir / MANIFEST}", "GREETING_AUDIO_CLIP", "RECORDING_CLIP")
    return line.startswith(clips) or ": greeting_clip:" in line


def _recordings(case: Case, there: Mapping[str, Clip]) -> dict[str, Recording]:
    """Make what may greet: the clips of the manifest that agents or settings name, and files without a row in it."""
    wanted = {case.conf.greeting_audio_clip, *(agent.greeting_clip for agent in case.agents.all)} - {""}
    made: dict[str, Recording] = {}
    for name in wanted:
        try:
            made[name] = record(there.get(name) or load_clip(Path(case.conf.assets_dir) / name))
        except ClipError:
            continue  # greetings are off, or the check before would have said it
    return made


def _greeting(conf: Settings, agent: Agent, recordings: Mapping[str, Recording]) -> Finding:
    recording, words = opening(agent, recordings, conf)
    if recording is not None:
        clip = recording.clip
        spoken = f" in {clip.language}" if clip.language else ""
        return good(
            f"agent {agent.name} ({agent.language}) greets with {clip.id}{spoken}, {clip.duration_ms / 1000:.1f} s"
        )
    if words and not (conf.greeting_audio_enabled and conf.direct_greeting_injection):
        return not_tried(f"agent {agent.name} greets by its voice, as the settings say")
    slow = (
        "its first words come as fast as the provider of its voice"
        if words
        else "the model has to find its first words"
    )
    return doubtful(
        f"agent {agent.name} has no recorded greeting in {agent.language}: {slow}",
        f"render one (audio_assets/README.md) and name it in {AGENTS}: agent {agent.name}: greeting_clip",
    )
