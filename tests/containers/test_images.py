"""What the images are made of, and what they do without."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from tests.containers.engine import Engine

MB: Final = 1_000_000
LARGEST_WORKER: Final = 900 * MB
OURS: Final = ("offhook-router", "offhook-worker")
NO_SHELL: Final = ("--volume", "/dev/null:/bin/sh:ro", "--volume", "/dev/null:/bin/bash:ro")
SEALED: Final = ("--rm", "--read-only", "--cap-drop", "ALL", "--tmpfs", "/tmp", *NO_SHELL)  # noqa: S108 - in a container


def test_the_worker_image_is_no_larger_than_promised(engine: Engine) -> None:
    size = int(engine.run("docker", "image", "inspect", "--format", "{{.Size}}", "offhook-worker"))
    print(f"worker image: {size / MB:.0f} MB")
    assert size <= LARGEST_WORKER


@pytest.mark.parametrize("image", OURS)
def test_an_image_runs_as_nobody_in_particular_and_says_what_it_is(engine: Engine, image: str) -> None:
    config = json.loads(engine.run("docker", "image", "inspect", "--format", "{{json .Config}}", image))
    assert config["User"] == "10001:10001"
    assert "readyz" in " ".join(config["Healthcheck"]["Test"])
    assert config["Healthcheck"]["Test"][0] == "CMD", "without a shell"
    assert {"title", "description", "version", "revision", "licenses"} <= {
        name.removeprefix("org.opencontainers.image.") for name in config["Labels"]
    }


@pytest.mark.parametrize("module", ["pipecat", "worker", "openai", "onnxruntime"])
def test_the_router_image_has_nothing_of_a_worker(engine: Engine, module: str) -> None:
    done = engine.attempt("docker", "run", *SEALED, "offhook-router", "python", "-c", f"import {module}")
    assert f"No module named '{module}'" in done.stderr


@pytest.mark.parametrize(("image", "module"), [("offhook-router", "router"), ("offhook-worker", "worker.call.child")])
def test_code_is_compiled_and_stays_as_it_is(engine: Engine, image: str, module: str) -> None:
    code = (
        f"import pathlib, {module} as m; print(pathlib.Path(m.__cached__).exists()); "
        "print(sum(1 for p in pathlib.Path(m.__file__).parents[1].rglob('*.py') if not list("
        "(p.parent / '__pycache__').glob(p.stem + '.*.pyc'))))"
    )
    said = engine.run("docker", "run", *SEALED, image, "python", "-W", "ignore", "-c", code).split()
    assert said[-2:] == ["True", "0"]


@pytest.mark.parametrize(
    ("image", "command", "missing"),
    [
        ("offhook-router", "router", ["PUBLIC_BASE_URL: missing", "TWILIO_AUTH_TOKEN: missing"]),
        ("offhook-worker", "worker", ["OPENAI_API_KEY: missing", "CARTESIA_API_KEY: missing", "CARTESIA_VOICE_ID: missing"]),
    ],
)  # fmt: skip
def test_a_process_without_settings_says_what_is_missing_and_needs_no_shell_for_it(
    engine: Engine, image: str, command: str, missing: list[str]
) -> None:
    done = engine.attempt("docker", "run", *SEALED, image, "python", "-m", command)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [f"offhook: {line}" for line in missing]
