"""The agents file: everything wrong is said at once, by agent and field; the example shows every field."""

import re
from pathlib import Path

import msgspec
import pytest

from shared.agents import Agent, McpServer
from shared.agents_file import MAX_FILE_BYTES, load_agents, sources
from shared.agents_rules import MAX_AGENT_BYTES
from shared.calls import CallSid, IncomingCall, TraceId
from shared.errors import SettingsError
from shared.framing import MAX_MESSAGE_BYTES, encode
from shared.messages import Bind
from shared.variables import problems

EXAMPLE = Path(__file__).resolve().parents[2] / "deploy" / "agents.example.toml"
ONE = '[agents.a]\nnumbers = ["+15550001111"]\n'


def written(folder: Path, content: str) -> Path:
    """Write an agents file."""
    path = folder / "agents.toml"
    path.write_text(content, encoding="utf-8")
    return path


def refused(folder: Path, content: str) -> list[str]:
    """Give the lines a file is refused with, without what all of them begin with."""
    path = written(folder, content)
    with pytest.raises(SettingsError) as error:
        load_agents(path)
    lines = str(error.value).splitlines()
    assert all(line.startswith(f"AGENTS_FILE: {path}: ") for line in lines)
    return [line.removeprefix(f"AGENTS_FILE: {path}: ") for line in lines]


