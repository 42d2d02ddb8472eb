"""An outage is one line when it begins and one when it is over, whoever notices; and its cause names the setting to change."""

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from shared import redis_door
from shared.errors import ReadinessUnavailable
from shared.outage import Outage
from shared.readiness import Readiness
from tests.redis_server import RedisServer


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    output = capsys.readouterr()
    return [line for line in (output.out + output.err).splitlines() if "answer" in line]


def test_each_is_said_once_however_many_notice(capsys: pytest.CaptureFixture[str]) -> None:
    outage = Outage("redis")
    outage.back("reader")
    assert said(capsys) == [], "it was never away"
    for who in ("reader", "writer", "reader"):
        outage.away("refused", who)
    (line,) = said(capsys)
    assert "redis does not answer" in line
    assert "refused" in line
    outage.back("reader")
    outage.back("somebody else")
    assert said(capsys) == [], "the writer has not been served yet"
    outage.back("writer")
    (line,) = said(capsys)
    assert "redis answers again" in line
    outage.away("refused")
    assert len(said(capsys)) == 1


def test_where_reading_works_and_writing_does_not_the_two_do_not_contradict_each_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    outage = Outage("redis")
    for _ in range(10):
        outage.away("read only", "writer")
        outage.back("reader")
    assert len(said(capsys)) == 1


def why(url: str) -> str:
    """Try, and give the words for what comes of it."""
    with Redis.from_url(url, protocol=2, retry=Retry(NoBackoff(), 0)) as client:
        try:
            client.get("key")
        except (RedisError, OSError) as error:
            return redis_door.words(error)
    return ""


@pytest.mark.redis
def test_a_password_that_is_missing_or_wrong_names_the_setting(redis_server: RedisServer) -> None:
    with Redis.from_url(redis_server.url) as admin:
        admin.config_set("requirepass", "right-password")
        assert why(redis_server.url).startswith("REDIS_URL: its password is missing or not accepted: ")
        assert why(f"{redis_server.url}?password=wrong").startswith(
            "REDIS_URL: its password is missing or not accepted: "
        )
        assert why(f"{redis_server.url}?password=right-password") == ""
        admin.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "+ping")
        words = why(f"{redis_server.url}?username=reader&password=pw")
        assert words.startswith("REDIS_URL: its user has not the rights: ")


def test_a_name_that_nobody_knows_names_the_setting_and_a_refusal_does_not() -> None:
    assert why("redis://no-such-host.invalid:1/0").startswith("REDIS_URL: its host is not known: ")
    refused = why("redis://127.0.0.1:1/0")
    assert "refused" in refused
    assert "REDIS_URL" not in refused
    assert redis_door.words(TimeoutError()) == "TimeoutError"


@pytest.mark.redis
async def test_who_reads_the_directory_is_told_so_too(redis_server: RedisServer) -> None:
    with Redis.from_url(redis_server.url) as admin:
        admin.config_set("requirepass", "right-password")
        client = redis_door.commands(redis_server.url)
        with pytest.raises(ReadinessUnavailable, match=r"^REDIS_URL: "):
            await Readiness(client).pools()
        await client.aclose()
