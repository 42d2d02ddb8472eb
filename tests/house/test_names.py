"""Three generic package names, handled once: whatever else is installed, ours are the ones imported."""

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("router", "worker", "shared")


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_comes_from_this_repository(name: str) -> None:
    file = importlib.import_module(name).__file__
    assert file is not None
    assert Path(file).resolve() == ROOT / name / "__init__.py"


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_is_typed_and_its_init_holds_a_docstring_and_nothing_else(name: str) -> None:
    assert (ROOT / name / "py.typed").is_file()
    for init in (ROOT / name).rglob("__init__.py"):
        text = init.read_text(encoding="utf-8").strip()
        assert text.startswith('"""'), init
        assert text.endswith('"""'), init
        assert text.count('"""') == 2, init


def test_every_folder_of_modules_is_a_package() -> None:
    folders = {path.parent for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


def test_nothing_below_tests_is_a_package() -> None:
    assert [str(path) for path in (ROOT / "tests").rglob("__init__.py")] == []


def test_the_tests_of_a_name_do_not_shadow_the_package_of_that_name() -> None:
    program = "import tests.worker.line, worker, shared; print(worker.__file__, shared.__file__)"
    printed = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert printed == [str(ROOT / "worker" / "__init__.py"), str(ROOT / "shared" / "__init__.py")]


def test_the_distribution_has_a_name_of_its_own_and_is_never_published() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["name"] not in PACKAGES
    assert "Private :: Do Not Upload" in project["project"]["classifiers"]
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == list(PACKAGES)
