"""What tools cost: counted over what is really sent, for each stage of each agent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shared.agents import STAGES, Agent
from shared.settings import Settings
from tests.standins import pipecat_rig  # noqa: F401 - imports Pipecat without the warnings it gives itself
from worker.tools import __main__ as command
from worker.tools import tokens
from worker.tools.builtin import BUILT_IN
from worker.tools.registry import Outcome, Tool, ToolCall
from worker.tools.tokens import Vocabulary

ROOT = Path(__file__).parents[3]
GPT = Vocabulary.of("gpt-4.1")
AGENTS = """
[agents.clinic]
numbers = ["+551130000000"]
stage = "critical"
tools = ["get_current_time", "more_tools", "parking"]
"""


async def _nothing(_: ToolCall) -> Outcome:
    return Outcome({})


@pytest.mark.parametrize("name", BUILT_IN)
def test_what_is_counted_is_what_pipecat_sends(name: str) -> None:
    from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
    from pipecat.adapters.llm.schemas.tools_schema import ToolsSchema
    from pipecat.adapters.llm.services.open_ai_adapter import OpenAILLMAdapter

    tool = BUILT_IN[name]
    schema = tool.schema()
    sent = FunctionSchema(
        name=tool.name,
        description=tool.description,
        properties=schema["properties"],
        required=schema.get("required", []),
    )
    adapter = OpenAILLMAdapter()  # type: ignore[no-untyped-call]  # Pipecat's constructor is not annotated
    (written,) = adapter.to_provider_tools_format(ToolsSchema(standard_tools=[sent]))
    assert tokens.function(tool) == written


def test_a_tool_is_counted_with_the_vocabulary_of_the_model() -> None:
    assert GPT.name == "o200k_base"
    assert GPT.count("hello world") == 4  # two words and two quotation marks
    assert GPT.count({"a": [1, 2]}) == len(GPT.encoding.encode('{"a":[1,2]}'))
    assert GPT.encoding.decode(GPT.encoding.encode('{"é":"ação"}')) == '{"é":"ação"}'


@pytest.mark.parametrize(
    ("model", "vocabulary", "known"),
    [
        ("gpt-4.1", "o200k_base", True),
        ("gpt-4.1-2025-04-14", "o200k_base", True),
        ("gpt-4o-mini", "o200k_base", True),
        ("gpt-4", "cl100k_base", True),
        ("gpt-99", "o200k_base", False),
        ("", "o200k_base", False),
    ],
)
def test_a_model_that_is_not_known_is_counted_as_the_newest_ones(model: str, vocabulary: str, *, known: bool) -> None:
    found = Vocabulary.of(model)
    assert (found.name, found.known) == (vocabulary, known)


def test_each_stage_holds_the_former_ones_and_costs_more() -> None:
    cost = tokens.cost(BUILT_IN.values(), Agent(), GPT)
    critical, essential, full = (cost.stages[stage] for stage in STAGES)
    assert critical < essential < full
    for stage in STAGES:
        alone = sum(cost.tools[tool.name] for tool in cost.seen[stage])
        assert abs(cost.stages[stage] - alone) <= len(cost.seen[stage])  # what separates one from the next
    names = [{tool.name for tool in cost.seen[stage]} - {"more_tools"} for stage in STAGES]
    assert names[0] < names[1] < names[2]


def test_an_agents_own_list_and_a_longer_description_change_the_cost() -> None:
    short = tokens.cost(BUILT_IN.values(), Agent(tools=("get_current_time",)), GPT)
    assert set(short.tools) == {"get_current_time", "more_tools"}
    assert short.stages["critical"] == short.stages["essential"] > short.stages["full"]
    wordy = Tool(name="get_current_time", description="Tell the time. " * 50, run=_nothing)
    assert tokens.cost([wordy], Agent(), GPT).tools["get_current_time"] > short.tools["get_current_time"] + 100


def test_an_agent_without_tools_costs_nothing() -> None:
    cost = tokens.cost([], Agent(), GPT)
    assert dict(cost.stages) == dict.fromkeys(STAGES, 0)


def test_what_lacks_its_service_is_not_counted() -> None:
    def names(**configured: Any) -> set[str]:
        return {tool.name for tool in tokens.there(BUILT_IN.values(), Settings(_env_file=None, **configured))}

    assert {name for name in names() if BUILT_IN[name].needs} == set()
    database = names(supabase_url="http://db.test", supabase_secret_key="k")
    assert "book_appointment" in database
    assert "send_whatsapp_message" not in database
    everything = names(supabase_url="http://db.test", supabase_secret_key="k", whatsapp_from="+551130000000")
    assert everything == set(BUILT_IN)


# --- the command --------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give an agents file and a folder with a tool, one that is broken, and one that prints."""
    (tmp_path / "agents.toml").write_text(AGENTS, encoding="utf-8")
    tools = tmp_path / "tools"
    tools.mkdir()
    head = "from worker.tools.custom import tool\nprint('noise')\n@tool\n"
    (tools / "parking.py").write_text(head + "def parking():\n    'Say where to park.'\n", encoding="utf-8")
    (tools / "broken.py").write_text("\nimport nowhere_at_all\n", encoding="utf-8")
    return tmp_path


