"""No combination of settings serves an address of the world without checking who asks."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.parts import Outside, assemble
from router.serving import listen
from shared.errors import SettingsError
from shared.processes import Process
from shared.settings import Settings, load
from shared.ticket import Ticket
from shared.traces import Traces

if TYPE_CHECKING:
    from pathlib import Path

    from shared.calls import IncomingCall

BASES = ["", "https://voice.example.com", "http://voice.example.com", "http://127.0.0.1:8080", "http://localhost",
         "https://[::1]", "http://0.0.0.0", "https://127.0.0.1.example.com", " https://localhost "]  # fmt: skip
HOSTS = [None, "", "0.0.0.0", "::", "127.0.0.1", "127.0.0.2", "::1", "localhost", "10.1.2.3", "voice.example.com", "*"]
SECRETS = ["", " ", "\t\n", "0123456789abcdef", " 0123456789abcdef\n"]

combinations = st.fixed_dictionaries(
    {
        "public_base_url": st.sampled_from(BASES),
        "twilio_validate_signatures": st.sampled_from(["true", "false", "1", "0", "no", "on"]),
        "twilio_auth_token": st.sampled_from(SECRETS),
        "ticket_key": st.sampled_from(SECRETS),
        "console_token": st.sampled_from(SECRETS),
        "router_host": st.sampled_from(HOSTS),
    }
)


def taken(values: dict[str, Any]) -> Settings | None:
    """Load what an operator wrote, as `__main__` does; None when it is refused."""
    try:
        return load(Process.ROUTER, _env_file=None, **{name: each for name, each in values.items() if each is not None})
    except SettingsError:
        return None


def near(host: str) -> bool:
    """Say whether a host is this machine alone; a judgement of its own, not the code's."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def _nobody(_ticket: Ticket) -> Traces:
    return Traces()


async def _no_queue(_call: IncomingCall) -> bool:
    return False


@given(combinations)
def test_whatever_is_set_the_router_checks_signatures_or_listens_for_this_machine_alone(values: dict[str, Any]) -> None:
    settings = taken(values)
    if settings is None:
        return
    parts = assemble(settings, {}, Outside(_no_queue, _nobody))
    assert (parts.intake.signatures is None) == (parts.door.signatures is None), "both doors are locked, or neither"
    if parts.intake.signatures is None:
        assert near(settings.router_address)
        assert near(settings.public_base_url.partition("://")[2].strip("[]/").partition(":")[0] or "::1")
    else:
        assert settings.twilio_auth_token.get_secret_value().strip(), "a signature by an empty key proves nothing"
    assert settings.ticket_secret.strip(), "a ticket by an empty key is anybody's"
    assert not parts.health.console_token or parts.health.console_token.strip()


def test_with_signatures_off_and_no_host_said_only_this_machine_is_listened_to() -> None:
    settings = taken({"public_base_url": "http://127.0.0.1:8080", "ticket_key": "k", "twilio_validate_signatures": "0"})
    assert settings is not None
    assert settings.router_host == "0.0.0.0"
    with listen(settings.router_address, 0) as sock:
        assert sock.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "voice.example.com"])
def test_with_signatures_off_a_host_of_the_world_is_refused_by_name(host: str, tmp_path: Path) -> None:
    values = {"public_base_url": "http://127.0.0.1:8080", "ticket_key": "k", "router_host": host}
    with pytest.raises(SettingsError, match=r"^ROUTER_HOST: must be a loopback address"):
        load(Process.ROUTER, _env_file=tmp_path / "none", twilio_validate_signatures=False, **values)
