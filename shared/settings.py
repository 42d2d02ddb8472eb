"""The only reader of the environment: settings, named as their vendors write them.

Loaded once in each `__main__` and passed down. A wrong setting is reported by name, one line per problem, before
anything listens. `deploy/env.example` documents each of these and is tested against this module.
"""

import base64
import binascii
import ipaddress
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, Self, cast
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, DotEnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from shared import logs, settings_files
from shared.errors import OffhookError, SettingsError
from shared.letters import TWILIO_TIMEOUT_S
from shared.processes import (
    FOR_MESSAGES,
    FOR_SPEECH,
    FOR_VOICES,
    NOTHING,
    REQUIRED,
    SPEECH_PROVIDERS,
    WITHHELD,
    Process,
)

ASSETS: Final = Path(__file__).resolve().parent.parent / "audio_assets"

MOST_PAUSE_S: Final = 3600.0

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0)]
_stripped = BeforeValidator(lambda value: value.strip() if isinstance(value, str) else value)
Text = Annotated[str, _stripped]
Secret = Annotated[SecretStr, _stripped]
"""Stripped too: a file's last newline is in no key, and a key of blanks is one that anybody can guess."""


class Settings(BaseSettings):
    """Everything an operator can set. Field names are the environment's names in lower case; defaults are production's."""

    model_config = SettingsConfigDict(
        env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    public_base_url: Text = ""
    redis_url: Text = "redis://127.0.0.1:6379/0"
    log_level: Text = "INFO"
    settings_file: Path | None = None
    restart_pause: Annotated[float, Field(ge=0, le=MOST_PAUSE_S)] = 0.0
    otel_exporter_otlp_endpoint: Text = ""
    otel_exporter_otlp_headers: Secret = SecretStr("")

    twilio_account_sid: Text = ""
    twilio_auth_token: Secret = SecretStr("")
    twilio_api_base_url: Text = "https://api.twilio.com"
    twilio_validate_signatures: bool = True
    ticket_key: Secret = SecretStr("")
    ticket_ttl: Seconds = 30.0
    console_token: Secret = SecretStr("")

    openai_api_key: Secret = SecretStr("")
    openai_base_url: Text = "https://api.openai.com/v1"
    openai_model: Text = "gpt-4.1"
    openai_prompt_cache: Text = Field(default="auto", pattern=r"^(auto|always|never)$")
    openai_cache_warmup: bool = False
    cartesia_api_key: Secret = SecretStr("")
    cartesia_tts_url: Text = "wss://api.cartesia.ai/tts/websocket"
    cartesia_stt_url: Text = "wss://api.cartesia.ai"
    cartesia_voice_id: Text = ""
    cartesia_tts_model: Text = "sonic-3.5"
    cartesia_tts_buffer_ms: int = Field(default=100, ge=0, le=5000)
    cartesia_stt_model: Text = "ink-whisper"
    cartesia_stt_language: Text = ""
    stt_provider: Text = "cartesia"
    tts_provider: Text = "cartesia"
    elevenlabs_api_key: Secret = SecretStr("")
    elevenlabs_url: Text = "https://api.elevenlabs.io"
    elevenlabs_voice_id: Text = ""
    elevenlabs_tts_model: Text = "eleven_flash_v2_5"
    elevenlabs_stt_model: Text = "scribe_v2_realtime"
    openai_stt_model: Text = "gpt-live-transcribe"
    openai_tts_model: Text = "gpt-4o-mini-tts"
    openai_tts_voice: Text = "coral"
    tts_max_connections: int = Field(default=0, ge=0)
    stt_max_connections: int = Field(default=0, ge=0)

    supabase_url: Text = ""
    supabase_secret_key: Secret = SecretStr("")
    prefetch_timeout: Seconds = 2.0
    prefetch_workers: int = Field(default=4, ge=1, le=256)
    prefetch_metrics_port: Port = 9101

    agents_file: Path | None = None
    tools_dir: Path | None = None
    tools_strict: bool = False
    mcp_token: Secret = SecretStr("")
    whatsapp_from: Text = Field(default="", pattern=r"^(\+[1-9][0-9]{6,14})?$")
    whatsapp_template_sid: Text = Field(default="", pattern=r"^(HX[0-9a-fA-F]{32})?$")

    call_records: bool = True
    records_webhook_url: Text = ""
    records_webhook_secret: Secret = SecretStr("")
    recording_enabled: bool = False
    recording_clip: Text = "consent"
    recordings_dir: Path = Path("/var/lib/offhook/recordings")
    recording_retention_days: int = Field(default=30, ge=1)

    assets_dir: Path = ASSETS
    greeting_audio_enabled: bool = True
    greeting_audio_clip: Text = "greeting"
    eager_tool_loading: bool = True
    direct_greeting_injection: bool = True
    parallel_context_prefetch: bool = True

    pool_id: Text = Field(default="", pattern=r"^[A-Za-z0-9_-]{0,64}$")
    pool_ready: int = Field(default=4, ge=1, le=1024)
    pool_max: int = Field(default=0, ge=0, le=4096)
    recycle_after: Seconds = 240.0
    drain_timeout: Annotated[float, Field(ge=0)] = 3600.0
    max_call_duration: Seconds = 3600.0
    start_timeout: Seconds = 5.0
    silence_timeout: Seconds = 10.0
    caller_silence_timeout: Annotated[float, Field(ge=0)] = 20.0
    worker_memory_soft_mb: int = Field(default=512, ge=0)
    worker_memory_hard_mb: int = Field(default=1024, ge=0)
    journal_in_redis: bool = True
    pool_metrics_host: Text = "0.0.0.0"
    pool_metrics_port: Port = 9100
    handoff_dir: Path = Path("/run/offhook")
    hold_max: Annotated[float, Field(ge=0)] = 60.0
    overflow_number: Text = Field(default="", pattern=r"^(\+[1-9][0-9]{6,14})?$")

    router_host: Text = "0.0.0.0"
    router_port: Port = 8080
    router_metrics_port: Port | None = None
    router_health_socket: Path | None = None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Say what wins: what was passed, the environment, `.env`, and last the file of defaults; secrets also in files."""
        del file_secret_settings
        own = {**_variables(dotenv_settings), **_variables(env_settings)}
        last = [settings_files.defaults(settings_cls, path)] if (path := own.get("settings_file")) else []
        fallback = _variables(last[0]) if last else {}
        files = settings_files.SecretFiles(settings_cls, own, fallback, frozenset(init_settings()))
        return (init_settings, files, env_settings, dotenv_settings, *last)

    @field_validator("public_base_url")
    @classmethod
    def _public_base_url(cls, value: str) -> str:
        if not value:
            return value
        parts = _split(value)
        if parts.scheme not in {"https", "http"} or not parts.hostname or len(value.split()) > 1:
            raise ValueError("must be an absolute URL such as https://voice.example.com")
        if parts.path.rstrip("/") or parts.query or parts.fragment or parts.username:
            raise ValueError("must be scheme and host only, without path, query or user")
        if parts.scheme == "http" and not _is_loopback(parts.hostname):
            raise ValueError("must be https (http only with a loopback host)")
        return value.rstrip("/")

    @field_validator("stt_provider", "tts_provider")
    @classmethod
    def _provider(cls, value: str) -> str:
        if value not in SPEECH_PROVIDERS:
            raise ValueError(f"must be one of {', '.join(SPEECH_PROVIDERS)}")
        return value

    @field_validator(
        "supabase_url", "openai_base_url", "elevenlabs_url", "twilio_api_base_url", "records_webhook_url",
        "otel_exporter_otlp_endpoint",
    )  # fmt: skip
    @classmethod
    def _http_url(cls, value: str) -> str:
        if value and (_split(value).scheme not in {"http", "https"} or not _split(value).hostname):
            raise ValueError("must be an http(s) URL")
        return value.rstrip("/")

    @field_validator("cartesia_tts_url", "cartesia_stt_url")
    @classmethod
    def _ws_url(cls, value: str) -> str:
        if _split(value).scheme not in {"ws", "wss"} or not _split(value).hostname:
            raise ValueError("must be a ws(s) URL")
        return value.rstrip("/")

    @field_validator("redis_url")
    @classmethod
    def _redis_url(cls, value: str) -> str:
        if _split(value).scheme not in {"redis", "rediss", "unix"}:
            raise ValueError("must begin with redis://, rediss:// or unix://")
        return value

    @field_validator("log_level")
    @classmethod
    def _log_level(cls, value: str) -> str:
        if value.upper() not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            raise ValueError("must be DEBUG, INFO, WARNING or ERROR")
        return value.upper()

    @model_validator(mode="after")
    def _together(self) -> Self:
        problems: list[str] = []
        if not self.twilio_validate_signatures and not _is_loopback(urlsplit(self.public_base_url).hostname or ""):
            problems.append("TWILIO_VALIDATE_SIGNATURES: false is only for a loopback PUBLIC_BASE_URL")
        if not self.twilio_validate_signatures and not _is_loopback(self.router_address):
            problems.append("ROUTER_HOST: must be a loopback address while TWILIO_VALIDATE_SIGNATURES is false")
        if self.supabase_url and not self.supabase_secret_key.get_secret_value():
            problems.append("SUPABASE_SECRET_KEY: missing beside SUPABASE_URL")
        if self.records_webhook_url and not self.records_webhook_secret.get_secret_value():
            problems.append("RECORDS_WEBHOOK_SECRET: missing beside RECORDS_WEBHOOK_URL")
        elif self.records_webhook_url and not _signs(self.records_webhook_secret.get_secret_value()):
            problems.append("RECORDS_WEBHOOK_SECRET: must be whsec_ and the base64 of 24 to 64 random bytes")
        if self.recording_enabled and not self.keeps_records:
            problems.append("RECORDING_ENABLED: needs CALL_RECORDS, and SUPABASE_URL or RECORDS_WEBHOOK_URL")
        if self.pool_max and self.pool_max < self.pool_ready:
            problems.append("POOL_MAX: must not be below POOL_READY")
        if self.worker_memory_hard_mb and self.worker_memory_hard_mb < self.worker_memory_soft_mb:
            problems.append("WORKER_MEMORY_HARD_MB: must not be below WORKER_MEMORY_SOFT_MB")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def longest_step(self) -> float:
        """The longest a job of the prefetchers waits for somebody, seconds: Supabase, or Twilio where messages are sent."""
        return max(self.prefetch_timeout, TWILIO_TIMEOUT_S if self.whatsapp_from else 0.0)

    @property
    def max_workers(self) -> int:
        """The most live workers in any state: `POOL_MAX` (by default ten times `POOL_READY`), within the voice plan's sockets."""
        most = self.pool_max or 10 * self.pool_ready
        return min(most, self.tts_max_connections) if self.tts_max_connections else most

    @property
    def keeps_records(self) -> bool:
        """Whether anything is kept of calls: `CALL_RECORDS`, and somebody who takes it."""
        return self.call_records and bool(self.supabase_url or self.records_webhook_url)

    @property
    def router_address(self) -> str:
        """Where the router listens: `ROUTER_HOST`; when that is not set and nobody's signature is checked, loopback only."""
        everywhere = "router_host" not in self.model_fields_set
        return "127.0.0.1" if everywhere and not self.twilio_validate_signatures else self.router_host

    @property
    def ticket_secret(self) -> str:
        """What the ticket key is derived from: `TICKET_KEY`, else the Twilio token."""
        return self.ticket_key.get_secret_value() or self.twilio_auth_token.get_secret_value()


def _split(value: str) -> SplitResult:
    """Take a URL apart; whoever connects there would stumble over a port that is none."""
    parts = urlsplit(value)
    try:
        _ = parts.port
    except ValueError:
        raise ValueError("its port must be a number up to 65535") from None
    return parts


def _variables(source: PydanticBaseSettingsSource) -> Mapping[str, str | None]:
    """Give the variables a source has read, also those that are no setting, by lower-case name."""
    return cast("DotEnvSettingsSource", source).env_vars


def _signs(secret: str) -> bool:
    """Say whether a secret is one to sign webhooks with. Source: Standard Webhooks specification, "Signature scheme"."""
    try:
        return secret == NOTHING or 24 <= len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) <= 64  # noqa: PLR2004 - its bytes
    except binascii.Error:
        return False


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load(process: Process, **overrides: Any) -> Settings:
    """Read the settings for one kind of process from the environment, `.env` and overrides (by field name).

    The secrets among them are hidden in everything this process logs from then on.

    Raises:
        SettingsError: one line per problem, each beginning with the setting's name; values are not repeated, since
            any of them may be a secret.
    """
    withheld = WITHHELD.get(process, frozenset())
    try:
        settings = Settings(**overrides | dict.fromkeys(withheld, NOTHING))  # a `.env` has them as well
    except ValidationError as error:
        raise SettingsError("\n".join(_lines(error))) from None
    except (OSError, UnicodeDecodeError) as error:
        raise settings_files.env_file_refused(error) from None
    required = [*REQUIRED[process], *(_speech(settings) if process in {Process.POOL, Process.ZYGOTE} else ())]
    missing = [name for name in dict.fromkeys(required) if not _text(getattr(settings, name.lower()))]
    if process is Process.ROUTER and not settings.ticket_secret:
        missing.append("TWILIO_AUTH_TOKEN")
    if process is Process.ROUTER and settings.twilio_validate_signatures and "TWILIO_AUTH_TOKEN" not in missing:
        missing += [] if _text(settings.twilio_auth_token) else ["TWILIO_AUTH_TOKEN"]
    if process is Process.PREFETCHER and settings.whatsapp_from:
        missing += [name for name in FOR_MESSAGES if not _text(getattr(settings, name.lower()))]
    if missing:
        raise SettingsError("\n".join(f"{name}: missing" for name in missing))
    logs.hide(*(secret for secret in _secrets(settings) if secret != NOTHING))
    return settings


