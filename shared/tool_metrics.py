"""What a pool exposes about its tool host and the MCP servers behind it."""

import contextlib
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Gauge


class ToolMetrics:
    """Whether tools can be had. `server` is a label because the agents file is a closed set."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._host = Gauge("offhook_tool_host_up", "1 while the tool host serves workers", registry=registry)
        self._servers = Gauge(
            "offhook_mcp_server_up", "1 while the tools of an MCP server can be used", ["server"], registry=registry
        )

    def host_up(self, *, up: bool) -> None:
        """Show whether the tool host serves workers."""
        self._host.set(up)

    def server_up(self, server: str, *, up: bool) -> None:
        """Show whether an MCP server can be used."""
        self._servers.labels(server).set(up)

    def servers_gone(self, servers: Iterable[str]) -> None:
        """Show nothing more of these: the agents file has them no longer."""
        for server in servers:
            with contextlib.suppress(KeyError):
                self._servers.remove(server)