def test_the_example_is_right_and_shows_every_field() -> None:
    agents = load_agents(EXAMPLE)
    assert [agent.language for agent in agents.all] == ["en", "pt-BR"]
    assert agents.serving("+551140000001").calendar == "clinica"
    assert agents.default.closed == ("2026-12-25", "2027-01-01")
    text = EXAMPLE.read_text(encoding="utf-8")
    for kind, count in ((Agent, 20), (McpServer, 7)):
        names = [field.name for field in msgspec.structs.fields(kind) if field.name != "name"]
        assert len(names) >= count - 1
        for name in (*names, "prompt_file"):
            assert re.search(rf"^{name} = |[: ]{name} = |^\[agents\.\w+\.{name}\]", text, re.MULTILINE), name


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ("[agents.default]\nvoise = 'v'", ["agent default: 'voise': there is no such field; voice?"]),
        ("[agents.default]\nname = 'x'", ["agent default: 'name': is what the table is called"]),
        ("[agents.default]\nstage = 'all'", ["agent default: stage: Invalid enum value 'all'"]),
        ("[agents.default]\nlanguage = 'english'", ["agent default: language: 'english' must be like en or pt-BR"]),
        ("[agents.default]\ntimezone = 'Mars/Base'", ["agent default: timezone: there is no time zone called 'Mars/Base'"]),
        ("[agents.default]\ntimezone = '../../etc'", ["agent default: timezone: there is no time zone called '../../etc'"]),
        ("[agents.default]\nslot_minutes = 4", ["agent default: slot_minutes: must be 5 to 480"]),
        ("[agents.default]\nslot_minutes = 481", ["agent default: slot_minutes: must be 5 to 480"]),
        ("[agents.default]\nprompt = ''", ["agent default: prompt: is empty"]),
        ("[agents.default]\ncalendar = ''",
         ["agent default: calendar: '' must be 1 to 64 letters, digits, spaces, _ . or -"]),
        ("[agents.default]\ntools = ['end call']", ["agent default: tools: 'end call' is no name of a tool"]),
        ("[agents.default]\nstt = 'whisper'",
         ["agent default: stt: 'whisper' is none of cartesia, openai, elevenlabs"]),
        ("[agents.default]\ntts = 'Cartesia'",
         ["agent default: tts: 'Cartesia' is none of cartesia, openai, elevenlabs"]),
        ("[agents.default]\nmodel = ' '", ["agent default: model: ' ' is no name of a model"]),
        ("[agents.default.turns]\nmin_word = 2",
         ["agent default: turns: 'min_word': there is no such field; min_words?"]),
        ("[agents.default.turns]\nmin_words = -1\nconfidence = nan\nstart = '0.2'\nstop = 6",
         ["agent default: turns: start: Expected `float`, got `str`", "agent default: turns: stop: must be 0.032 to 5",
          "agent default: turns: confidence: must be 0.05 to 0.95", "agent default: turns: min_words: must be 0 to 20",
          "agent default: turns: patience: must not be below turns.stop"]),
        ("[agents.default.turns]\nstop = 2.0\npatience = 1.0",
         ["agent default: turns: patience: must not be below turns.stop"]),
        ("[agents.default]\nmcp = ['stok']\n[mcp.stock]\ncommand = 'x'",
         ["agent default: mcp: there is no [mcp.'stok']; stock?"]),
        ("[agents.default]\nhours = {monday = ['09:00-10:00']}",
         ["agent default: hours: 'monday' is none of mon, tue, wed, thu, fri, sat, sun"]),
        ("[agents.default]\nhours = {mon = ['9-10']}",
         ["agent default: hours: mon: '9-10' must be written like 09:00-12:30"]),
        ("[agents.default]\nclosed = ['2026-02-31', '25.12.2026']",
         ["agent default: closed: '2026-02-31' is no date like 2026-12-25",
          "agent default: closed: '25.12.2026' is no date like 2026-12-25"]),
        ("[agents.default]\ntransfer_number = '555 1234'",
         ["agent default: transfer_number: '555 1234' must be like +15551234567"]),
        ("[agents.a]\nnumbers = ['sip:a@b']", ["agent a: numbers: 'sip:a@b' must be like +15551234567"]),
        ("[agents.a]", ["agent a: numbers: missing, so nobody could call it"]),
        (ONE + "overflow_number = '+15550001111'",
         ["agent a: overflow_number: +15550001111 is answered here: the caller would come back to the same line"]),
        (ONE + "transfer_number = '+15550001111'", ["agent a: transfer_number: +15550001111 is the agent's own"]),
        (ONE + "[mcp.x]\nargs = ['a']", ["mcp x: command: there must be one of command and url",
                                         "mcp x: args: has a meaning only with command"]),
        (ONE + "[mcp.x]\ncommand = 'a'\nurl = 'https://b'", ["mcp x: command: there must be one of command and url"]),
        (ONE + "[mcp.x]\nurl = 'ftp://b'", ["mcp x: url: must be an http(s) URL"]),
        (ONE + "[mcp.x]\nurl = 'https://['", ["mcp x: url: must be an http(s) URL"]),
        (ONE + "[mcp.x]\ncommand = 'a'\ntimeout_s = nan", ["mcp x: timeout_s: must be above 0 and at most 120"]),
        (ONE + "[mcp.'a b']\ncommand = 'a'", ["mcp 'a b': a name is of letters, digits, - and _"]),
        ("agents = 1", ["agent: must be tables [agents.<name>]"]),
        ("[agents]\na = 1", ["agent 'a': must be a table"]),
        ("[agents.'a\\nb']", ["agent 'a\\\\nb': a name is of letters, digits, - and _"]),
        ("[agent.default]", ["'agent': there is no such table; agents?"]),
        ("[agents.default]\ngreeting = 'Hi {{name}}'",
         ["agent default: greeting: line 1: {{name}} is unknown: there are agent, called, caller, customer, facts, next"]),
        ("[agents.default]\nprompt = '''\nHello.\n{{customer.name'''",
         ["agent default: prompt: line 2: a {{ has no }} in the same line"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_by_agent_and_field(tmp_path: Path, content: str, lines: list[str]) -> None:
    assert refused(tmp_path, content) == lines


def test_everything_wrong_is_said_at_once(tmp_path: Path) -> None:
    content = """
        other = 1
        [agents.a]
        numbers = ["+15550001111", "555"]
        language = 5
        timezone = "Nowhere"
        [agents.b]
        numbers = ["+15550001111"]
        prompt_file = "absent.md"
        [mcp.x]
        """
    said = refused(tmp_path, content)
    assert len(said) == len(set(said)) == 7
    for words in (
        "'other'",
        "b: numbers",
        "'555'",
        "language",
        "'Nowhere'",
        "prompt_file: 'absent.md': No such file",
        "mcp x",
    ):
        assert any(words in line for line in said), (words, said)


def test_a_prompt_may_stand_in_a_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    prompt = tmp_path / "prompts" / "a.md"
    prompt.write_text("\ufeffBe brief, {{customer.name|dear caller}}.\n", encoding="utf-8")
    path = written(tmp_path, ONE + 'prompt_file = "prompts/a.md"')
    assert load_agents(path).serving("+15550001111").prompt == "Be brief, {{customer.name|dear caller}}."
    assert sources(path) == [path, prompt]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe", "is not UTF-8 at byte 0"),
        (b"x" * (MAX_FILE_BYTES + 1), "is larger than"),
        (b"{{x.y}}", "line 1: {{x.y}} is unknown"),
        (b"  \n", "prompt: is empty"),
    ],
)
def test_a_prompt_file_is_checked_as_the_prompt_is(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.md").write_bytes(content)
    said = refused(tmp_path, ONE + 'prompt_file = "a.md"')
    assert any(words in line for line in said), said


def test_a_prompt_and_its_file_are_one_too_many(tmp_path: Path) -> None:
    said = refused(tmp_path, ONE + 'prompt = "x"\nprompt_file = "a.md"')
    assert said == ["agent a: prompt_file: there is a prompt as well; keep one of them"]


def test_who_needs_no_prompt_reads_none(tmp_path: Path) -> None:
    path = written(tmp_path, ONE + 'overflow_number = "+15550009999"\nprompt_file = "not-here.md"')
    assert load_agents(path, prompts=False).serving("+15550001111").overflow_number == "+15550009999"


def test_an_agent_that_fits_no_message_is_refused(tmp_path: Path) -> None:
    """The limit leaves room for the call beside it, also when every character needs two bytes."""
    said = refused(tmp_path, ONE + f'prompt = "{"x" * MAX_AGENT_BYTES}"')
    assert "fit into a message" in said[0]
    largest = "ã" * ((MAX_AGENT_BYTES - 1_000) // 2)
    agent = load_agents(written(tmp_path, ONE + f'prompt = "{largest}"')).serving("+15550001111")
    call = IncomingCall(
        call_sid=CallSid("CA1"), caller="+15550002222", called="+15550001111", trace_id=TraceId("0" * 32)
    )
    bind = Bind(call=call, agent=agent, accepted_at=1.0, reserved_at=1.0)
    assert len(encode(bind)) < MAX_MESSAGE_BYTES


def test_the_sources_of_a_broken_file_are_the_file_itself(tmp_path: Path) -> None:
    path = written(tmp_path, "[agents")
    assert sources(path) == [path]
    assert sources(tmp_path / "absent.toml") == [tmp_path / "absent.toml"]


def test_the_built_in_prompt_has_no_broken_variable() -> None:
    assert problems(Agent().prompt) == []