def _speech(settings: Settings) -> Iterator[str]:
    """Name what the chosen ear and voice cannot do without."""
    yield from FOR_SPEECH[settings.stt_provider]
    yield from FOR_SPEECH[settings.tts_provider]
    yield from FOR_VOICES[settings.tts_provider]


def environment(process: Process) -> dict[str, str]:
    """Give the environment of a child of that kind: our own, without what is withheld from it."""
    withheld = WITHHELD.get(process, frozenset())
    return {
        name: value
        for name, value in os.environ.items()
        if name.lower().removesuffix(settings_files.SUFFIX) not in withheld
    }


def _secrets(settings: Settings) -> Iterator[str]:
    """Give every secret there is: the settings that are one, and the password within the address of Redis."""
    for name in Settings.model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            yield value.get_secret_value()
    address = urlsplit(settings.redis_url)
    yield unquote(address.password or "")
    yield from parse_qs(address.query).get("password", [])


def refuse(error: OffhookError, *, served: bool = False) -> NoReturn:
    """Say on stderr what is wrong, one line per problem, and exit 2: what every `__main__` does before it listens.

    A process that is `served` by something that starts it again waits `RESTART_PAUSE` in between, or until it is told to stop.
    """
    stops = {signal.SIGTERM, signal.SIGINT}
    pause_s = _restart_pause_s() if served else 0.0
    if pause_s:
        # Before a word, which may be answered with a signal; only blocked ones reach a container's first process.
        signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    for line in str(error).splitlines():
        print(f"offhook: {line}", file=sys.stderr, flush=True)  # noqa: T201 - the logs are not configured yet
    if pause_s:
        signal.sigtimedwait(stops, pause_s)
    sys.exit(2)


def _restart_pause_s() -> float:
    """Read it by itself: whatever else is set may be what is wrong."""
    try:
        return min(max(0.0, float(os.environ.get("RESTART_PAUSE", ""))), MOST_PAUSE_S)
    except ValueError:
        return 0.0


def _text(value: SecretStr | str) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def _lines(error: ValidationError) -> list[str]:
    lines: list[str] = []
    for problem in error.errors(include_url=False, include_input=False):
        words = problem["msg"].removeprefix("Value error, ")
        name = ".".join(str(part) for part in problem["loc"]).upper()
        lines += [f"{name}: {words}"] if name else words.splitlines()
    return lines
