"""Who listens at the carrier's side: an ear that recognises real speech, a decoder of the scripted voice's tones, or nobody.

    async with Ear(log) as ear:
        text = await ear.hear(ulaw)

The ear is a process apart from the one the agent uses, `python -m deploy.demo.ear`: one line in, one out. It runs at the lowest
priority, since what it does is not part of what is shown, and it leaves when its stdin ends.
"""

import asyncio
import base64
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Final, Protocol, Self

from deploy.demo.trouble import INSTALL, ROOT, Trouble

LINE_LIMIT: Final = 4 * 1024 * 1024
"""Bytes of one line: five minutes of audio."""

LOAD_DEADLINE_S: Final = 120.0
HEAR_DEADLINE_S: Final = 60.0
LEAVE_DEADLINE_S: Final = 10.0
LOWEST_PRIORITY: Final = 19
LINE_HZ: Final = 8000


class Hearing(Protocol):
    """Whoever listens to what was played."""

    async def ready(self) -> None:
        """Wait until it can."""

    async def hear(self, ulaw: bytes) -> str:
        """Write down what is heard in 8 kHz mu-law audio; empty for nothing."""
        ...


class Tones:
    """Understands the scripted voice of the stand-ins, exactly and at once; says of anything else how long it is."""

    async def ready(self) -> None:
        """Wait for nothing."""

    async def hear(self, ulaw: bytes) -> str:
        """Write down the words."""
        from tests.standins import modem  # numpy

        return " ".join(word.text for word in modem.decode(ulaw)) or _sound(ulaw)


class Nobody:
    """Says only how long there was something to hear."""

    async def ready(self) -> None:
        """Wait for nothing."""

    async def hear(self, ulaw: bytes) -> str:
        """Give the length."""
        return _sound(ulaw)


class Ear:
    """Starts at `async with`, and loads while other things start; `ready` waits for it."""

    def __init__(self, log: Path | None) -> None:  # None: what it says stands among what this process says
        self._log = log
        self._process: asyncio.subprocess.Process
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Self:
        with self._log.open("ab") if self._log else contextlib.nullcontext() as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-W", "ignore", "-m", "deploy.demo.ear"),
                cwd=ROOT,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                limit=LINE_LIMIT,
                process_group=0,  # a Ctrl-C is the demo's to pass on
            )
        return self

    async def __aexit__(self, *_error: object) -> None:
        stdin = self._process.stdin
        if stdin is not None:
            stdin.close()
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), LEAVE_DEADLINE_S)
        finally:
            if self._process.returncode is None:
                self._process.kill()
                await self._process.wait()

    async def ready(self) -> None:
        """Wait until the models are loaded.

        Raises:
            Trouble: they could not be.
        """
        await self._answer(LOAD_DEADLINE_S)

    async def hear(self, ulaw: bytes) -> str:
        """Write down what is said in 8 kHz mu-law audio; empty for silence.

        Raises:
            Trouble: the process has gone.
        """
        stdin = self._process.stdin
        assert stdin is not None  # noqa: S101 - it is a pipe, see __aenter__
        async with self._turn:
            stdin.write(base64.b64encode(ulaw) + b"\n")
            return await self._answer(HEAR_DEADLINE_S)

    async def _answer(self, deadline_s: float) -> str:
        stdout = self._process.stdout
        assert stdout is not None  # noqa: S101 - it is a pipe, see __aenter__
        try:
            async with asyncio.timeout(deadline_s):
                line = await stdout.readline()
        except TimeoutError:
            line = b""
        if not line:
            raise Trouble(f"the carrier's ear does not work{f', see {self._log}' if self._log else ''}", INSTALL)
        return str(json.loads(line)["text"])


def _sound(ulaw: bytes) -> str:
    return f"[{len(ulaw) / LINE_HZ:.1f} s of sound]" if ulaw else ""


def main() -> None:
    """Recognise what comes in on stdin until it ends."""
    import audioop  # here, since the demo's own process has no use for it

    from tests.standins.local_speech import LocalSpeech  # half a gigabyte of models

    os.nice(LOWEST_PRIORITY)
    speech = LocalSpeech()
    print(json.dumps({"text": ""}), flush=True)
    for line in sys.stdin.buffer:
        text = speech.recognise(audioop.ulaw2lin(base64.b64decode(line), 2), LINE_HZ, "en")
        print(json.dumps({"text": text}), flush=True)


if __name__ == "__main__":
    main()
