"""The Supabase stand-in on a real PostgreSQL, driven by the vendor's client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import httpx
import pytest
from postgrest import APIError
from supabase import AsyncClient, AsyncClientOptions, acreate_client

from tests.postgres import PostgresDatabase
from tests.standins.process import Standin, StandinFailed, started

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


ANA = {
    "phone": "+551187654321",
    "name": "Ana",
    "facts": {"reference_code": "X7QK"},
    "appointments": [{"starts_at": "2090-01-01T10:00:00+00:00"}],
}
NEW_FORM = "+5511987654321"


@pytest.fixture(scope="module")
def dsn(shared_database: PostgresDatabase) -> str:
    return shared_database.dsn


@pytest.fixture(scope="module")
def process(dsn: str) -> Iterator[Standin]:
    with started("supabase_api", postgres=dsn) as standin:
        yield standin


@pytest.fixture
async def api(process: Standin) -> Standin:
    await process.control(customers=[ANA], reset=True)
    return process


@pytest.fixture
async def client(api: Standin) -> AsyncIterator[AsyncClient]:
    async with httpx.AsyncClient() as http:
        yield await acreate_client(api.url, "sb_secret_made_up", AsyncClientOptions(httpx_client=http))


@pytest.mark.parametrize("get", [False, True])
async def test_a_function_of_the_migrations_runs_on_the_database(client: AsyncClient, *, get: bool) -> None:
    document = (await client.rpc("customer_context", {"p_phone": NEW_FORM}, get=get).execute()).data
    assert cast("dict[str, Any]", document)["customer"]["name"] == "Ana"
    assert cast("dict[str, Any]", document)["next"][0]["ends_at"] == "2090-01-01T07:30:00-03:00"
    assert (await client.rpc("customer_context", {"p_phone": "+10000000000"}).execute()).data is None


async def test_arguments_are_converted_to_the_types_the_function_declares(client: AsyncClient, dsn: str) -> None:
    for value in ("text", 7, {"nested": [None, True]}, None):
        arguments = {"p_key": f"CA1:{value}", "p_phone": NEW_FORM, "p_fact": "any", "p_value": value}
        assert (await client.rpc("add_customer_fact", arguments).execute()).data == {"outcome": "stored"}
        [row] = PostgresDatabase(dsn).rows("select value from customer_facts where key = 'any'")
        assert row["value"] == value


@pytest.mark.parametrize(
    ("function", "arguments", "code"),
    [
        ("no_such_function", {}, "PGRST202"),
        ("message_of", {"key": "x"}, "PGRST202"),
        ("message_of", {}, "PGRST202"),
        ("busy_between", {"p_calendar": "main", "p_from": "yesterday-ish", "p_to": "2090-01-01"}, "22007"),
        ("create_customer", {"p_key": "CA1:1", "p_phone": "123"}, "23514"),
        ("create_customer", {"p_key": "CA1:1", "p_phone": None}, "23502"),
        (
            "log_message",
            dict.fromkeys(("p_phone", "p_call_sid", "p_channel", "p_direction", "p_body"), "x"),
            "PGRST202",
        ),
    ],
)
async def test_an_error_has_the_code_of_postgrest_or_of_the_database(
    client: AsyncClient, function: str, arguments: dict[str, Any], code: str
) -> None:
    with pytest.raises(APIError) as error:
        await client.rpc(function, arguments).execute()
    assert error.value.code == code


async def test_a_conflict_is_a_409_and_what_is_unknown_a_404(api: Standin) -> None:
    message = {
        "p_phone": NEW_FORM,
        "p_call_sid": "CA1",
        "p_channel": "whatsapp",
        "p_direction": "outbound",
        "p_body": "x",
    }
    message |= {"p_provider_sid": "SM1"}
    async with httpx.AsyncClient(base_url=api.url, headers={"apikey": "sb_secret_made_up"}) as http:
        first = await http.post("/rest/v1/rpc/log_message", json=message | {"p_key": "CA1:1"})
        assert (first.status_code, first.json()) == (200, {"outcome": "logged"})
        second = await http.post("/rest/v1/rpc/log_message", json=message | {"p_key": "CA1:2"})
        assert (second.status_code, second.json()["code"]) == (409, "23505")
        unknown = await http.post("/rest/v1/rpc/nothing", json=["not", "an", "object"])
        assert (unknown.status_code, unknown.json()["code"]) == (404, "PGRST202")
        table = await http.get("/rest/v1/customers")
        assert (table.status_code, table.json()["code"]) == (404, "PGRST205")


async def test_the_publishable_key_may_call_nothing(api: Standin) -> None:
    async with httpx.AsyncClient(base_url=api.url, headers={"apikey": "sb_publishable_made_up"}) as http:
        answer = await http.post("/rest/v1/rpc/customer_context", json={"p_phone": NEW_FORM})
    assert (answer.status_code, answer.json()["code"]) == (403, "42501")


async def test_faults_come_before_the_database(client: AsyncClient, api: Standin) -> None:
    await api.control(fail_status=503)
    with pytest.raises(APIError, match="made to fail"):
        await client.rpc("customer_context", {"p_phone": NEW_FORM}).execute()
    await api.control(fail_status=0)


async def test_customers_that_cannot_be_stored_are_refused_and_nothing_changes(api: Standin, dsn: str) -> None:
    for customers in ([{"name": "no phone"}], [ANA, ANA], [{"phone": "+15550001111", "shoe_size": 43}]):
        with pytest.raises(StandinFailed, match="customers"):
            await api.control(customers=customers)
    assert [row["name"] for row in PostgresDatabase(dsn).rows("select name from customers")] == ["Ana"]


def test_a_database_that_is_not_there_is_a_503() -> None:
    with started("supabase_api", postgres="host=/nowhere dbname=none") as standin:
        answer = httpx.post(
            f"{standin.url}/rest/v1/rpc/customer_context", json={"p_phone": "+1"}, headers={"apikey": "sb_secret_x"}
        )
    assert (answer.status_code, answer.json()["code"]) == (503, "PGRST001")
