"""`offhook-doctor`: how checks are run and shown, what it exits with, and what it says of settings and files."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from shared import logs
from shared.agents_file import load_agents
from shared.settings import Settings
from tests.doctoring import found
from worker.doctor import __main__ as command
from worker.doctor import files
from worker.doctor.case import Case, agents_of
from worker.doctor.findings import SETTINGS, Finding, State, bad, doubtful, good, not_tried, status, timed
from worker.doctor.rounds import Check, examine
from worker.doctor.table import summary, table, written

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from worker.doctor.rounds import Ask

SECRET = "a-key-nobody-may-see"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the machine the tests run on: no variables, no `.env`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logs, "_secrets", set())
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def case() -> Case:
    return Case(Settings(), load_agents(None))


def says(*findings: Finding) -> Ask:
    async def ask(_: Case) -> AsyncGenerator[Finding, None]:
        for finding in findings:
            yield finding

    return ask


# --- running ----------------------------------------------------------------------------------------------------------


async def test_a_check_that_rests_on_a_failed_one_is_not_tried_and_says_why(case: Case) -> None:
    checks = [
        Check("a", "", says(bad("no", "do"))),
        Check("b", "", says(good("yes")), ("a",)),
        Check("c", "", says(good("yes"))),
    ]
    report = await examine(case, checks)
    assert [finding.state for finding in report["b"]] == [State.NOT_TRIED]
    assert "`a`" in report["b"][0].said
    assert report["c"] == [good("yes")]


async def test_what_rests_on_something_not_tried_is_not_tried_either(case: Case) -> None:
    checks = [Check("a", "", says(not_tried("why"))), Check("b", "", says(good("yes")), ("a",))]
    assert (await examine(case, checks))["b"][0].state is State.NOT_TRIED


async def test_a_warning_stops_nothing(case: Case) -> None:
    checks = [Check("a", "", says(doubtful("slow", "do"))), Check("b", "", says(good("yes")), ("a",))]
    assert (await examine(case, checks))["b"] == [good("yes")]


async def test_a_check_goes_without_another_that_was_not_asked_for(case: Case) -> None:
    assert (await examine(case, [Check("b", "", says(good("yes")), ("a",))]))["b"] == [good("yes")]


async def test_a_check_that_takes_too_long_fails_and_keeps_what_it_found(case: Case) -> None:
    async def ask(_: Case) -> AsyncGenerator[Finding, None]:
        yield good("so far")
        await asyncio.Event().wait()

    report = await examine(case, [Check("a", "", ask), Check("b", "", says(good("yes")))], deadline_s=0.01)
    assert [finding.state for finding in report["a"]] == [State.OK, State.FAILED]
    assert report["b"] == [good("yes")]


async def test_a_check_that_breaks_takes_no_other_with_it(case: Case) -> None:
    async def ask(_: Case) -> AsyncGenerator[Finding, None]:
        yield good("so far")
        raise LookupError("surprise")

    report = await examine(case, [Check("a", "", ask), Check("b", "", says(good("yes")))])
    assert "LookupError: surprise" in report["a"][1].said
    assert report["b"] == [good("yes")]


async def test_checks_run_side_by_side(case: Case) -> None:
    meeting = asyncio.Barrier(2)

    async def ask(_: Case) -> AsyncGenerator[Finding, None]:
        await meeting.wait()
        yield good("met")

    report = await examine(case, [Check("a", "", ask), Check("b", "", ask)], deadline_s=5)
    assert report == {"a": [good("met")], "b": [good("met")]}


# --- showing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("report", "strict", "expected"),
    [
        ({"a": [good("yes"), not_tried("why"), doubtful("slow", "do")]}, False, 0),
        ({"a": [doubtful("slow", "do")]}, True, 1),
        ({"a": [good("yes"), not_tried("why")]}, True, 0),
        ({SETTINGS: [good("yes")], "a": [bad("no", "do")]}, False, 1),
        ({SETTINGS: [bad("no", "do")], "a": [bad("no", "do")]}, False, 2),
    ],
)
def test_the_exit_status_says_how_it_stands(report: dict[str, list[Finding]], strict: bool, expected: int) -> None:  # noqa: FBT001 - a parameter of the test
    assert status(report, strict=strict) == expected


def test_a_remedy_stands_below_its_finding_and_a_check_is_named_once() -> None:
    lines = list(table({"redis": [good("answers", 3.4), doubtful("forgets", "start it otherwise")]}, 120))
    assert [" ".join(line.split()) for line in lines] == [
        "ok redis 3 ms answers",
        "WARN forgets",
        "-> start it otherwise",
    ]


def test_what_is_too_long_for_a_line_goes_on_below_itself() -> None:
    lines = list(table({"a": [good(" ".join(["word"] * 40))]}, 80))
    assert len(lines) > 2
    assert max(map(len, lines)) <= 80


def test_neither_table_nor_json_shows_a_secret_or_a_callers_number() -> None:
    logs.hide(SECRET)
    report = {"a": [bad(f"refused: {SECRET} of +15550001234", f"not {SECRET}")]}
    for text in ("\n".join(table(report, 120)), written(report, 1)):
        assert SECRET not in text
        assert "0001234" not in text


def test_json_has_everything_a_program_needs() -> None:
    said = json.loads(written({"a": [timed("took", 1234.56, 1000, "be quick")]}, 0))
    [finding] = said["findings"]
    assert said["status"] == 0
    assert finding == {
        "check": "a", "state": "warning", "said": "took, which is slow (over 1000 ms)", "remedy": "be quick", "ms": 1234.6,
    }  # fmt: skip


def test_the_last_line_counts_what_is_wrong() -> None:
    assert summary({"a": [good("yes")]}) == "everything is as it should be"
    assert (
        summary({"a": [bad("no", "do"), doubtful("slow", "do"), not_tried("why")]})
        == "1 failed, 1 warning, 1 not tried"
    )


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [["--only", "everything"], ["--skip", "tsl"], ["--number", "5551234"], ["--what"]], ids=" ".join
)
def test_a_wrong_argument_is_named_and_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        command.main(arguments)
    assert exited.value.code == 2
    assert arguments[-1] in capsys.readouterr().err


def test_settings_that_cannot_be_read_are_said_and_nothing_else_is_tried(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POOL_READY", "many")
    with pytest.raises(SystemExit) as exited:
        command.main(["--json", "--only", "settings,redis"])
    said = json.loads(capsys.readouterr().out)
    assert exited.value.code == said["status"] == 2
    assert [finding["state"] for finding in said["findings"]] == ["failed", "not tried"]
    assert said["findings"][0]["said"].startswith("POOL_READY: ")


def test_only_and_skip_choose_the_checks(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        command.main(["--json", "--only", "clips,tools,agents", "--skip", "tools"])
    assert exited.value.code == 0
    assert {finding["check"] for finding in json.loads(capsys.readouterr().out)["findings"]} == {"agents", "clips"}


# --- settings and files -----------------------------------------------------------------------------------------------


async def test_what_is_missing_for_any_process_is_one_line_each(case: Case) -> None:
    seen = await found(files.settings, case)
    names = [finding.said.partition(":")[0] for finding in seen if finding.state is State.FAILED]
    assert names == ["PUBLIC_BASE_URL", "TWILIO_AUTH_TOKEN", "OPENAI_API_KEY", "CARTESIA_API_KEY", "CARTESIA_VOICE_ID"]


async def test_a_mistake_in_the_agents_file_is_said_by_the_check_of_it_alone(tmp_path: Path) -> None:
    path = tmp_path / "agents.toml"
    path.write_text('[agents.default]\nprompt = "Hello."\nlanguag = "en"\n')
    conf = Settings(agents_file=path)
    case = Case(conf, agents_of(conf))
    assert ["languag" in finding.said for finding in await found(files.agents, case)] == [True]
    assert all(finding.state is State.OK for finding in await found(files.clips, case))


async def test_a_broken_clip_is_said_by_the_check_of_clips_alone(tmp_path: Path) -> None:
    conf = Settings(assets_dir=tmp_path)
    case = Case(conf, agents_of(conf))
    assert "manifest.toml: cannot be read" in (await found(files.clips, case))[0].said
    assert all(finding.state is not State.FAILED for finding in await found(files.agents, case))


async def test_an_agent_without_a_recorded_greeting_in_its_language_is_named(tmp_path: Path) -> None:
    path = tmp_path / "agents.toml"
    path.write_text('[agents.default]\nlanguage = "pt-BR"\ngreeting = "Bom dia."\ntimezone = "America/Sao_Paulo"\n')
    conf = Settings(agents_file=path)
    seen = await found(files.clips, Case(conf, agents_of(conf)))
    assert [(each.state, "pt-BR" in each.said) for each in seen] == [(State.OK, False), (State.WARNING, True)]


async def test_a_broken_tool_is_left_out_and_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def nothing(\n")
    seen = await found(files.tools, Case(Settings(tools_dir=tmp_path), load_agents(None)))
    assert [each.state for each in seen] == [State.OK, State.WARNING]
    assert "broken.py" in seen[1].said


async def test_with_strict_tools_a_broken_one_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def nothing(\n")
    conf = Settings(tools_dir=tmp_path, tools_strict=True)
    seen = await found(files.tools, Case(conf, load_agents(None)))
    assert [each.state for each in seen] == [State.FAILED]
