"""An installation in containers: `compose.yaml` with the stand-ins of the demo, called from outside."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.stack import fetch, free_ports
from tests.standins.carrier import Carrier
from tests.standins.carrier_settings import CarrierSettings
from tests.system.talk import worker_in

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tests.containers.engine import Engine

ROOT: Final = Path(__file__).resolve().parents[2]
FILES: Final = (ROOT / "deploy" / "compose.yaml", ROOT / "tests" / "containers" / "compose.test.yaml")
PUBLIC: Final = "http://127.0.0.1:8080"
DEADLINE_S: Final = 120.0
LOOK_AGAIN_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Site:
    """One project of Compose. `files` are its compose files, `variables` what they take from the environment."""

    engine: Engine
    project: str = field(default_factory=lambda: f"offhook-{os.getpid()}")
    port: int = field(default_factory=lambda: free_ports(1)[0])
    files: Sequence[Path] = FILES
    profiles: str = "demo"
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        """Give what Compose, and scripts that use it, are told by the environment."""
        return {
            "COMPOSE_PROJECT_NAME": self.project,
            "COMPOSE_FILE": ":".join(str(file) for file in self.files),
            "COMPOSE_PROFILES": self.profiles,
            "COMPOSE_ANSI": "never",
            "ROUTER_PUBLISH": f"127.0.0.1:{self.port}",
            "DEMO_SPEECH": "scripted",
            **self.variables,
        }

    def compose(self, *arguments: str) -> str:
        """Run `docker compose` on this project and give its stdout; a failure is the test's."""
        return self.engine.run("docker", "compose", *arguments, env=self.env)

    def attempt(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `docker compose` on this project, whatever comes of it."""
        return self.engine.attempt("docker", "compose", *arguments, env=self.env)

    def ids(self, service: str) -> list[str]:
        """Give the ids of the running containers of a service."""
        return self.compose("ps", "-q", service).split()

    def inspect(self, container: str, template: str) -> str:
        """Read something of a container."""
        return self.engine.run("docker", "inspect", "--format", template, container).strip()

    def address(self, service: str) -> str:
        """Give the address of the first container of a service in the network of the project."""
        template = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return self.inspect(self.ids(service)[0], template)

    def lines(self, container: str) -> Iterator[dict[str, Any]]:
        """Read the JSON lines in the log of a container."""
        done = self.engine.attempt("docker", "logs", container)
        for line in (done.stdout + done.stderr).splitlines():
            if line.startswith("{") and line.endswith("}"):
                yield json.loads(line)

    def python(self, container: str, code: str) -> str:
        """Run a line of Python in a container: there is nothing else in it to run."""
        return self.engine.run("docker", "exec", container, "python", "-c", code)

    def settings(self) -> dict[str, str]:
        """Give the settings the stand-ins have made for this start."""
        text = self.python(self.ids("standins")[0], "print(open('/run/demo/settings.env').read())")
        return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)

    def carrier(self) -> Carrier:
        """Make a carrier that calls the published port."""
        return Carrier(
            CarrierSettings(
                target=f"http://127.0.0.1:{self.port}",
                public_base_url=PUBLIC,
                auth_token=self.settings()["TWILIO_AUTH_TOKEN"],
                fast_verbs=True,
                allow_ws=True,
            )
        )

    def ready(self) -> int:
        """Say how many workers the router may promise; 0 also while it does not answer."""
        return int(json.loads(fetch(f"http://127.0.0.1:{self.port}/readyz") or "{}").get("ready", 0))

    def serving(self, call_sid: str) -> tuple[str, int]:
        """Give the container and the process id, as seen in it, of the worker that serves a call."""
        serving = ((container, worker_in(list(self.lines(container)), call_sid)) for container in self.ids("worker"))
        return next(((container, pid) for container, pid in serving if pid), ("", 0))

    def first_ready_s(self) -> float:
        """Say how long after the start of the first pool's container its first worker was ready."""
        (container, *_) = self.ids("worker")
        began = datetime.fromisoformat(self.inspect(container, "{{.State.StartedAt}}")[:26] + "+00:00")
        parked = min(line["timestamp"] for line in self.lines(container) if line.get("event") == "parked")
        return (datetime.fromisoformat(parked) - began).total_seconds()

    def tail(self) -> str:
        """Give the last words of every container, for a failing test."""
        return self.attempt("logs", "--tail", "15").stdout[-6000:]


async def until(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """Wait for something in containers; there is no event to wait for."""
    ends = time.monotonic() + deadline_s
    while not (value := await asyncio.to_thread(condition)):
        assert time.monotonic() < ends, f"not within {deadline_s:.0f} s: {what}"
        await asyncio.sleep(LOOK_AGAIN_S)
    return value
