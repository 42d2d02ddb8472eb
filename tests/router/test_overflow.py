"""Whom to dial when the hold line gives up: the agent's number, as the agents file has it now."""

import os
from pathlib import Path

import pytest

from router.overflow import Overflow

CALLED, OTHER, USUAL = "+15550002222", "+15550003333", "+15005550009"


def written(path: Path, number: str, at: int) -> None:
    """Write an agents file with an overflow number; `at` is when."""
    prompt = 'prompt_file = "not-for-routers.md"'
    path.write_text(f'[agents.a]\nnumbers = ["{CALLED}"]\n{prompt}\noverflow_number = "{number}"\n', encoding="utf-8")
    os.utime(path, ns=(at, at))


def test_without_a_file_the_usual_number_is_dialled_for_everybody() -> None:
    assert Overflow(None, USUAL).of(CALLED) == USUAL
    assert Overflow(None, "").of(CALLED) == ""


def test_an_agent_may_have_its_own(tmp_path: Path) -> None:
    path = tmp_path / "agents.toml"
    written(path, "+15005550001", 1)
    overflow = Overflow(path, USUAL)
    assert overflow.of(CALLED) == "+15005550001"
    assert overflow.of(OTHER) == USUAL


def test_a_change_counts_from_the_next_look_and_a_broken_one_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "agents.toml"
    written(path, "+15005550001", 1)
    overflow = Overflow(path, USUAL)
    written(path, "+15005550002", 2)
    assert overflow.of(CALLED) == "+15005550002"
    written(path, "no number", 3)
    assert [overflow.of(CALLED) for _ in range(3)] == ["+15005550002"] * 3
    assert capsys.readouterr().out.count("overflow numbers not read") == 1
    path.unlink()
    assert overflow.of(CALLED) == "+15005550002"
    written(path, "+15005550004", 4)
    assert overflow.of(CALLED) == "+15005550004"


def test_a_file_that_is_broken_from_the_beginning_is_no_reason_to_turn_callers_away(tmp_path: Path) -> None:
    path = tmp_path / "agents.toml"
    path.write_text("[agents", encoding="utf-8")
    assert Overflow(path, USUAL).of(CALLED) == USUAL
