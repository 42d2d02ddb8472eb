"""The migrations behind a data API that is not ours, asked by Supabase's own client: `@supabase/lite` on PGlite.

Everything but this file runs on PostgreSQL itself (`test_migrations`, `test_sql_functions`).
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from postgrest import APIError
from supabase import AsyncClient, AsyncClientOptions, acreate_client

from shared.settings import Settings
from tests.supabase_lite import SupabaseLite, Unavailable, install
from worker.jobs.lookup import CustomerLookup
from worker.tools.database import SupabaseDatabase
from worker.tools.services import ServiceTrouble

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = pytest.mark.system

ANA, ANA_OLD, BOB = "+5511987654321", "+551187654321", "+15550001111"
DAY = datetime.now(UTC).replace(microsecond=0) + timedelta(days=3)
TABLES = ("customers", "customer_facts", "appointments", "tool_requests", "message_log", "calls", "call_turns")
TLS = httpx.create_ssl_context()


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SupabaseLite]:
    try:
        install()
    except Unavailable as error:
        pytest.skip(str(error))
    server = SupabaseLite(tmp_path_factory.mktemp("lite"))
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
async def database(lite: SupabaseLite) -> AsyncIterator[SupabaseDatabase]:
    conf = Settings(_env_file=None, supabase_url=lite.url, supabase_secret_key=lite.secret_key)
    database = SupabaseDatabase(conf, 30.0, TLS)
    for phone in (ANA, BOB):
        await database.call("forget_caller", {"p_phone": phone})
    yield database
    await database.close()


@pytest.fixture
async def outsider(lite: SupabaseLite) -> AsyncIterator[AsyncClient]:
    async with httpx.AsyncClient(timeout=30) as http:
        yield await acreate_client(lite.url, lite.publishable_key, AsyncClientOptions(httpx_client=http))


async def seen(client: AsyncClient, table: str) -> Any:
    """Give the rows a client sees of a table, or the code of its refusal."""
    try:
        return (await client.table(table).select("*").execute()).data
    except APIError as error:
        return error.code


def booking(key: str, phone: str, hour: int = 0) -> dict[str, Any]:
    """Write a request for half an hour."""
    starts_at = DAY + timedelta(hours=hour)
    times = {"p_starts_at": starts_at.isoformat(), "p_ends_at": (starts_at + timedelta(minutes=30)).isoformat()}
    return {"p_key": key, "p_phone": phone, "p_calendar": "main", "p_notes": "first visit", **times}


async def test_a_customer_is_made_found_and_described(lite: SupabaseLite, database: SupabaseDatabase) -> None:
    made = await database.call(
        "create_customer", {"p_key": "CA1:1", "p_phone": ANA_OLD, "p_name": "Ana", "p_locale": "pt-BR"}
    )
    assert made["outcome"] == "created"
    assert (await database.call("create_customer", {"p_key": "CA1:2", "p_phone": ANA, "p_name": "A"}))[
        "outcome"
    ] == "exists"
    fact = {"p_key": "CA1:3", "p_phone": ANA, "p_fact": "likes", "p_value": {"drink": "tea"}, "p_source": "call"}
    assert await database.call("add_customer_fact", fact) == {"outcome": "stored"}
    status = {"p_key": "CA1:4", "p_phone": ANA_OLD, "p_status": "vip"}
    assert (await database.call("update_customer_status", status))["customer"]["status"] == "vip"
    booked = await database.call("book_appointment", booking("CA1:5", ANA))

    lookup = CustomerLookup(lite.url, lite.secret_key, 30.0, TLS)  # the prefetch's own
    try:
        for phone in (ANA, ANA_OLD):
            assert lookup(phone) == {
                "customer": made["customer"] | {"status": "vip"},
                "facts": {"likes": {"drink": "tea"}},
                "next": [booked["appointment"]],
            }
        assert lookup(BOB) is None
    finally:
        lookup.close()


async def test_one_slot_is_booked_once_and_one_request_done_once(database: SupabaseDatabase) -> None:
    for number, phone in enumerate((ANA, BOB)):
        await database.call("create_customer", {"p_key": f"CA1:{number}", "p_phone": phone})
    answers = await asyncio.gather(
        *(database.call("book_appointment", booking(f"CA1:b{phone}", phone)) for phone in (ANA, BOB) * 3)
    )
    assert sorted(answer["outcome"] for answer in answers) == ["booked"] * 3 + ["taken"] * 3
    span = {"p_calendar": "main", "p_from": DAY.isoformat(), "p_to": (DAY + timedelta(hours=1)).isoformat()}
    assert len(await database.call("busy_between", span)) == 1


async def test_appointments_are_moved_and_cancelled(database: SupabaseDatabase) -> None:
    await database.call("create_customer", {"p_key": "CA1:1", "p_phone": ANA})
    for hour in (0, 1):
        await database.call("book_appointment", booking(f"CA1:b{hour}", ANA, hour))
    which: dict[str, Any] = {"p_phone": ANA, "p_id": None, "p_starts_at": None}
    ambiguous = await database.call("cancel_appointment", which | {"p_key": "CA1:2"})
    assert (ambiguous["outcome"], len(ambiguous["appointments"])) == ("ambiguous", 2)
    move: dict[str, Any] = {
        "p_phone": ANA,
        "p_id": ambiguous["appointments"][0]["id"],
        "p_old_starts_at": None,
        "p_ends_at": None,
    }
    taken = await database.call(
        "reschedule_appointment", move | {"p_key": "CA1:3", "p_starts_at": booking("", "", 1)["p_starts_at"]}
    )
    assert taken["outcome"] == "taken"
    moved = await database.call(
        "reschedule_appointment", move | {"p_key": "CA1:4", "p_starts_at": booking("", "", 5)["p_starts_at"]}
    )
    assert moved["outcome"] == "rescheduled"
    cancelled = await database.call(
        "cancel_appointment", which | {"p_key": "CA1:5", "p_id": moved["appointment"]["id"]}
    )
    assert cancelled["outcome"] == "cancelled"


async def test_messages_and_calls_are_stored_and_forgotten(database: SupabaseDatabase) -> None:
    message: dict[str, Any] = {
        "p_key": "CA7:m",
        "p_phone": ANA,
        "p_call_sid": "CA7",
        "p_channel": "whatsapp",
        "p_direction": "outbound",
    }
    message |= {"p_body": "See you", "p_provider_sid": "SM7", "p_status": "sent", "p_error_code": None}
    assert await database.call("log_message", message) == {"outcome": "logged"}
    report = {"p_provider_sid": "SM7", "p_status": "undelivered", "p_error_code": "63016"}
    assert await database.call("message_status", report) == {"outcome": "updated"}
    told = {"provider_sid": "SM7", "status": "undelivered", "error_code": "63016"}
    assert await database.call("message_of", {"p_key": "CA7:m"}) == told
    call = {
        "call_sid": "CA7",
        "caller": ANA_OLD,
        "started_at": "2026-01-01T10:00:00Z",
        "counts": {"turns": 1},
        "recording": "r.ogg",
    }
    turn = {
        "position": 0,
        "at": "2026-01-01T10:00:01Z",
        "speaker": "agent",
        "text": "Hello",
        "heard": "He",
        "cut_off": True,
    }
    for _ in range(2):
        stored = await database.call("store_call", {"p_call": call, "p_turns": [turn | {"tool": {"name": "end_call"}}]})
        assert stored == {"outcome": "stored"}
    listed = await database.call("calls_of_caller", {"p_phone": ANA, "p_after": ""})
    assert listed == {"calls": [{"call_sid": "CA7", "recording": "r.ogg"}]}
    gone = await database.call("forget_caller", {"p_phone": ANA})
    assert (gone["messages"], gone["calls"], gone["turns"]) == (1, 1, 1)
    assert await database.call("recording_deleted", {"p_call_sid": "CA7"}) == {"outcome": "unknown_call"}


async def test_what_is_refused_is_trouble_in_which_nothing_was_done(database: SupabaseDatabase) -> None:
    with pytest.raises(ServiceTrouble, match="PGRST202"):
        await database.call("no_such_function", {"p_phone": ANA})
    with pytest.raises(ServiceTrouble) as refused:
        await database.call("create_customer", {"p_key": "CA1:1", "p_phone": "11 98765-4321"})
    assert "98765" not in str(refused.value)


async def test_the_publishable_key_sees_nothing_and_may_call_nothing(
    database: SupabaseDatabase, outsider: AsyncClient
) -> None:
    await database.call("create_customer", {"p_key": "CA1:1", "p_phone": ANA})
    await database.call("book_appointment", booking("CA1:2", ANA))
    for table in TABLES:
        assert await seen(outsider, table) in ([], "42501")
    for function, arguments in (
        ("customer_context", {"p_phone": ANA}),
        ("forget_caller", {"p_phone": ANA}),
        ("book_appointment", booking("CA1:3", ANA, 3)),
        ("phone_key", {"p_phone": ANA}),
    ):
        with pytest.raises(APIError) as refused:
            await outsider.rpc(function, arguments).execute()
        assert refused.value.code == "42501"
    with pytest.raises(APIError) as refused:
        await outsider.table("customers").insert({"phone": BOB}).execute()
    assert refused.value.code == "42501"
    assert (await database.call("customer_context", {"p_phone": ANA}))["customer"]["phone"] == ANA