def run(folder: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run the command as an operator does."""
    env = {
        "PATH": os.environ["PATH"],
        "AGENTS_FILE": str(folder / "agents.toml"),
        "TOOLS_DIR": str(folder / "tools"),
        "SUPABASE_URL": "http://db.test",
        "SUPABASE_SECRET_KEY": "sb_secret_of_the_test",
    }
    program = [sys.executable, "-m", "worker.tools", *arguments]
    return subprocess.run(program, cwd=ROOT, env={**env, **changes}, capture_output=True, text=True, check=False)


def test_the_command_writes_each_agents_tools_and_stages_for_programs(folder: Path) -> None:
    ended = run(folder, "--json")
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert (found["model"], found["vocabulary"]) == ("gpt-4.1", "o200k_base")
    default, clinic = found["agents"]
    assert (default["name"], clinic["name"], clinic["begins_with"]) == ("default", "clinic", "critical")
    assert {tool["name"] for tool in clinic["tools"]} == {"get_current_time", "more_tools", "parking"}
    assert clinic["stages"]["critical"]["tools"] == ["get_current_time", "more_tools"]
    assert "book_appointment" in default["stages"]["essential"]["tools"]
    assert default["stages"]["full"]["tokens"] > default["stages"]["essential"]["tokens"] > 0
    assert found["left_out"] == ["broken.py:2: ModuleNotFoundError: No module named 'nowhere_at_all'"]


def test_strictness_and_a_wrong_name_end_the_command_with_a_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AGENTS_FILE", str(folder / "agents.toml"))
    monkeypatch.setattr("worker.tools.__main__.logs.configure", lambda _: None)  # this process has its own
    for arguments, strict, sentence in (
        (["--agent", "nobody"], "false", "--agent: there is no agent nobody, only default, clinic"),
        ([], "true", "broken.py:2: ModuleNotFoundError"),
    ):
        monkeypatch.setenv("TOOLS_STRICT", strict)
        monkeypatch.setenv("TOOLS_DIR", str(folder / "tools"))
        with pytest.raises(SystemExit) as left:
            command.main(arguments)
        said = capsys.readouterr()
        assert left.value.code == 2
        assert sentence in said.err
        assert said.out == ""


def test_people_read_names_stages_and_tokens_in_columns() -> None:
    found = command.report(Settings(_env_file=None), "gpt-99", "")
    written = "\n".join(command.lines(found))
    assert "gpt-99 (o200k_base, guessed: the model is not known)" in written
    assert "the vendor's own form of it differs slightly" in written
    assert "get_current_time  critical" in written
    assert f"{found['agents'][0]['stages']['full']['tokens']} tokens" in written
