"""The migrations on a plain PostgreSQL: what they make of what was there, and who may do what. And the seed."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import phones
from tests.postgres import MIGRATIONS, SEED, PostgresDatabase, migrate, run_function

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.postgres import Postgres

ANA, ANA_OLD = "+5511987654321", "+551187654321"
TABLES = {
    "customers", "customer_facts", "appointments", "tool_requests", "message_log", "calls", "call_turns",
}  # fmt: skip
CONTRACT = {
    "customer_context", "create_customer", "update_customer_status", "add_customer_fact", "busy_between", "book_appointment",
    "cancel_appointment", "reschedule_appointment", "log_message", "message_status", "message_of", "store_call",
    "recording_deleted", "forget_caller",
}  # fmt: skip
OUTSIDERS = ("anon", "authenticated")


@pytest.fixture(scope="module")
def migrated(shared_database: PostgresDatabase) -> PostgresDatabase:
    """Give a database that tests only look at, or where they clean up."""
    return shared_database


@pytest.fixture
def before(postgres: Postgres) -> Iterator[PostgresDatabase]:
    """Give a database as the first migration left it."""
    dsn = postgres.fresh(template="template0")
    migrate(dsn, MIGRATIONS[:1])
    yield PostgresDatabase(dsn)
    postgres.drop(dsn)


def test_their_names_say_their_order() -> None:
    """As the Supabase CLI wants them: a moment of their own, then what they do."""
    moments = [path.name.partition("_")[0] for path in MIGRATIONS]
    assert all(re.fullmatch(r"[0-9]{14}", moment) for moment in moments)
    assert len(set(moments)) == len(MIGRATIONS) == 4


# --- who may do what --------------------------------------------------------------------------------------------------


def test_row_level_security_is_on_everywhere_and_lets_nobody_in(migrated: PostgresDatabase) -> None:
    tables = migrated.rows(
        "select relname, relrowsecurity from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p')"
    )
    assert {row["relname"] for row in tables} == TABLES
    assert all(row["relrowsecurity"] for row in tables)
    assert migrated.rows("select policyname from pg_policies") == []


def test_no_table_and_no_function_is_anybodys_but_the_services(migrated: PostgresDatabase) -> None:
    reached = migrated.rows(
        """
        select role, 'table ' || c.relname as what from pg_class c, unnest(%s::text[]) role
        where c.relnamespace = 'public'::regnamespace and c.relkind = 'r'
          and has_table_privilege(role, c.oid, 'select, insert, update, delete, truncate, references, trigger')
        union all
        select role, 'function ' || p.proname from pg_proc p, unnest(%s::text[]) role
        where p.pronamespace = 'public'::regnamespace and has_function_privilege(role, p.oid, 'execute')
        """,
        list(OUTSIDERS),
        list(OUTSIDERS),
    )
    assert reached == []


def test_the_service_may_call_every_function_and_none_has_more_rights_than_its_caller(
    migrated: PostgresDatabase,
) -> None:
    functions = migrated.rows(
        """
        select proname, prosecdef, proconfig, has_function_privilege('service_role', oid, 'execute') as callable,
          prolang in (select oid from pg_language where lanname in ('sql', 'plpgsql')) as ours
        from pg_proc where pronamespace = 'public'::regnamespace
        """
    )
    assert {row["proname"] for row in functions} >= CONTRACT
    assert all(row["callable"] and not row["prosecdef"] for row in functions)
    assert all(row["proconfig"] == ["search_path=public"] for row in functions if row["ours"])
    assert {row["proname"] for row in functions if not row["ours"]} == {"textrange", "textmultirange"}


@pytest.mark.parametrize("role", OUTSIDERS)
async def test_an_outsider_is_refused_by_the_database_itself(migrated: PostgresDatabase, role: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await run_function(migrated.dsn, "customer_context", {"p_phone": ANA}, role)
    with (
        psycopg.connect(migrated.dsn, options=f"-c role={role}") as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute("select from customers")


# --- what was there ---------------------------------------------------------------------------------------------------


def test_what_was_there_is_kept(before: PostgresDatabase) -> None:
    before.rows("insert into customers (phone, name, locale) values (%s, 'Ana', 'pt-BR')", ANA_OLD)
    before.rows("insert into customer_facts (customer_id, key, value) values (1, 'code', '\"X7QK\"')")
    before.rows("insert into appointments (customer_id, starts_at) values (1, '2090-01-01T10:00Z')")
    before.rows(
        "insert into appointments (customer_id, starts_at, ends_at) values (1, '2090-01-01T11:00Z', '2090-01-01T11:00Z')"
    )
    migrate(before.dsn, MIGRATIONS[1:])
    assert before.rows("select phone, name, locale, status from customers") == [
        {"phone": ANA_OLD, "name": "Ana", "locale": "pt-BR", "status": "active"}
    ]
    assert before.rows("select key, value from customer_facts") == [{"key": "code", "value": "X7QK"}]
    lengths = before.rows(
        "select extract(epoch from ends_at - starts_at)::int as s, calendar, status from appointments"
    )
    assert lengths == [{"s": 1800, "calendar": "main", "status": "booked"}] * 2


def test_one_customer_under_both_forms_of_a_number_becomes_one(before: PostgresDatabase) -> None:
    before.rows(
        "insert into customers (phone, name) values (%s, null), ('+15550001111', 'Bob'), (%s, 'Ana')", ANA_OLD, ANA
    )
    before.rows(
        """insert into customer_facts (customer_id, key, value, updated_at) values
        (1, 'only old', '1', now()), (1, 'both', '"older"', now() - interval '1 day'), (3, 'both', '"newer"', now()),
        (3, 'only new', '2', now()), (2, 'both', '"of Bob"', now())"""
    )
    before.rows(
        "insert into appointments (customer_id, starts_at) values (1, '2090-01-01T10:00Z'), (3, '2090-01-02T10:00Z')"
    )
    migrate(before.dsn, MIGRATIONS[1:])
    assert before.rows("select id, phone, name from customers order by id") == [
        {"id": 1, "phone": ANA_OLD, "name": "Ana"},
        {"id": 2, "phone": "+15550001111", "name": "Bob"},
    ]
    facts = {(row["customer_id"], row["key"]): row["value"] for row in before.rows("select * from customer_facts")}
    assert facts == {(1, "only old"): 1, (1, "both"): "newer", (1, "only new"): 2, (2, "both"): "of Bob"}
    assert [row["customer_id"] for row in before.rows("select customer_id from appointments")] == [1, 1]


def test_a_double_booking_that_was_there_stops_the_migration_by_name_and_changes_nothing(
    before: PostgresDatabase,
) -> None:
    before.rows("insert into customers (phone) values (%s)", ANA)
    before.rows(
        """insert into appointments (customer_id, starts_at, ends_at) values
        (1, '2090-01-01T10:00Z', '2090-01-01T11:00Z'), (1, '2090-01-01T10:30Z', '2090-01-01T11:30Z')"""
    )
    with pytest.raises(psycopg.errors.RaiseException, match="appointments overlap: 1 and 2 "):
        migrate(before.dsn, MIGRATIONS[1:])
    columns = "select from information_schema.columns where table_name = 'customers' and column_name = 'status'"
    assert before.rows(columns) == []
    before.rows("update appointments set status = 'cancelled' where id = 2")
    migrate(before.dsn, MIGRATIONS[1:])
    assert len(before.rows("select id from appointments")) == 2


# --- numbers ----------------------------------------------------------------------------------------------------------

NUMBERS = st.one_of(
    st.from_regex(r"\A\+55[1-9]{2}9?[0-9]{8}\Z"),
    st.from_regex(r"\A\+[0-9]{1,17}\Z"),
    st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=16),
)


@given(st.lists(NUMBERS, min_size=1, max_size=20))
def test_the_database_and_python_agree_on_what_one_number_is(migrated: PostgresDatabase, numbers: list[str]) -> None:
    answers = migrated.rows(
        "select phone_key(n) as key from unnest(%s::text[]) with ordinality as t(n, nth) order by nth", numbers
    )
    agreed = [phones.key(each) if re.fullmatch(r"\+[1-9][0-9]{6,14}", each, re.ASCII) else None for each in numbers]
    assert [row["key"] for row in answers] == agreed


def test_two_forms_of_a_number_cannot_be_two_customers(migrated: PostgresDatabase) -> None:
    with psycopg.connect(migrated.dsn) as connection:
        connection.execute("insert into customers (phone) values (%s)", [ANA])
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute("insert into customers (phone) values (%s)", [ANA_OLD])


# --- the seed ---------------------------------------------------------------------------------------------------------


async def test_the_seed_has_customers_with_facts_and_appointments_to_come_in_both_languages(
    database: PostgresDatabase,
) -> None:
    migrate(database.dsn, (SEED,))
    known: list[dict[str, Any]] = [
        await database.call("customer_context", {"p_phone": row["phone"]})
        for row in database.rows("select phone from customers")
    ]
    assert {context["customer"]["locale"] for context in known} == {"en", "pt-BR"}
    assert all(context["facts"] for context in known)
    assert sum(bool(context["next"]) for context in known) >= 4
    bruno = await database.call("customer_context", {"p_phone": "+5511999990002"})
    assert bruno["customer"]["phone"] == "+551199990002"


def test_the_seed_applied_again_moves_its_appointments_and_adds_nothing(database: PostgresDatabase) -> None:
    migrate(database.dsn, (SEED,))
    everything = (
        "select count(*) over (), (select count(*) from customers), (select count(*) from customer_facts), starts_at"
    )
    everything += " from appointments order by id"
    first = database.rows(everything)
    database.rows(
        "update appointments set starts_at = starts_at - interval '9 days', ends_at = ends_at - interval '9 days'"
    )
    migrate(database.dsn, (SEED,))
    assert database.rows(everything) == first


def test_the_seed_applied_again_leaves_what_others_booked_and_moves_the_rest(database: PostgresDatabase) -> None:
    migrate(database.dsn, (SEED,))
    seeded = "select request_key, starts_at from appointments where request_key is not null order by 1"
    first = database.rows(seeded)
    earlier = "update appointments set starts_at = starts_at - interval '9 days', ends_at = ends_at - interval '9 days'"
    database.rows(earlier)
    database.rows(
        "insert into appointments (customer_id, starts_at, ends_at) select min(id), %s, %s from customers",
        first[0]["starts_at"] - timedelta(minutes=10), first[0]["starts_at"] + timedelta(minutes=10),
    )  # fmt: skip
    migrate(database.dsn, (SEED,))
    again = database.rows(seeded)
    assert again[1:] == first[1:]
    assert again[0]["starts_at"] == first[0]["starts_at"] - timedelta(days=9)
