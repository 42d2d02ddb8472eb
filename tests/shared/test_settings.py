"""Settings: what is wrong is said by name, one line each, and no secret is ever said."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import ValidationError

from shared import logs
from shared.errors import ClipError, SettingsError
from shared.letters import TWILIO_TIMEOUT_S
from shared.processes import NOTHING, WITHHELD, Process
from shared.settings import ASSETS, Settings, load, refuse
from shared.settings import environment as environment_of

ROUTER = {"PUBLIC_BASE_URL": "https://voice.example.com", "TWILIO_AUTH_TOKEN": "twilio-secret"}
POOL = {"OPENAI_API_KEY": "openai-secret", "CARTESIA_API_KEY": "cartesia-secret", "CARTESIA_VOICE_ID": "voice"}
SECRETS = [name.upper() for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the machine the tests run on: no variables, no `.env`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logs, "_secrets", set())
    for name in Settings.model_fields:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> "Environment":
    return Environment(monkeypatch)


class Environment:
    """The environment of a process to be."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def problems(self, process: Process, variables: Mapping[str, str]) -> list[str]:
        """Give the lines with which these variables are refused; none when they are taken."""
        self.set(variables)
        try:
            load(process)
        except SettingsError as error:
            return str(error).splitlines()
        return []

    def set(self, variables: Mapping[str, str]) -> None:
        """Set variables."""
        for name, value in variables.items():
            self._monkeypatch.setenv(name, value)


def test_with_nothing_set_every_default_holds() -> None:
    settings = load(Process.PREFETCHER)
    for name, field in Settings.model_fields.items():
        assert getattr(settings, name) == field.default, name
    assert settings.assets_dir == ASSETS
    assert settings.assets_dir.is_dir()


def test_the_stable_defaults_are_those_of_the_design() -> None:
    settings = load(Process.PREFETCHER)
    assert (settings.router_port, settings.pool_metrics_port, settings.prefetch_metrics_port) == (8080, 9100, 9101)
    assert (settings.pool_ready, settings.prefetch_workers) == (4, 4)
    assert (settings.ticket_ttl, settings.prefetch_timeout, settings.drain_timeout) == (30.0, 2.0, 3600.0)
    assert (settings.start_timeout, settings.silence_timeout) == (5.0, 10.0)
    assert (settings.hold_max, settings.overflow_number) == (60.0, "")
    assert settings.twilio_validate_signatures


def test_a_router_and_a_pool_start_with_what_they_need(environment: Environment) -> None:
    assert environment.problems(Process.ROUTER, ROUTER) == []
    assert environment.problems(Process.POOL, POOL) == []


@pytest.mark.parametrize(
    ("process", "complete", "left_out"),
    [(Process.ROUTER, ROUTER, name) for name in ROUTER] + [(Process.POOL, POOL, name) for name in POOL],
)
def test_what_is_missing_is_named(
    environment: Environment, process: Process, complete: dict[str, str], left_out: str
) -> None:
    rest = {name: value for name, value in complete.items() if name != left_out}
    assert environment.problems(process, rest) == [f"{left_out}: missing"]


def test_everything_missing_is_said_at_once(environment: Environment) -> None:
    assert environment.problems(Process.ROUTER, {}) == ["PUBLIC_BASE_URL: missing", "TWILIO_AUTH_TOKEN: missing"]
    assert environment.problems(Process.POOL, {}) == [f"{name}: missing" for name in POOL]


def test_an_empty_value_is_no_value(environment: Environment) -> None:
    assert environment.problems(Process.POOL, {**POOL, "POOL_READY": "", "CARTESIA_VOICE_ID": ""}) == [
        "CARTESIA_VOICE_ID: missing"
    ]
    assert environment.problems(Process.POOL, {**POOL, "CARTESIA_VOICE_ID": "   "}) == ["CARTESIA_VOICE_ID: missing"]


def test_a_secret_of_blanks_is_none_and_the_blanks_around_one_are_not_its_own(environment: Environment) -> None:
    assert environment.problems(Process.ROUTER, {**ROUTER, "TWILIO_AUTH_TOKEN": " \n"}) == [
        "TWILIO_AUTH_TOKEN: missing"
    ]
    assert environment.problems(Process.ROUTER, {**ROUTER, "TWILIO_AUTH_TOKEN": " twilio-secret\n"}) == []
    assert load(Process.ROUTER).twilio_auth_token.get_secret_value() == "twilio-secret"


