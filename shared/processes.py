"""The kinds of processes there are, what each cannot do without, and what none of its kind may know. Names of settings; pure."""

from enum import StrEnum
from typing import Final


class Process(StrEnum):
    """Who loads the settings; each needs others."""

    ROUTER = "router"
    POOL = "pool"
    ZYGOTE = "zygote"  # and the workers it forks
    TOOL_HOST = "tool_host"
    MCP_SERVER = "mcp_server"
    PREFETCHER = "prefetcher"
    DOCTOR = "doctor"  # which looks at all of them


REQUIRED: Final[dict[Process, tuple[str, ...]]] = {
    Process.ROUTER: ("PUBLIC_BASE_URL",),
    Process.POOL: ("OPENAI_API_KEY",),
    Process.ZYGOTE: ("OPENAI_API_KEY",),
    Process.TOOL_HOST: (),
    Process.MCP_SERVER: (),
    Process.PREFETCHER: (),
    Process.DOCTOR: (),
}

WITHHELD: Final[dict[Process, frozenset[str]]] = {
    Process.ZYGOTE: frozenset(
        {
            "supabase_secret_key",
            "twilio_auth_token",
            "ticket_key",
            "console_token",
            "mcp_token",
            "records_webhook_secret",
        }
    ),
    Process.TOOL_HOST: frozenset(
        {
            "openai_api_key",
            "cartesia_api_key",
            "elevenlabs_api_key",
            "twilio_auth_token",
            "ticket_key",
            "console_token",
            "mcp_token",
            "records_webhook_secret",
        }
    ),
    Process.MCP_SERVER: frozenset(
        {
            "openai_api_key",
            "cartesia_api_key",
            "elevenlabs_api_key",
            "twilio_auth_token",
            "ticket_key",
            "console_token",
            "records_webhook_secret",
        }
    ),
}
"""What a child of the pool must not know, by field: workers run custom tools, and the host speaks to MCP servers."""

NOTHING: Final = "withheld"
"""Stands for a secret that is withheld, so that what must be beside it may stay."""

SPEECH_PROVIDERS: Final = ("cartesia", "openai", "elevenlabs")

FOR_SPEECH: Final[dict[str, tuple[str, ...]]] = {
    "cartesia": ("CARTESIA_API_KEY",),
    "openai": ("OPENAI_API_KEY",),
    "elevenlabs": ("ELEVENLABS_API_KEY",),
}
"""What an ear or a voice of a provider needs."""

FOR_VOICES: Final[dict[str, tuple[str, ...]]] = {
    "cartesia": ("CARTESIA_VOICE_ID",),
    "openai": ("OPENAI_TTS_VOICE",),
    "elevenlabs": ("ELEVENLABS_VOICE_ID",),
}
"""What a voice of a provider needs beside that."""

FOR_MESSAGES: Final = ("PUBLIC_BASE_URL", "TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN")
"""What the prefetchers need beside `WHATSAPP_FROM`: who sends, and where Twilio reports what became of a message."""
