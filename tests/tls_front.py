"""An edge of the tests' own: ends TLS on loopback and passes bytes on. And certificates for it, made by the openssl command."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

HOST = "localhost"


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate with its key: `chain` is what a server sends."""

    chain: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Authority:
    """An authority with an intermediate one, as public ones have; `root` is what its believers trust."""

    folder: Path

    @property
    def root(self) -> Path:
        """The certificate to trust."""
        return self.folder / "root.pem"

    def issue(self, name: str, host: str = HOST, *, days: int = 90, whole: bool = True) -> Certificate:
        """Issue a certificate for a host; `days` below 0 is one that is expired, and one that is not `whole` has no chain."""
        own = Certificate(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        _sign(self.folder, name, f"subjectAltName=DNS:{host}", "middle", days)
        if whole:
            own.chain.write_bytes(own.chain.read_bytes() + (self.folder / "middle.pem").read_bytes())
        return own


def authority(folder: Path) -> Authority:
    """Make an authority."""
    _openssl(
        folder, "req", "-x509", *_new("root"), "-out", "root.pem", "-days", "90", "-subj", "/O=Tests/CN=Tests Root"
    )
    _sign(folder, "middle", "basicConstraints=critical,CA:true", "root", 90)
    return Authority(folder)


def self_signed(folder: Path, host: str = HOST) -> Certificate:
    """Make a certificate that nobody but itself vouches for."""
    extension = f"subjectAltName=DNS:{host}"
    subject = ("-subj", f"/CN={host}", "-addext", extension)
    _openssl(folder, "req", "-x509", *_new("alone"), "-out", "alone.pem", "-days", "90", *subject)
    return Certificate(folder / "alone.pem", folder / "alone.key")


def _sign(folder: Path, name: str, extension: str, by: str, days: int) -> None:
    (folder / f"{name}.ext").write_text(extension + "\n")
    _openssl(folder, "req", *_new(name), "-out", f"{name}.csr", "-subj", f"/O=Tests/CN={name}")
    authority = ("-CA", f"{by}.pem", "-CAkey", f"{by}.key", "-CAcreateserial")
    _openssl(
        folder, "x509", "-req", "-in", f"{name}.csr", *authority, "-out", f"{name}.pem", "-days", str(days),
        "-extfile", f"{name}.ext",
    )  # fmt: skip


def _new(name: str) -> tuple[str, ...]:
    return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key")


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


@contextlib.asynccontextmanager
async def front(port: int, target: int, certificate: Certificate) -> AsyncIterator[None]:
    """End TLS on a port of loopback, and pass bytes on to another."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.chain, certificate.key)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        with contextlib.suppress(OSError):
            await _both_ways(reader, writer, target)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port, ssl=context)
    try:
        yield
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def _both_ways(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: int) -> None:
    inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", target)
    ways = [asyncio.create_task(_copy(reader, inner_writer)), asyncio.create_task(_copy(inner_reader, writer))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.wait(ways)
        inner_writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
