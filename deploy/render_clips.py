"""Render the clips of a manifest in a voice of one's own, and write file, duration and hash back into it.

    python -m deploy.render_clips --provider cartesia     # reads CARTESIA_API_KEY and CARTESIA_VOICE_ID
    python -m deploy.render_clips --provider local        # the voice the clips are shipped in (extra `local`)
    python -m deploy.render_clips --provider recorded     # one's own recordings: measures and hashes what the rows name

The manifest is the script: each row's `text` is spoken in its `language`. To add a clip, add a row with `id`, `text`
and `language` (and `file` for a recording) and name it with `--only`. Run from the root of the repository.
"""

import argparse
import hashlib
import json
import os
import re
import sys
import tomllib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.clips import MANIFEST, RATE_HZ, duration_ms, load_clip, load_manifest
from shared.errors import ClipError

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # as in shared.clips
    import audioop

PEAK: Final = 23197  # of 32767: -3 dBFS, loud enough for a phone, clear of mu-law's clipping
MARGIN_MS: Final = 20  # silence kept at each end; the end is then filled up to a whole frame and stays below 40 ms
SENTENCE_GAP_MS: Final = 200  # the local voice renders sentence by sentence, without the pause between them
FLOOR: Final = 200  # of 32767, after levelling: -44 dBFS, below the softest final "s"
FRAME: Final = 160  # 20 ms of mu-law
STEP: Final = RATE_HZ // 100 * 2  # 10 ms of 16-bit samples
FIELDS: Final = ("id", "file", "text", "language", "voice", "duration_ms", "sha256", "licence")
HEADER: Final = """\
# The clips the agent plays without asking a provider. Checked at start: a row that does not fit its file stops it.
# deploy/render_clips.py rewrites this file; audio_assets/README.md says how to use another voice.
"""


