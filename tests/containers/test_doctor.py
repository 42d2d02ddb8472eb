"""The doctor and the recorded caller of the demo, in the containers an operator runs them in."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from tests.containers.site import Site

# There is no account behind the stand-in of Twilio's webhooks, and the stand-in of the database has no migrations.
SKIPPED: Final = ("--skip", "account,numbers,supabase")


def test_the_doctor_finds_the_demo_well(site: Site) -> None:
    done = site.attempt("run", "--rm", "--no-deps", "doctor", *SKIPPED, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)


def test_the_doctor_says_what_is_wrong_and_what_to_do(site: Site) -> None:
    wrong = ("--env", "TWILIO_AUTH_TOKEN=another", "--env", "REDIS_URL=redis://nobody.invalid:6379/0")
    done = site.attempt("run", "--rm", "--no-deps", *wrong, "doctor", *SKIPPED)
    assert done.returncode == 1
    assert "TWILIO_AUTH_TOKEN" in done.stdout
    assert "REDIS_URL" in done.stdout


@pytest.mark.parametrize("calls", ["2"])
def test_the_recorded_caller_has_conversations(site: Site, calls: str) -> None:
    """As the README says it; the voice of these stand-ins is tones, which it reads exactly."""
    done = site.attempt("run", "--rm", "--no-deps", "demo-call", "--calls", calls, "--at-once", "--judge", "tones")
    assert done.returncode == 0, done.stdout + done.stderr
