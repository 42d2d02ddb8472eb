"""What a pool reads beside its settings, checked before it starts and before each change: the agents file and its clips.

And where it writes, when calls are recorded: that nothing is recorded must not be noticed when a recording is wanted.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass

from shared import logs
from shared.agents import Agents
from shared.agents_file import load_agents
from shared.clips import Clip, load_clip, load_manifest
from shared.errors import ClipError, SettingsError
from shared.processes import FOR_SPEECH, FOR_VOICES
from shared.settings import Settings
from worker.call.greeting import BRIDGING, BURST_S
from worker.call.playout import RATE
from worker.providers.languages import speaks

_log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class Checked:
    """What was read, and found right.

    Attributes:
        bridging: the clip for callers who wait for a worker, None when there is none.
        unrecorded: agents whose callers cannot be told in their language that calls are recorded, which so are not.
    """

    agents: Agents
    bridging: Clip | None = None
    unrecorded: tuple[str, ...] = ()


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
        problems += _consent_problems(configured, clips)
    problems += _speech_problems(configured, agents)
    problems += _folder_problems(configured)
    if problems:
        raise SettingsError("\n".join(problems))
    return Checked(agents, clips.get(BRIDGING), _unrecorded(configured, agents, clips))


def warn(checked: Checked) -> None:
    """Log what is right, and still may not be what was meant."""
    if checked.unrecorded:
        _log.warning("calls of these agents are not recorded: RECORDING_CLIP is not in their language",
                     agents=list(checked.unrecorded))  # fmt: skip


def _speech_problems(configured: Settings, agents: Agents) -> list[str]:
    """Say what is missing for the providers that agents choose for themselves; those of the settings are checked with them."""
    problems = []
    for agent in agents.all:
        needed = [*FOR_SPEECH.get(agent.stt, ()), *FOR_SPEECH.get(agent.tts, ())]
        needed += FOR_VOICES.get(agent.tts, ()) if not agent.voice else ()
        for name in dict.fromkeys(needed):
            value = getattr(configured, name.lower())
            if not (value if isinstance(value, str) else value.get_secret_value()):
                problems.append(f"{name}: missing for agent {agent.name}")
    return problems


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


def _consent_problems(configured: Settings, clips: Mapping[str, Clip]) -> list[str]:
    if not configured.recording_enabled:
        return []
    clip = clips.get(configured.recording_clip)
    if clip is None:
        return [f"RECORDING_CLIP: the manifest has no clip {configured.recording_clip!r}"]
    if len(clip.audio) > BURST_S * RATE:
        return [
            f"RECORDING_CLIP: clip {clip.id!r} plays {clip.duration_ms / 1000:.1f} s, more than the {BURST_S:.0f} s allowed"
        ]
    return []


def _folder_problems(configured: Settings) -> list[str]:
    """Try to write a file where recordings will be: rights are not all that may be missing."""
    if not configured.recording_enabled:
        return []
    folder = configured.recordings_dir
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"0")
    except OSError as error:
        return [f"RECORDINGS_DIR: {folder}: cannot be written: {error.strerror or error}"]
    return []


def _unrecorded(configured: Settings, agents: Agents, clips: Mapping[str, Clip]) -> tuple[str, ...]:
    if not configured.recording_enabled:
        return ()
    language = clips[configured.recording_clip].language
    return tuple(agent.name for agent in agents.all if not speaks(language, agent.language))
