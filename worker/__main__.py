"""`python -m worker`: a pool and its workers. Whatever is wrong is said, by name, before anything listens (exit 2)."""

import argparse
import asyncio
import contextlib
import gc
import secrets
from collections.abc import Mapping
from typing import Final

from shared import logs, rlimits, settings
from shared.agents import Agents
from shared.agents_file import load_agents
from shared.clips import Clip, load_clip, load_manifest
from shared.errors import ClipError, OffhookError, SettingsError
from shared.metrics import registry
from shared.settings import Process, Settings
from shared.workers import PoolId
from worker.call.greeting import BRIDGING
from worker.pool import door, http
from worker.pool.pool import Given, Pool
from worker.pool.zygote import CHILD

DESCRIPTION: Final = "Keeps workers ready for calls. Settings come from the environment."


def main() -> None:
    """Check everything, open what is listened on, run the pool."""
    rlimits.take()
    parser = argparse.ArgumentParser(prog="python -m worker", description=DESCRIPTION)
    parser.add_argument("--child", default=CHILD, help="the module that runs in each worker (tests replace it)")
    options = parser.parse_args()
    try:
        configured = settings.load(Process.POOL)
        agents, bridging = checked(configured)
        pool = PoolId(configured.pool_id or secrets.token_hex(4))
        with contextlib.ExitStack() as opened:
            http_socket = opened.enter_context(http.listen(configured.pool_metrics_host, configured.pool_metrics_port))
            door_socket = door.listen(configured.handoff_dir, pool)
            opened.pop_all()  # both are the pool's now
    except OffhookError as error:
        settings.refuse(error)
    logs.configure(configured.log_level, process="pool", pool=pool)
    gc.freeze()  # a full collection would look at 100,000 objects that never go, while somebody's upgrade waits
    given = Given(configured, agents, pool, door_socket, http_socket, registry(), options.child, bridging)
    asyncio.run(_run(given))


async def _run(given: Given) -> None:
    await Pool(given).run()


def checked(configured: Settings) -> tuple[Agents, Clip | None]:
    """Read the agents file and every clip it or the settings need; also the clip for callers who wait for a worker.

    Raises:
        SettingsError: one line for each problem found.
    """
    problems: list[str] = []
    agents = Agents(default=load_agents(None).default)
    clips: Mapping[str, Clip] = {}
    try:
        agents = load_agents(configured.agents_file)
    except SettingsError as error:
        problems += str(error).splitlines()
    try:
        clips = load_manifest(configured.assets_dir)
    except ClipError as error:
        problems += str(error).splitlines()
    else:
        problems += _greeting_problems(configured, agents, clips)
    if problems:
        raise SettingsError("\n".join(problems))
    return agents, clips.get(BRIDGING)


def _greeting_problems(configured: Settings, agents: Agents, clips: Mapping[str, Clip]) -> list[str]:
    if not configured.greeting_audio_enabled:
        return []
    wanted = {"GREETING_AUDIO_CLIP": configured.greeting_audio_clip}
    for agent in {
        agents.default.name: agents.default,
        **{each.name: each for each in agents.by_number.values()},
    }.values():
        if agent.greeting_clip:
            wanted[f"AGENTS_FILE: agent {agent.name}"] = agent.greeting_clip
    problems: list[str] = []
    for who, name in wanted.items():
        if name in clips:
            continue
        try:
            load_clip(configured.assets_dir / name)
        except ClipError as error:
            problems.append(f"{who}: {error}")
    return problems


if __name__ == "__main__":
    main()
