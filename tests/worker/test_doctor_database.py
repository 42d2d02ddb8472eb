"""The doctor and Supabase: the key, and whether the functions of the migrations are there. Nothing is written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.doctoring import case_of, found, only, words
from tests.standins import process as standins
from worker.dataapi import CONTEXT_FUNCTION
from worker.doctor import database as doctor
from worker.doctor.findings import State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.postgres import PostgresDatabase
    from tests.standins.process import Standin
    from worker.doctor.case import Case

ROOT = Path(__file__).resolve().parents[2]
SQL = "\n".join(path.read_text() for path in sorted((ROOT / "deploy/supabase/migrations").glob("*.sql")))
KEY = "sb_secret_stand_in"


@pytest.fixture
def supabase(database: PostgresDatabase) -> Iterator[Standin]:
    """Give the data API of a real PostgreSQL with all migrations."""
    with standins.started("supabase_api", postgres=database.dsn) as made:
        yield made


def case(supabase: Standin, **settings: Any) -> Case:
    return case_of(**{"supabase_url": supabase.url, "supabase_secret_key": KEY} | settings)


async def test_a_database_with_all_migrations_is_well_and_nothing_is_written(
    supabase: Standin, database: PostgresDatabase
) -> None:
    findings = await found(doctor.supabase, case(supabase))
    assert all(finding.state in {State.OK, State.WARNING} for finding in findings), list(map(words, findings))
    assert f"the other {len(doctor.FUNCTIONS)} functions" in findings[1].said
    for table in ("customers", "calls", "message_log", "tool_requests", "appointments"):
        assert database.rows(f"select * from {table}") == []  # noqa: S608 - names of ours


async def test_functions_that_are_missing_are_named(supabase: Standin, database: PostgresDatabase) -> None:
    database.rows("drop function store_call(jsonb, jsonb)")
    database.rows("drop function message_of(text)")
    finding = (await found(doctor.supabase, case(supabase)))[1]
    assert finding.state is State.FAILED
    assert "message_of, store_call:" in finding.said
    assert "migrations" in finding.remedy


async def test_the_function_every_call_needs_is_missed_by_name(supabase: Standin, database: PostgresDatabase) -> None:
    database.rows("drop function customer_context(text)")
    finding = (await found(doctor.supabase, case(supabase)))[0]
    assert finding.state is State.FAILED
    assert CONTEXT_FUNCTION in finding.said
    assert "migrations" in finding.remedy


async def test_a_wrong_key_is_named_by_its_setting_and_never_shown(supabase: Standin) -> None:
    await supabase.control(api_key="sb_secret_of_somebody_else")
    finding = await only(doctor.supabase, case(supabase))
    assert finding.state is State.FAILED
    assert "SUPABASE_SECRET_KEY" in finding.remedy
    assert KEY not in words(finding)


async def test_a_publishable_key_may_not_ask_and_is_no_secret_key(supabase: Standin) -> None:
    finding = await only(doctor.supabase, case(supabase, supabase_secret_key="sb_publishable_stand_in"))
    assert finding.state is State.FAILED
    assert "SUPABASE_SECRET_KEY" in finding.remedy


async def test_an_address_where_nobody_listens_is_named_by_its_setting(supabase: Standin) -> None:
    finding = await only(doctor.supabase, case(supabase, supabase_url="http://127.0.0.1:1"))
    assert "SUPABASE_URL" in finding.remedy


async def test_something_else_at_the_address_is_said_to_be_no_supabase(supabase: Standin) -> None:
    await supabase.control(garbage=True)
    assert (await only(doctor.supabase, case(supabase))).state is State.FAILED


async def test_without_a_database_nothing_is_asked() -> None:
    assert (await only(doctor.supabase, case_of())).state is State.NOT_TRIED


def test_the_functions_looked_for_are_those_the_migrations_give_to_the_service() -> None:
    granted = set(re.findall(r"^create (?:or replace )?function (\w+)\(", SQL, re.MULTILINE))
    asking = "".join(path.read_text() for path in (ROOT / "worker").rglob("*.py") if "doctor" not in path.parts)
    used = {name for name in granted if f'"{name}"' in asking}
    assert used == {*doctor.FUNCTIONS, CONTEXT_FUNCTION}


@pytest.mark.parametrize("name", doctor.FUNCTIONS)
def test_the_arguments_are_those_without_a_default(name: str) -> None:
    [written] = re.findall(rf"^create function {name}\(([^)]*)\)", SQL, re.MULTILINE)
    each = [argument.split() for argument in written.split(",")]
    assert doctor.FUNCTIONS[name] == tuple(words[0] for words in each if "default" not in words)