@dataclass(frozen=True, slots=True)
class Voice:
    """Somebody who says texts, and what the manifest shall write about them; empty leaves what it says.

    `say` takes text and language and returns PCM s16le, 8 kHz mono; None for recordings that exist.
    """

    name: str = ""
    licence: str = ""
    say: Callable[[str, str], bytes] | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Render, rewrite the manifest, check the result; return the exit code."""
    options = _options(arguments)
    manifest = options.folder / MANIFEST
    try:
        rows = read_rows(manifest)
        wanted = _wanted(rows, options.only)
        voice = _voice(options)
        write_rows(manifest, [render(options.folder, row, voice) if row["id"] in wanted else row for row in rows])
        clips = load_manifest(options.folder)
    except (ClipError, ImportError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    for name in wanted:
        sys.stdout.write(f"{name}: {clips[name].duration_ms} ms, {clips[name].voice}: {clips[name].text}\n")
    return 0


def read_rows(manifest: Path) -> list[dict[str, object]]:
    """Read the rows of a manifest without asking that they be complete.

    Raises:
        ClipError: it cannot be read, or a row lacks `id`, `text` or `language`.
    """
    try:
        rows = tomllib.loads(manifest.read_text(encoding="utf-8")).get("clip", [])
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ClipError(f"{manifest}: cannot be read: {error}") from error
    for number, row in enumerate(rows, start=1):
        if missing := {"id", "text", "language"} - row.keys():
            raise ClipError(f"{manifest}: clip number {number} has no {', '.join(sorted(missing))}")
    return list(rows)


def write_rows(manifest: Path, rows: Sequence[Mapping[str, object]], header: str = HEADER) -> None:
    """Write a manifest as a whole: a reader sees the old one or the new one."""
    blocks = [header]
    for row in rows:
        # A JSON string or whole number is a TOML one as well.
        lines = [f"{key} = {json.dumps(row[key], ensure_ascii=False)}" for key in FIELDS if key in row]
        blocks.append("\n".join(["[[clip]]", *lines, ""]))
    temporary = manifest.with_suffix(".new")
    temporary.write_text("\n".join(blocks), encoding="utf-8")
    temporary.replace(manifest)


def render(folder: Path, row: Mapping[str, object], voice: Voice) -> dict[str, object]:
    """Say one row into a file beside the manifest, or take the recording it names; return the full row."""
    labels = {"voice": voice.name, "licence": voice.licence}
    done = dict(row) | {key: value for key, value in labels.items() if value}
    if voice.say is not None:
        done["file"] = f"{row['id']}.ulaw"
        said = voice.say(str(row["text"]), str(row["language"]))
        (folder / str(done["file"])).write_bytes(polish(said))
    elif "file" not in row:
        raise ClipError(f"clip {row['id']!r}: names no file to measure")
    path = folder / str(done["file"])
    length = duration_ms(load_clip(path).audio)
    return done | {"duration_ms": length, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def polish(pcm: bytes, margin_ms: int = MARGIN_MS) -> bytes:
    """Level speech to -3 dBFS, cut silence from its ends, fill up the last frame; PCM s16le 8 kHz to mu-law.

    Raises:
        ClipError: there is nothing but silence.
    """
    speech = _trimmed(_levelled(pcm))
    margin = bytes(margin_ms * RATE_HZ // 1000 * 2)
    audio = audioop.lin2ulaw(margin + speech + margin, 2)
    return audio + b"\xff" * (-len(audio) % FRAME)


def _levelled(pcm: bytes) -> bytes:
    peak = audioop.max(pcm, 2)
    if peak == 0:
        raise ClipError("the voice said nothing")
    return audioop.mul(pcm, 2, PEAK / peak)


def _trimmed(pcm: bytes) -> bytes:
    loud = [start for start in range(0, len(pcm), STEP) if audioop.max(pcm[start : start + STEP], 2) > FLOOR]
    return pcm[loud[0] : loud[-1] + STEP]


def _wanted(rows: Sequence[Mapping[str, object]], only: Sequence[str] | None) -> list[str]:
    known = [str(row["id"]) for row in rows]
    if unknown := set(only or ()) - set(known):
        raise ClipError(f"the manifest has no clip {', '.join(sorted(unknown))}")
    return list(only or known)


def _voice(options: argparse.Namespace) -> Voice:
    match options.provider:
        case "local":
            voice = _local()
        case "cartesia":
            voice = _cartesia(options.model)
        case _:
            voice = Voice()
    return Voice(options.voice or voice.name, options.licence or voice.licence, voice.say)


def _local() -> Voice:
    # Late: only this provider needs the extra `local`, and it stays within the stand-ins (piper-tts is GPL).
    from tests.standins.local_speech import VOICE, VOICE_LICENCE, LocalMouth

    mouth = LocalMouth()
    gap = bytes(SENTENCE_GAP_MS * RATE_HZ // 1000 * 2)

    def say(text: str, language: str) -> bytes:
        sentences = re.split(r"(?<=[.!?])\s+", text.strip())
        return gap.join(_trimmed(mouth.synthesize(sentence, language)) for sentence in sentences)

    return Voice(VOICE, VOICE_LICENCE, say)


def _cartesia(model: str) -> Voice:
    """Render by HTTP. Source: cartesia 4.2, `client.tts.generate` (POST /tts/bytes), raw pcm_s16le at 8 kHz.

    Not pcm_mulaw: levelling works on linear samples, and would quantise a second time.
    """
    # Late: the other providers need neither the library nor a key.
    from cartesia import Cartesia

    key, voice_id = os.environ.get("CARTESIA_API_KEY"), os.environ.get("CARTESIA_VOICE_ID")
    if not key or not voice_id:
        raise ClipError("set CARTESIA_API_KEY and CARTESIA_VOICE_ID")
    client = Cartesia(api_key=key)

    def say(text: str, language: str) -> bytes:
        answer = client.tts.generate(
            model_id=model,
            transcript=text,
            voice={"id": voice_id},
            language=language.split("-", maxsplit=1)[0],
            output_format={"container": "raw", "encoding": "pcm_s16le", "sample_rate": RATE_HZ},
        )
        return answer.read()

    return Voice(f"Cartesia {voice_id}", "your agreement with Cartesia", say)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m deploy.render_clips", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--provider", required=True, choices=("cartesia", "local", "recorded"))
    parser.add_argument("--folder", type=Path, default=Path("audio_assets"), help="where the manifest is")
    parser.add_argument("--only", nargs="+", metavar="ID", help="these clips and no others")
    parser.add_argument("--voice", help="how the manifest shall call the voice")
    parser.add_argument("--licence", help="what allows the recordings to be used")
    parser.add_argument("--model", default="sonic-3.5", help="Cartesia's model, default %(default)s")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
