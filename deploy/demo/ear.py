"""The ear at the carrier's side: a process that recognises real speech, apart from the one the agent uses.

    async with Ear(log) as ear:
        text = await ear.hear(ulaw)

`python -m deploy.demo.ear` is that process: one JSON line in, one out. It runs at the lowest priority, since what it does is
not part of what is shown, and it leaves when its stdin ends.
"""

import asyncio
import base64
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Final, Self

from deploy.demo.trouble import INSTALL, ROOT, Trouble

LINE_LIMIT: Final = 4 * 1024 * 1024
"""Bytes of one line: five minutes of audio."""

LOAD_DEADLINE_S: Final = 120.0
HEAR_DEADLINE_S: Final = 60.0
LEAVE_DEADLINE_S: Final = 10.0
LOWEST_PRIORITY: Final = 19


class Ear:
    """Starts at `async with`, and loads while other things start; `ready` waits for it."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process: asyncio.subprocess.Process
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Self:
        with self._log.open("ab") as log:
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
            raise Trouble(f"the carrier's ear does not work, see {self._log}", INSTALL)
        return str(json.loads(line)["text"])


def main() -> None:
    """Recognise what comes in on stdin until it ends."""
    import audioop  # here, since the demo's own process has no use for it

    from tests.standins.local_speech import LINE_HZ, LocalSpeech  # half a gigabyte of models

    os.nice(LOWEST_PRIORITY)
    speech = LocalSpeech()
    print(json.dumps({"text": ""}), flush=True)
    for line in sys.stdin.buffer:
        text = speech.recognise(audioop.ulaw2lin(base64.b64decode(line), 2), LINE_HZ, "en")
        print(json.dumps({"text": text}), flush=True)


if __name__ == "__main__":
    main()
