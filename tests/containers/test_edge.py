"""The edge in its container: TLS, a reload with a call up, and the apology; what it does beyond is tested without containers."""

from __future__ import annotations

import asyncio
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pytest

from tests.containers.engine import PYTHON_IMAGE
from tests.containers.site import FILES, ROOT, Site
from tests.containers.test_compose import called, goes_on
from tests.stack import PUBLIC, free_ports
from tests.standins.carrier import Carrier
from tests.standins.carrier_settings import CarrierSettings
from tests.system.talk import ask

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.containers.engine import Engine

IMAGE: Final = "offhook-test-caddy"
# Like the official image, as far as ours uses it: `caddy` on the path, `sh` and `wget`.
DOCKERFILE: Final = f"""
FROM {PYTHON_IMAGE}
COPY caddy /usr/bin/caddy
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends wget
"""
SERVICES: Final = ("redis", "net", "standins", "router", "worker", "edge")
CERTIFICATE: Final = "/data/caddy/pki/authorities/local/root.crt"
# Caddy skips a configuration that is the one it has.
RELOAD: Final = (
    "sed 's/max_size 64KB/max_size 65KB/' /etc/caddy/Caddyfile >/tmp/Caddyfile"
    " && caddy reload --config /tmp/Caddyfile --adapter caddyfile"
)


@pytest.fixture(scope="module")
def image(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Make the image of Caddy out of its wheel."""
    folder = tmp_path_factory.mktemp("caddy")
    (folder / "caddy").write_bytes((ROOT / ".venv" / "bin" / "caddy").read_bytes())
    (folder / "caddy").chmod(0o755)
    (folder / "Dockerfile").write_text(DOCKERFILE, encoding="utf-8")
    engine.run("docker", "build", "--quiet", "--tag", IMAGE, str(folder))
    return IMAGE


@pytest.fixture(scope="module")
def edged(engine: Engine, image: str) -> Iterator[Site]:
    """Give an installation behind the edge."""
    (port,) = free_ports(1)
    made = Site(
        engine,
        files=(*FILES, ROOT / "tests" / "containers" / "compose.edge.yaml"),
        profiles="demo,edge",
        variables={"CADDY_IMAGE": image, "EDGE_PUBLISH": str(port)},
    )
    made = replace(made, project=f"{made.project}-edge")
    try:
        up = made.attempt("up", "--detach", "--wait", "--no-build", *SERVICES)
        assert up.returncode == 0, f"{up.stderr}\n{made.tail()}"
        yield made
    finally:
        made.attempt("down", "--volumes", "--timeout", "10")


@pytest.fixture
def through(edged: Site, tmp_path: Path) -> Carrier:
    """Give a carrier that reaches the installation as Twilio does."""
    (edge,) = edged.ids("edge")
    authority = tmp_path / "root.crt"
    authority.write_text(edged.engine.run("docker", "exec", edge, "cat", CERTIFICATE), encoding="utf-8")
    return Carrier(
        CarrierSettings(
            target=f"https://127.0.0.1:{edged.variables['EDGE_PUBLISH']}",
            public_base_url=PUBLIC,
            ca_file=str(authority),
            auth_token=edged.settings()["TWILIO_AUTH_TOKEN"],
            fast_verbs=True,
        )
    )


async def test_a_call_through_tls_outlives_a_reload_of_the_edge(edged: Site, through: Carrier) -> None:
    (edge,) = edged.ids("edge")
    async with through as carrier:
        call = await called(carrier)
        await asyncio.to_thread(edged.engine.run, "docker", "exec", edge, "sh", "-c", RELOAD)
        await ask(call, "what-time", "It", "UTC.")
        await goes_on(call)
        await goes_on(await called(carrier))


async def test_without_a_router_the_edge_apologises(edged: Site, through: Carrier) -> None:
    await asyncio.to_thread(edged.compose, "stop", "router")
    async with through as carrier:
        call = await carrier.dial()
        record = await call.ended()
    assert record.ended_by == "twiml"
    assert record.verbs == ("Say", "Hangup")


def test_an_edge_without_its_address_says_so_and_is_not_started_again_and_again(edged: Site) -> None:
    done: subprocess.CompletedProcess[str] = edged.attempt(
        "run", "--rm", "--no-deps", "--env", "PUBLIC_BASE_URL=", "--env", "RESTART_PAUSE=0", "edge"
    )
    assert done.returncode == 2
    assert "edge: PUBLIC_BASE_URL is not set" in done.stderr + done.stdout
