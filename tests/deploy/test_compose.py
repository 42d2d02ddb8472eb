"""What compose.yaml, the Dockerfiles, their locks and the scripts say, without a container: `make containers` runs them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from shared.settings import Settings

ROOT: Final = Path(__file__).resolve().parents[2]
DEPLOY: Final = ROOT / "deploy"
PROGRAMS: Final = Path(sys.executable).parent
DOCKERFILES: Final = (*sorted(DEPLOY.glob("*.Dockerfile")), DEPLOY / "prometheus" / "Dockerfile")
LOCKS: Final = DEPLOY / "requirements"
SCRIPTS: Final = (
    DEPLOY / "update.sh",
    DEPLOY / "install.sh",
    LOCKS / "lock.sh",
    DEPLOY / "caddy" / "run.sh",
    ROOT / ".ci" / "run",
)
OURS: Final = ("router", "worker", "prefetcher")
BY_NAME: Final = {"doctor", "call"}
"""Profiles of what is run by its name, when the rest is there."""

GOODBYE_S: Final = 20.0
"""What a drain may take beyond DRAIN_TIMEOUT, as env.example says."""


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    """Read the services, with what they share merged into each."""
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    found: dict[str, dict[str, Any]] = yaml.safe_load(text)["services"]
    return found


def test_it_is_a_compose_file() -> None:
    checker = (str(PROGRAMS / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec")
    done = subprocess.run([*checker, str(DEPLOY / "compose.yaml")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_a_dockerfile_is_clean_and_needs_no_newer_engine(path: Path) -> None:
    done = subprocess.run([PROGRAMS / "hadolint", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"^#\s*syntax\s*=", text, re.MULTILINE | re.IGNORECASE)
    assert "<<" not in text
    images = re.findall(r"^FROM (\S+)(?: AS (\S+))?", text, re.MULTILINE)
    stages = {stage for _, stage in images}
    assert {image for image, _ in images} <= {"${PYTHON}"} | stages
    assert set(re.findall(r"COPY --from=(\S+)", text)) <= stages


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_clean(path: Path) -> None:
    done = subprocess.run(
        [PROGRAMS / "shellcheck", "--severity=warning", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert path.stat().st_mode & 0o111


@pytest.mark.parametrize("name", ["router", "worker", "demo"])
def test_an_image_runs_the_versions_that_are_tested(name: str) -> None:
    """Every package is pinned to what requirements.lock has, and hashed."""
    pinned = versions(ROOT / "requirements.lock")
    installed = versions(LOCKS / f"{name}.lock")
    assert installed
    assert installed.items() <= pinned.items()


@pytest.mark.parametrize("path", sorted(LOCKS.glob("*.lock")), ids=lambda path: path.name)
def test_a_lock_has_a_hash_for_everything_and_no_address(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    packages = re.split(r"\n(?=[a-z0-9])", text.strip())
    assert all("--hash=sha256:" in package for package in packages)
    assert "://" not in text


def test_the_router_image_has_no_pipecat_and_the_worker_image_nothing_only_tests_need() -> None:
    router, worker = versions(LOCKS / "router.lock"), versions(LOCKS / "worker.lock")
    assert not {"pipecat-ai", "openai", "onnxruntime"} & router.keys()
    assert "pipecat-ai" in worker
    assert not {"pytest", "piper-tts", "faster-whisper", "numba", "llvmlite"} & worker.keys()


def test_what_compose_sets_are_settings_and_agree_with_the_ports_that_are_asked(services: dict[str, Any]) -> None:
    environment = services["router"]["environment"]
    assert {name.lower() for name in environment} <= Settings.model_fields.keys()
    for service in OURS:
        assert services[service]["environment"] == environment
    health = services["prefetcher"]["healthcheck"]["test"][-1]
    assert f":{environment['PREFETCH_METRICS_PORT']}/readyz" in health
    for dockerfile, address in (
        ("router", f"unix:{environment['ROUTER_HEALTH_SOCKET']}:/readyz"),
        ("worker", f"http://127.0.0.1:{environment['POOL_METRICS_PORT']}/readyz"),
    ):
        assert f'"{address}"]' in (DEPLOY / f"{dockerfile}.Dockerfile").read_text(encoding="utf-8")
    assert services["net"]["ports"] == [f"${{ROUTER_PUBLISH:-127.0.0.1:8080}}:{environment['ROUTER_PORT']}"]


def test_whoever_reads_the_settings_sees_the_files_they_name(services: dict[str, Any]) -> None:
    """A secret in a file is named by a setting. The edge has none."""
    for name, service in services.items():
        if "env_file" in service and name != "edge":
            assert "./config:/etc/offhook:ro" in service["volumes"], name


def test_the_router_is_started_again_when_docker_has_given_it_up(services: dict[str, Any]) -> None:
    """Its network is another container's, which may come a moment later when Docker starts everything."""
    unit = (DEPLOY / "offhook.service").read_text(encoding="utf-8")
    waiting = [
        name
        for name, service in services.items()
        if service.get("network_mode", "").startswith("service:") and service["restart"] != "no"
    ]
    command = f"docker compose -f deploy/compose.yaml start {' '.join(waiting)}"
    assert f"ExecStart=/usr/bin/env {command}\n" in unit
    assert command in (DEPLOY / "README.md").read_text(encoding="utf-8")


def test_a_pool_has_the_time_its_drain_takes(services: dict[str, Any]) -> None:
    default = re.fullmatch(r"\$\{WORKER_STOP_GRACE:-(\d+)s\}", services["worker"]["stop_grace_period"])
    assert default is not None
    assert int(default[1]) >= Settings.model_fields["drain_timeout"].default + GOODBYE_S


def test_only_the_router_and_the_edge_are_published_by_default(services: dict[str, Any]) -> None:
    assert {name for name, service in services.items() if service.get("ports")} == {"net", "edge"}


def test_everything_has_limits_and_gives_up_what_it_does_not_need(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["mem_limit"], name
        assert service["init"], name
        assert service["restart"] == ("no" if name in {"demo-call", "doctor"} else "unless-stopped"), name
        assert service["logging"]["options"]["max-size"], name


def test_an_image_is_built_by_one_service(services: dict[str, Any]) -> None:
    """Two builds of the same have two ids: what was started from the first would be made anew by the next `up`."""
    builders, images = defaultdict(list), set()
    for name, service in services.items():
        if BY_NAME & set(service.get("profiles", ())):
            continue
        images.add(service["image"])
        if "build" in service:
            builders[service["image"]].append(name)
    ours = {image for image in images if "offhook" in image}
    assert {image: len(names) for image, names in builders.items()} == dict.fromkeys(ours, 1)


def test_up_needs_two_images_that_are_not_built_here(services: dict[str, Any]) -> None:
    always = [service for service in services.values() if "profiles" not in service]
    built = {service["image"] for service in always if "build" in service}
    pulled = {service["image"] for service in always} - built
    assert pulled == {
        "${REDIS_IMAGE:-redis:7-bookworm}",
        "${PYTHON_IMAGE:-python:3.12-slim}",
    }


def versions(path: Path) -> dict[str, str]:
    """Read what a lock pins; the same name may stand there for several versions of Python, with markers."""
    return dict(re.findall(r"^([a-z0-9._-]+)==([^\s;\\]+)", path.read_text(encoding="utf-8"), re.MULTILINE))
