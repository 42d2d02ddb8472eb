"""What a pool reads beside its settings, checked before it starts and before each change: the agents file and its clips."""

from collections.abc import Mapping
from dataclasses import dataclass

from shared.agents import Agents
from shared.agents_file import load_agents
from shared.clips import Clip, load_clip, load_manifest
from shared.errors import ClipError, SettingsError
from shared.settings import Settings
from worker.call.greeting import BRIDGING


@dataclass(frozen=True, slots=True)
class Checked:
    """What was read, and found right; `bridging` is the clip for callers who wait for a worker, None when there is none."""

    agents: Agents
    bridging: Clip | None = None


def check(configured: Settings) -> Checked:
    """Read the agents file and every clip it or the settings need. Takes a while: not on a loop.

    Raises:
        SettingsError: one line for each problem found.
    """
    problems: list[str] = []
    agents = load_agents(None)
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
    return Checked(agents, clips.get(BRIDGING))


def _greeting_problems(configured: Settings, agents: Agents, clips: Mapping[str, Clip]) -> list[str]:
    if not configured.greeting_audio_enabled:
        return []
    wanted = {"GREETING_AUDIO_CLIP": configured.greeting_audio_clip}
    for agent in agents.all:
        if agent.greeting_clip:
            wanted[f"AGENTS_FILE: agent {agent.name}: greeting_clip"] = agent.greeting_clip
    problems: list[str] = []
    for who, name in wanted.items():
        if name in clips:
            continue
        try:
            load_clip(configured.assets_dir / name)
        except ClipError as error:
            problems.append(f"{who}: {error}")
    return problems
