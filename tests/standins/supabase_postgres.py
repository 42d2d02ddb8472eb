"""What the Supabase stand-in does with a real PostgreSQL: runs its functions, and answers errors as PostgREST does."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import psycopg

from tests.postgres import SERVICE, NoSuchFunction, run_function
from tests.standins.supabase_tables import PostgrestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PUBLISHABLE: Final = "sb_publishable_"

STATUS: Final[tuple[tuple[str, int], ...]] = (
    ("23503", 409),
    ("23505", 409),
    ("25006", 405),
    ("42883", 404),
    ("42P01", 404),
    ("42501", 403),
    ("P0001", 400),
    ("08", 503),
    ("53", 503),
    ("0L", 403),
    ("0P", 403),
    ("28", 403),
    *(
        (prefix, 500)
        for prefix in ("09", "25", "2D", "38", "39", "3B", "40", "54", "55", "57", "58", "F0", "HV", "P0", "XX")
    ),
)
"""Source: docs.postgrest.org, "Errors", "HTTP Status Codes"; 400 for any other."""


async def run(dsn: str, function: str, arguments: Any, api_key: str, *, read_only: bool = False) -> Any:
    """Call a function as the role of the key and give its document.

    Raises:
        PostgrestError: what PostgREST would answer.
    """
    if not isinstance(arguments, dict):
        raise PostgrestError(404, "PGRST202", f"Could not find the function public.{function} without parameters")
    try:
        role = "anon" if api_key.startswith(PUBLISHABLE) else SERVICE
        return await run_function(dsn, function, arguments, role, read_only=read_only)
    except NoSuchFunction as error:
        raise PostgrestError(404, "PGRST202", str(error)) from None
    except psycopg.Error as error:
        raise answer_to(error) from None


def answer_to(error: psycopg.Error) -> PostgrestError:
    """Say what PostgREST answers when the database says this; without a code the connection was lost."""
    code = error.sqlstate
    if code is None:
        return PostgrestError(503, "PGRST001", "Database client error. Retrying the connection.")
    status = next((status for prefix, status in STATUS if code.startswith(prefix)), 400)
    return PostgrestError(status, code, error.diag.message_primary or "", error.diag.message_detail)


def load(dsn: str, customers: Sequence[Mapping[str, Any]]) -> None:
    """Replace all rows by customers with `facts` and `appointments`; one without an end takes half an hour.

    Raises:
        ValueError: a row cannot be stored.
    """
    try:
        with psycopg.connect(dsn) as connection:
            connection.execute("truncate customers, tool_requests, message_log, calls cascade")
            for customer in customers:
                row = {key: value for key, value in customer.items() if key not in {"facts", "appointments"}}
                id_ = _insert(connection, "customers", row)
                for key, value in customer.get("facts", {}).items():
                    _insert(connection, "customer_facts", {"customer_id": id_, "key": key, "value": value})
                for appointment in customer.get("appointments", []):
                    ends_at = datetime.fromisoformat(appointment["starts_at"]) + timedelta(minutes=30)
                    row = {"ends_at": ends_at.isoformat(), **appointment, "customer_id": id_}
                    _insert(connection, "appointments", row)
    except psycopg.Error as error:
        raise ValueError(f"customers: {error.diag.message_primary or error}") from None


def _insert(connection: psycopg.Connection[Any], table: str, row: Mapping[str, Any]) -> int:
    """Insert what a row has, converted as its columns want it, and give its id."""
    names = psycopg.sql.SQL(", ").join([psycopg.sql.Identifier(name) for name in row])
    query = psycopg.sql.SQL(
        "insert into {table} ({names}) select {names} from json_populate_record(null::{table}, %s) returning id"
    ).format(table=psycopg.sql.Identifier(table), names=names)
    found = connection.execute(query, [json.dumps(dict(row))]).fetchone()
    assert found is not None
    return int(found[0])
