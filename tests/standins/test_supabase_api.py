"""The Supabase stand-in, driven by the vendor's client and, where that hides things, by plain HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from postgrest import APIError
from supabase import AsyncClient, AsyncClientOptions, acreate_client

from tests.standins.process import Standin, StandinFailed, started

PHONE = "+5511999990000"
ANA = {
    "phone": PHONE,
    "name": "Ana",
    "facts": {"reference_code": "X7QK", "visits": 3},
    "appointments": [
        {"starts_at": "2001-01-01T10:00:00Z"},
        {"starts_at": "2091-01-01T10:00:00Z", "status": "asked"},
        {"starts_at": "2090-01-01T10:00:00Z"},
    ],
}
BOB = {"phone": "+15550001111", "name": "Bob"}
HEADERS = {"apikey": "sb_secret_made_up", "authorization": "Bearer sb_secret_made_up"}


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standin]:
    data = tmp_path_factory.mktemp("supabase") / "customers.json"
    data.write_text(json.dumps([ANA, BOB]))
    with started("supabase_api", data=data) as standin:
        yield standin


@pytest.fixture
async def api(process: Standin) -> AsyncIterator[Standin]:
    settings = (await process.state())["settings"]
    yield process
    await process.control(**settings, customers=[ANA, BOB], reset=True)


@pytest.fixture
async def client(api: Standin) -> AsyncIterator[AsyncClient]:
    async with httpx.AsyncClient() as http:
        yield await acreate_client(api.url, HEADERS["apikey"], AsyncClientOptions(httpx_client=http))


def rows(response: Any) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", response.data)


@pytest.mark.parametrize("get", [False, True])
async def test_the_context_of_a_customer_is_one_document(client: AsyncClient, api: Standin, *, get: bool) -> None:
    response = await client.rpc("customer_context", {"p_phone": PHONE}, get=get).execute()
    document = cast("dict[str, Any]", response.data)
    assert document["customer"]["name"] == "Ana"
    assert document["customer"]["phone"] == PHONE
    assert document["customer"]["locale"] == "pt-BR"
    assert "created_at" not in document["customer"]
    assert document["facts"] == {"reference_code": "X7QK", "visits": 3}
    assert document["next"] == [
        {"starts_at": "2090-01-01T10:00:00Z", "status": "booked"},
        {"starts_at": "2091-01-01T10:00:00Z", "status": "asked"},
    ]
    entry = (await api.state())["log"][-1]
    assert (entry["method"], entry["path"]) == ("GET" if get else "POST", "/rest/v1/rpc/customer_context")


async def test_a_customer_is_added_to_the_others_or_takes_the_place_of_who_had_the_number(
    client: AsyncClient, api: Standin
) -> None:
    await api.control(add_customers=[{"phone": "+5", "name": "Eva"}, {**BOB, "name": "Robert", "facts": {"a": 1}}])
    names = rows(await client.table("customers").select("name").order("name").execute())
    assert [row["name"] for row in names] == ["Ana", "Eva", "Robert"]
    assert len(rows(await client.table("customer_facts").select("*").execute())) == 3
    with pytest.raises(StandinFailed, match="customers"):
        await api.control(add_customers=[{"phone": PHONE, "name": "Eva"}, {"phone": PHONE}])
    assert [row["name"] for row in rows(await client.table("customers").select("*").eq("phone", PHONE).execute())] == [
        "Ana"
    ]


async def test_an_unknown_caller_is_null_and_not_an_error(client: AsyncClient) -> None:
    assert (await client.rpc("customer_context", {"p_phone": "+10000000000"}).execute()).data is None


async def test_a_plus_sign_must_travel_encoded(api: Standin) -> None:
    async with httpx.AsyncClient(base_url=api.url, headers=HEADERS) as http:
        for phone, found in (("%2B5511999990000", 1), ("+5511999990000", 0)):
            response = await http.get(f"/rest/v1/customers?select=id,name&phone=eq.{phone}")
            assert len(response.json()) == found


async def test_an_unknown_function_or_table_or_column_is_named(client: AsyncClient) -> None:
    with pytest.raises(APIError) as error:
        await client.rpc("no_such_function", {}).execute()
    assert error.value.code == "PGRST202"
    with pytest.raises(APIError) as error:
        await client.rpc("customer_context", {"phone": PHONE}).execute()
    assert error.value.code == "PGRST202"
    with pytest.raises(APIError) as error:
        await client.table("strangers").select("*").execute()
    assert error.value.code == "PGRST205"
    with pytest.raises(APIError) as error:
        await client.table("customers").select("*").eq("shoe_size", 43).execute()
    assert error.value.code == "42703"


async def test_tables_are_read_with_filters_order_limit_count_and_children(client: AsyncClient) -> None:
    customers = client.table("customers")
    select = customers.select("id,name,customer_facts(key,value),appointments(starts_at,status)")
    (ana,) = rows(await select.eq("phone", PHONE).limit(1).execute())
    assert {fact["key"]: fact["value"] for fact in ana["customer_facts"]} == ANA["facts"]
    assert len(ana["appointments"]) == 3
    page = await client.table("customers").select("*", count="exact").order("name", desc=True).limit(1).execute()  # type: ignore[arg-type]  # the enum's value works
    assert ([row["name"] for row in rows(page)], page.count) == (["Bob"], 2)
    appointments = client.table("appointments").select("*").eq("customer_id", ana["id"])
    later = await appointments.gte("starts_at", "2090-01-01").in_("status", ["booked", "a,b"]).execute()
    assert [row["starts_at"] for row in rows(later)] == ["2090-01-01T10:00:00Z"]
    nobody = client.table("customers").select("*").is_("name", "null").execute()
    assert rows(await nobody) == []


async def test_one_object_is_one_or_an_error(client: AsyncClient) -> None:
    one = await client.table("customers").select("*").eq("phone", PHONE).single().execute()
    assert cast("dict[str, Any]", one.data)["name"] == "Ana"
    with pytest.raises(APIError) as error:
        await client.table("customers").select("*").eq("phone", "+1").single().execute()
    assert error.value.code == "PGRST116"
    assert await client.table("customers").select("*").eq("phone", "+1").maybe_single().execute() is None


async def test_rows_are_written_merged_and_changed(client: AsyncClient, api: Standin) -> None:
    logged = {"call_sid": "CA1", "channel": "voice", "direction": "in", "provider_sid": "CA1"}
    (row,) = rows(await client.table("message_log").insert(logged).execute())
    assert row.items() >= logged.items()
    with pytest.raises(APIError) as error:
        await client.table("message_log").insert(logged).execute()
    assert error.value.code == "23505"
    upsert = client.table("customers").upsert({"phone": PHONE, "name": "Ana Maria"}, on_conflict="phone")
    (merged,) = rows(await upsert.execute())
    assert merged["name"] == "Ana Maria"
    update = client.table("appointments").update({"status": "held"}).eq("status", "asked").gte("starts_at", "2091")
    assert [row["status"] for row in rows(await update.execute())] == ["held"]
    quiet = await client.table("message_log").insert({**logged, "provider_sid": "CA2"}, returning="minimal").execute()  # type: ignore[arg-type]  # the enum's value works
    assert rows(quiet) == []
    assert len(rows(await client.table("message_log").select("*").execute())) == 2
    with pytest.raises(APIError) as error:
        await client.table("customers").insert({"name": "Nobody"}).execute()
    assert error.value.code == "23502"
    assert (await api.state())["counters"]["requests"] == 7


async def test_a_request_needs_its_key(api: Standin) -> None:
    await api.control(api_key=HEADERS["apikey"])
    async with httpx.AsyncClient(base_url=api.url) as http:
        missing = await http.get("/rest/v1/customers", headers={"authorization": HEADERS["authorization"]})
        assert (missing.status_code, missing.json()["message"]) == (401, "No API key found in request")
        wrong = await http.get("/rest/v1/customers", headers={"apikey": "another"})
        assert (wrong.status_code, wrong.json()["message"]) == (401, "Invalid API key")
        assert (await http.get("/rest/v1/customers", headers=HEADERS)).status_code == 200


async def test_faults_are_what_the_client_sees(client: AsyncClient, api: Standin) -> None:
    call = client.rpc("customer_context", {"p_phone": PHONE})
    await api.control(fail_status=500)
    with pytest.raises(APIError, match="made to fail"):
        await call.execute()
    await api.control(fail_status=502, garbage=True)
    with pytest.raises(APIError, match="Bad Gateway"):
        await call.execute()
    await api.control(fail_status=0)
    assert (await call.execute()).data == "<html>Bad Gateway</html>"  # the client hands it on: callers must check
    await api.control(garbage=False, stall=True)
    async with httpx.AsyncClient(base_url=api.url, headers=HEADERS, timeout=0.2) as http:
        with pytest.raises(httpx.ReadTimeout):
            await http.post("/rest/v1/rpc/customer_context", json={"p_phone": PHONE})
    await api.control(stall=False)
    assert (await call.execute()).data is not None


async def test_a_body_that_is_not_json_is_refused(api: Standin) -> None:
    async with httpx.AsyncClient(base_url=api.url, headers=HEADERS) as http:
        response = await http.post("/rest/v1/rpc/customer_context", content=b"{")
    assert (response.status_code, response.json()["code"]) == (400, "PGRST102")


async def test_data_that_cannot_be_used_is_refused_and_nothing_changes(client: AsyncClient, api: Standin) -> None:
    for customers in ([{"name": "no phone"}], [ANA, ANA], "none", [{"phone": "+1", "shoe_size": 43}]):
        with pytest.raises(StandinFailed, match="customers"):
            await api.control(customers=customers)
    assert len(rows(await client.table("customers").select("*").execute())) == 2


def test_a_path_with_another_name_is_not_found(process: Standin) -> None:
    assert httpx.get(f"{process.url}/auth/v1/token", headers=HEADERS).status_code == 404


def test_the_data_file_must_exist() -> None:
    with pytest.raises(StandinFailed), started("supabase_api", data=Path("/nowhere/customers.json")):
        pass
