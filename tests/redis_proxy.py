"""A way to Redis that can be made slow: a proxy on a Unix socket of its own, in a thread of the test's process."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Self

CHUNK_BYTES = 65_536


class RedisProxy:
    """Stands between clients and a server that may come and go; `delay_s` is added to each of its answers."""

    def __init__(self, server_url: str) -> None:
        self.delay_s = 0.0
        self._target = server_url.removeprefix("unix://")
        self._folder = Path(tempfile.mkdtemp(prefix="offhook-redis-proxy-"))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="redis proxy", daemon=True)

    @property
    def url(self) -> str:
        """What `REDIS_URL` is set to."""
        return f"unix://{self._folder / 'proxy.sock'}"

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        return self

    def __exit__(self, *_error: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _listen(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.url.removeprefix("unix://"))

    async def _stop(self) -> None:
        self._server.close()
        own = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not own]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry bytes both ways until either side ends."""
        server: asyncio.StreamWriter | None = None
        with contextlib.suppress(OSError, asyncio.CancelledError):
            answers, server = await asyncio.open_unix_connection(self._target)
            asking = asyncio.create_task(_carry(reader, server))
            answering = asyncio.create_task(self._answer(answers, writer))
            try:
                await asyncio.wait({asking, answering}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                asking.cancel()
                answering.cancel()
                await asyncio.gather(asking, answering, return_exceptions=True)
        for end in (writer, server):
            if end is not None:
                end.close()
                with contextlib.suppress(OSError):
                    await end.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK_BYTES):
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            writer.write(data)
            await writer.drain()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
