from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from starlette.requests import Request

from router.health import Health, is_loopback
from router.pools import Pools


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
def test_this_machine_is_known_by_its_addresses(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["10.0.0.1", "::ffff:10.0.0.1", "0.0.0.0", "localhost", "testclient", ""])
def test_any_other_address_is_not_this_machine(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("client", "status"), [(("127.0.0.1", 1), 200), (("203.0.113.9", 1), 403), (("unix", 0), 403), (None, 403)]
)
async def test_without_a_token_only_this_machine_sees_metrics(client: tuple[str, int] | None, status: int) -> None:
    health = Health(Pools(Path("/nonexistent")), CollectorRegistry(), "")
    headers = [(b"x-forwarded-for", b"127.0.0.1"), (b"host", b"localhost")]
    answer = await health.metrics(Request({"type": "http", "client": client, "headers": headers}))
    assert answer.status_code == status