def test_only_the_prefetchers_need_what_a_message_is_sent_with(environment: Environment) -> None:
    sender = {"WHATSAPP_FROM": "+15550009999"}
    assert environment.problems(Process.PREFETCHER, sender) == [
        "PUBLIC_BASE_URL: missing", "TWILIO_ACCOUNT_SID: missing", "TWILIO_AUTH_TOKEN: missing",
    ]  # fmt: skip
    assert environment.problems(Process.POOL, POOL) == []
    assert environment.problems(Process.TOOL_HOST, {}) == []
    assert environment.problems(Process.PREFETCHER, {**ROUTER, "TWILIO_ACCOUNT_SID": "AC" + "0" * 32}) == []
    assert load(Process.PREFETCHER).longest_step == TWILIO_TIMEOUT_S


def test_a_ticket_key_does_not_replace_the_token_that_checks_signatures(environment: Environment) -> None:
    variables = {"PUBLIC_BASE_URL": "https://voice.example.com", "TICKET_KEY": "key"}
    assert environment.problems(Process.ROUTER, variables) == ["TWILIO_AUTH_TOKEN: missing"]


WRONG = {
    "PUBLIC_BASE_URL": [
        "voice.example.com", "ftp://voice.example.com", "http://voice.example.com", "https://", "https://a.example/path",
        "https://a.example?x=1", "https://a.example/#x", "https://user@a.example",
        "https://a.example:65536", "https://a.example:https", "https://a.example https://b.example",
    ],
    "REDIS_URL": ["127.0.0.1:6379", "http://127.0.0.1", "redis://127.0.0.1:70000/0"],
    "LOG_LEVEL": ["LOUD", "10"],
    "TWILIO_API_BASE_URL": ["api.twilio.com", "wss://api.twilio.com"],
    "TWILIO_VALIDATE_SIGNATURES": ["perhaps"],
    "TICKET_TTL": ["0", "-1", "soon", "nan"],
    "OPENAI_BASE_URL": ["api.openai.com", "ws://api.openai.com", "https://", "https://api.openai.com:port"],
    "CARTESIA_TTS_URL": ["https://api.cartesia.ai/tts/websocket", "wss://", "api.cartesia.ai"],
    "CARTESIA_STT_URL": ["https://api.cartesia.ai", "api.cartesia.ai"],
    "STT_PROVIDER": ["whisper"],
    "TTS_PROVIDER": ["espeak"],
    "ELEVENLABS_URL": ["api.elevenlabs.io", "wss://api.elevenlabs.io"],
    "CARTESIA_TTS_BUFFER_MS": ["-1", "5001", "soon"],
    "OPENAI_PROMPT_CACHE": ["sometimes"],
    "OPENAI_CACHE_WARMUP": ["perhaps"],
    "EAGER_TOOL_LOADING": ["maybe"],
    "TTS_MAX_CONNECTIONS": ["-1", "many"],
    "STT_MAX_CONNECTIONS": ["-1"],
    "SUPABASE_URL": ["db.example.com"],
    "PREFETCH_TIMEOUT": ["0", "inf or so"],
    "PREFETCH_WORKERS": ["0", "257", "2.5"],
    "PREFETCH_METRICS_PORT": ["65536", "-1"],
    "POOL_ID": ["two words", "../p1", "x" * 65],
    "POOL_READY": ["0", "1025"],
    "POOL_MAX": ["-1", "3"],
    "RECYCLE_AFTER": ["0"],
    "DRAIN_TIMEOUT": ["-1"],
    "MAX_CALL_DURATION": ["0"],
    "START_TIMEOUT": ["0"],
    "SILENCE_TIMEOUT": ["-5"],
    "CALLER_SILENCE_TIMEOUT": ["-1", "nan", "never"],
    "WORKER_MEMORY_SOFT_MB": ["-1"],
    "WORKER_MEMORY_HARD_MB": ["-1", "511"],
    "POOL_METRICS_PORT": ["http"],
    "ROUTER_PORT": ["80800"],
    "HOLD_MAX": ["-1", "a while"],
    "OVERFLOW_NUMBER": ["15005550006", "+0123456789", "+1500", "sip:desk@example.com"],
    "GREETING_AUDIO_ENABLED": ["maybe"],
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_value_is_one_line_that_begins_with_its_name(environment: Environment, name: str, value: str) -> None:
    lines = environment.problems(Process.PREFETCHER, {name: value})
    assert len(lines) == 1
    assert lines[0].startswith(f"{name}: ")


def test_several_problems_are_several_lines(environment: Environment) -> None:
    wrong = {"REDIS_URL": "nowhere", "POOL_READY": "none", "ROUTER_PORT": "-1", "LOG_LEVEL": "LOUD"}
    lines = environment.problems(Process.PREFETCHER, wrong)
    assert sorted(line.partition(":")[0] for line in lines) == sorted(wrong)


@pytest.mark.parametrize("name", ["EAGER_TOOL_LOADING", "DIRECT_GREETING_INJECTION", "PARALLEL_CONTEXT_PREFETCH"])
def test_a_phase_is_on_unless_its_switch_is_false(environment: Environment, name: str) -> None:
    environment.set(POOL)
    assert getattr(load(Process.POOL), name.lower()) is True
    environment.set({name: "false"})
    assert getattr(load(Process.POOL), name.lower()) is False
    assert [line.partition(":")[0] for line in environment.problems(Process.POOL, {name: "perhaps"})] == [name]


@pytest.mark.parametrize("host", ["http://127.0.0.1:8080", "http://localhost", "https://[::1]:8443"])
def test_signatures_may_be_off_behind_a_loopback_address(environment: Environment, host: str) -> None:
    variables = {"PUBLIC_BASE_URL": host, "TICKET_KEY": "key", "TWILIO_VALIDATE_SIGNATURES": "false"}
    assert environment.problems(Process.ROUTER, variables) == []


@pytest.mark.parametrize("host", ["", "https://voice.example.com", "https://127.0.0.1.example.com", "https://10.0.0.1"])
def test_signatures_may_not_be_off_anywhere_else(environment: Environment, host: str) -> None:
    variables = {**ROUTER, "PUBLIC_BASE_URL": host, "TWILIO_VALIDATE_SIGNATURES": "false"}
    assert environment.problems(Process.ROUTER, variables) == [
        "TWILIO_VALIDATE_SIGNATURES: false is only for a loopback PUBLIC_BASE_URL"
    ]


def test_supabase_needs_its_key(environment: Environment) -> None:
    variables = {"SUPABASE_URL": "https://db.example.com"}
    assert environment.problems(Process.PREFETCHER, variables) == ["SUPABASE_SECRET_KEY: missing beside SUPABASE_URL"]
    assert environment.problems(Process.PREFETCHER, {**variables, "SUPABASE_SECRET_KEY": "x"}) == []


def test_the_number_of_workers_is_bounded_by_the_pool_and_by_the_voice_plan() -> None:
    assert load(Process.PREFETCHER, pool_ready=3).max_workers == 30
    assert load(Process.PREFETCHER, pool_ready=3, pool_max=5).max_workers == 5
    assert load(Process.PREFETCHER, pool_ready=3, tts_max_connections=20).max_workers == 20
    assert load(Process.PREFETCHER, pool_ready=3, pool_max=5, tts_max_connections=20).max_workers == 5


def test_the_ticket_secret_is_the_ticket_key_and_else_the_twilio_token() -> None:
    assert load(Process.PREFETCHER, ticket_key="a", twilio_auth_token="b").ticket_secret == "a"
    assert load(Process.PREFETCHER, twilio_auth_token="b").ticket_secret == "b"
    assert load(Process.PREFETCHER).ticket_secret == ""


def test_urls_are_taken_without_the_slash_at_their_end_and_words_without_blanks(environment: Environment) -> None:
    environment.set(
        {"PUBLIC_BASE_URL": " https://voice.example.com/ ", "LOG_LEVEL": "debug", "OPENAI_BASE_URL": "http://a/v1/"}
    )
    settings = load(Process.PREFETCHER)
    assert settings.public_base_url == "https://voice.example.com"
    assert settings.openai_base_url == "http://a/v1"
    assert settings.log_level == "DEBUG"


def test_the_env_file_is_read_and_the_environment_wins_over_it(environment: Environment, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("POOL_READY=7\nROUTER_PORT=9000\nSOMETHING_ELSE=1\n", encoding="utf-8")
    environment.set({"ROUTER_PORT": "9001"})
    settings = load(Process.PREFETCHER)
    assert (settings.pool_ready, settings.router_port) == (7, 9001)


def test_settings_cannot_be_changed_after_they_were_read() -> None:
    with pytest.raises(ValidationError):
        load(Process.PREFETCHER).pool_ready = 9  # type: ignore[misc] # that is what the test is about


def test_secrets_are_those_that_name_themselves_so() -> None:
    assert set(SECRETS) == {
        name.upper() for name in Settings.model_fields if name.endswith(("_key", "_token", "_secret", "_headers"))
    }


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_in_no_repr_and_in_no_complaint(environment: Environment, name: str) -> None:
    environment.set({name: "sesame-4711"})
    settings = load(Process.PREFETCHER)
    assert getattr(settings, name.lower()).get_secret_value() == "sesame-4711"
    assert "sesame-4711" not in f"{settings!r} {settings} {settings.model_dump_json()}"
    lines = environment.problems(Process.POOL, {"POOL_READY": "sesame-4711", "REDIS_URL": "redis-sesame-4711"})
    assert lines
    assert "sesame-4711" not in " ".join(lines)


@pytest.mark.parametrize(
    "variables",
    [*({name: "sesame-4711"} for name in SECRETS), {"REDIS_URL": "redis://:sesame-4711@127.0.0.1/0"},
     {"REDIS_URL": "unix:///run/redis.sock?password=sesame-4711"}],
    ids=str,
)  # fmt: skip
def test_what_was_loaded_is_hidden_in_everything_that_is_logged(
    environment: Environment, variables: dict[str, str]
) -> None:
    environment.set(variables)
    load(Process.PREFETCHER)
    assert logs.mask("401: wrong key 'sesame-4711'") == "401: wrong key '[secret]'"


def test_a_refusal_is_one_line_per_problem_on_stderr_and_exit_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        refuse(ClipError("greeting: missing\nhold: not mu-law"))
    assert left.value.code == 2
    output = capsys.readouterr()
    assert output.err.splitlines() == ["offhook: greeting: missing", "offhook: hold: not mu-law"]
    assert output.out == ""


def test_a_child_that_is_refused_does_not_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parent is what is started again, and waits for it."""
    monkeypatch.setenv("RESTART_PAUSE", "3600")
    with pytest.raises(SystemExit) as left:
        refuse(ClipError("greeting: missing"))
    assert left.value.code == 2


@pytest.mark.parametrize("process", WITHHELD, ids=str)
def test_a_child_is_not_told_what_it_must_not_know(environment: Environment, process: Process) -> None:
    environment.set(POOL | {name: f"sesame-{name}" for name in SECRETS} | {"supabase_secret_key": "sesame in small"})
    given = environment_of(process)
    assert not [name for name in given if name.lower() in WITHHELD[process]]
    assert {name for name in SECRETS if name.lower() not in WITHHELD[process]} <= given.keys()
    assert given["CARTESIA_VOICE_ID"] == "voice"


@pytest.mark.parametrize("process", WITHHELD, ids=str)
def test_nor_does_it_read_that_from_the_file(process: Process, tmp_path: Path) -> None:
    variables = POOL | {"SUPABASE_URL": "https://db.example.com"} | {name: f"sesame-{name}" for name in SECRETS}
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    settings = load(process)
    read = {name: getattr(settings, name.lower()).get_secret_value() for name in SECRETS}
    assert {name: value for name, value in read.items() if name.lower() in WITHHELD[process]} == {
        name.upper(): NOTHING for name in WITHHELD[process]
    }
    assert logs.mask(NOTHING) == NOTHING, "an innocent word"


def test_a_zygote_needs_what_a_pool_needs_and_a_tool_host_nothing(environment: Environment) -> None:
    assert environment.problems(Process.TOOL_HOST, {}) == []
    assert environment.problems(Process.ZYGOTE, {}) == [f"{name}: missing" for name in POOL]
    assert environment.problems(Process.ZYGOTE, {**POOL, "SUPABASE_URL": "https://db.example.com"}) == []


@pytest.mark.parametrize(
    ("ear", "voice", "missing"),
    [
        ("elevenlabs", "cartesia", ["ELEVENLABS_API_KEY", "CARTESIA_API_KEY", "CARTESIA_VOICE_ID"]),
        ("openai", "elevenlabs", ["ELEVENLABS_API_KEY", "ELEVENLABS_VOICE_ID"]),
        ("openai", "openai", []),
    ],
)
def test_a_pool_needs_the_keys_of_the_providers_that_were_chosen(
    environment: Environment, ear: str, voice: str, missing: list[str]
) -> None:
    chosen = {"OPENAI_API_KEY": "openai-secret", "STT_PROVIDER": ear, "TTS_PROVIDER": voice}
    assert environment.problems(Process.POOL, chosen) == [f"{name}: missing" for name in missing]
