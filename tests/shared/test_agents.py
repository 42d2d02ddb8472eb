"""Agent profiles: which number gets which agent, and how a wrong file is refused."""

from pathlib import Path

import pytest

from shared.agents import DEFAULT_AGENT, Agent
from shared.agents_file import load_agents
from shared.errors import SettingsError


def written(folder: Path, content: str) -> Path:
    """Write an agents file."""
    path = folder / "agents.toml"
    path.write_text(content, encoding="utf-8")
    return path


def test_without_a_file_the_default_agent_takes_every_number() -> None:
    agents = load_agents(None)
    assert agents.serving("+15550001111") == Agent()
    assert agents.serving("") == agents.default


def test_the_default_agent_has_every_tool_it_has_a_use_for() -> None:
    from worker.tools.builtin import BUILT_IN
    from worker.tools.registry import visible

    seen = {tool.name for tool in visible(BUILT_IN.values(), Agent(), Agent().stage)}
    assert BUILT_IN.keys() - seen == {"transfer_call", "more_tools"}  # nobody to transfer to, and nothing more to see


def test_a_number_gets_its_agent_and_any_other_the_default(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        [agents.default]
        prompt = "Be brief."
        [agents.clinic]
        prompt = "Seja breve."
        language = "pt-BR"
        voice = "v1"
        greeting = "Olá."
        greeting_clip = "greeting-pt"
        tools = ["end_call"]
        timezone = "America/Sao_Paulo"
        numbers = ["+551140000000", "+551140000001"]
        """,
    )
    agents = load_agents(path)
    clinic = agents.serving("+551140000001")
    assert (clinic.name, clinic.language, clinic.timezone, clinic.tools) == (
        "clinic", "pt-BR", "America/Sao_Paulo", ("end_call",),
    )  # fmt: skip
    assert agents.serving("+15550001111").prompt == "Be brief."
    assert agents.default.name == DEFAULT_AGENT


def test_the_default_may_be_left_out(tmp_path: Path) -> None:
    agents = load_agents(written(tmp_path, '[agents.a]\nnumbers = ["+15550001111"]\n'))
    assert agents.default == Agent()
    assert agents.serving("+15550001111").name == "a"


def test_the_default_agent_may_also_own_numbers(tmp_path: Path) -> None:
    agents = load_agents(written(tmp_path, '[agents.default]\nnumbers = ["+15550001111"]\n'))
    assert agents.serving("+15550001111") == agents.default


def test_a_profile_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Agent().language = "pt"  # type: ignore[misc] # that is what the test is about


@pytest.mark.parametrize(
    "content",
    [
        "agents = ",
        "agents = 1",
        "",
        "[agent.default]",
        "[agents.default]\nvoise = 'v'",
        "[agents.default]\nlanguage = 1",
        "[agents.default]\ntools = 'end_call'",
        "[agents.a]\nnumbers = ['+15550001111']\n[agents.b]\nnumbers = ['+15550001111']",
        "[agents.default]\nprompt = 'a\nb'",
    ],
)
def test_a_wrong_file_is_one_line_that_names_the_setting_and_the_file(tmp_path: Path, content: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(SettingsError) as refused:
        load_agents(path)
    assert str(refused.value).startswith(f"AGENTS_FILE: {path}: ")
    assert len(str(refused.value).splitlines()) == 1


def test_a_number_of_two_agents_names_both(tmp_path: Path) -> None:
    path = written(tmp_path, '[agents.a]\nnumbers = ["+15550001111"]\n[agents.b]\nnumbers = ["+15550001111"]\n')
    with pytest.raises(SettingsError, match=r"\+15550001111 belongs to both a and b"):
        load_agents(path)


def test_a_file_that_cannot_be_read_is_refused_in_the_same_way(tmp_path: Path) -> None:
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "absent.toml", tmp_path, binary):
        with pytest.raises(SettingsError, match=r"^AGENTS_FILE: "):
            load_agents(path)
