"""The tables behind the Supabase stand-in, and what PostgREST does with them for a few kinds of query. In memory.

Source: docs.postgrest.org, "Tables and Views", "Resource Embedding", "Errors"; the schema is deploy/supabase's.
"""

from __future__ import annotations

import copy
import json
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

Row = dict[str, Any]
Pairs = list[tuple[str, str]]

COLUMNS: dict[str, tuple[str, ...]] = {
    "customers": ("id", "phone", "name", "locale", "created_at", "updated_at"),
    "customer_facts": ("id", "customer_id", "key", "value", "source", "updated_at"),
    "appointments": ("id", "customer_id", "starts_at", "ends_at", "status", "notes"),
    "message_log": (
        "id",
        "customer_id",
        "call_sid",
        "channel",
        "direction",
        "body",
        "provider_sid",
        "created_at",
    ),
}
UNIQUE: dict[str, tuple[tuple[str, ...], ...]] = {
    "customers": (("id",), ("phone",)),
    "customer_facts": (("id",), ("customer_id", "key")),
    "appointments": (("id",),),
    "message_log": (("id",), ("provider_sid",)),
}
NOT_FILTERS = {"select", "limit", "offset", "order", "on_conflict", "columns"}
EMBEDDED = re.compile(r"(\w+)\(")
NEXT_APPOINTMENTS = 3  # as in the SQL function
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}


class PostgrestError(Exception):
    """An error PostgREST answers with a status and a JSON body."""

    def __init__(self, status: int, code: str, message: str, details: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"code": code, "message": message, "details": details, "hint": None}


@dataclass(slots=True)
class Tables:
    """All rows. Times are ISO 8601 text, as JSON has them."""

    rows: dict[str, list[Row]] = field(default_factory=lambda: {name: [] for name in COLUMNS})
    last_id: int = 0

    def load_customers(self, customers: Iterable[Mapping[str, Any]]) -> None:
        """Replace everything; a customer has its columns and `facts` (an object) and `appointments` (rows).

        Raises:
            ValueError: a customer has no phone, or two have the same.
        """
        fresh = Tables()
        fresh._insert_customers(customers)
        self.rows, self.last_id = fresh.rows, fresh.last_id

    def add_customers(self, customers: Sequence[Mapping[str, Any]]) -> None:
        """Add customers as `load_customers` takes them; one whose phone is known takes the place of who was there.

        Raises:
            ValueError: a customer has no phone, or two of them have the same.
        """
        fresh = Tables(copy.deepcopy(self.rows), self.last_id)
        phones = {customer.get("phone") for customer in customers}
        gone = {row["id"] for row in fresh.rows["customers"] if row["phone"] in phones}
        for name, rows in fresh.rows.items():
            owner = "id" if name == "customers" else "customer_id"
            rows[:] = [row for row in rows if row[owner] not in gone]
        fresh._insert_customers(customers)
        self.rows, self.last_id = fresh.rows, fresh.last_id

    def _insert_customers(self, customers: Iterable[Mapping[str, Any]]) -> None:
        try:
            for customer in customers:
                columns = {key: value for key, value in customer.items() if key not in ("facts", "appointments")}
                id_ = self.insert("customers", columns)["id"]
                for key, value in customer.get("facts", {}).items():
                    self.insert("customer_facts", {"customer_id": id_, "key": key, "value": value})
                for appointment in customer.get("appointments", []):
                    self.insert("appointments", {**appointment, "customer_id": id_})
        except PostgrestError as error:
            raise ValueError(f"customers: {error}") from None

    def context(self, phone: object, now: datetime) -> Row | None:
        """Run the function `customer_context`: the one document a call needs, None for an unknown phone."""
        for customer in self.rows["customers"]:
            if customer["phone"] == phone:
                facts = {
                    row["key"]: row["value"]
                    for row in self.rows["customer_facts"]
                    if row["customer_id"] == customer["id"]
                }
                coming = sorted(
                    (
                        {"starts_at": row["starts_at"], "status": row["status"]}
                        for row in self.rows["appointments"]
                        if row["customer_id"] == customer["id"] and _time(row["starts_at"]) > now
                    ),
                    key=lambda row: _time(row["starts_at"]),
                )
                shown = {key: value for key, value in customer.items() if key != "created_at"}
                return {"customer": shown, "facts": facts, "next": coming[:NEXT_APPOINTMENTS]}
        return None

    def select(self, table: str, query: Pairs) -> tuple[list[Row], int]:
        """Return the rows asked for, with embedded children, and how many there are without the limit."""
        options = dict(query)
        rows = [copy.copy(row) for row in self._matching(table, query)]
        for term in reversed([term for term in options.get("order", "").split(",") if term]):
            column, _, direction = term.partition(".")
            rows.sort(key=lambda row: (row[column] is None, row[column]), reverse=direction.startswith("desc"))
        offset = int(options.get("offset", 0))
        page = rows[offset : offset + int(options["limit"])] if "limit" in options else rows[offset:]
        for child in EMBEDDED.findall(options.get("select", "")):
            for row in page:
                row[child] = [one for one in self._table(child) if one.get("customer_id") == row["id"]]
        return page, len(rows)

    def insert(self, table: str, values: Mapping[str, Any], on_conflict: str | None = None) -> Row:
        """Insert a row, or with `on_conflict` (columns) merge it into the one that is there."""
        rows = self._table(table)
        _check_columns(table, values)
        for columns in UNIQUE[table]:
            for row in rows:
                if all(values.get(column) is not None and row[column] == values[column] for column in columns):
                    if on_conflict is not None and set(on_conflict.split(",")) == set(columns):
                        row.update(values)
                        return row
                    raise PostgrestError(
                        409,
                        "23505",
                        f'duplicate key value violates unique constraint "{table}_{"_".join(columns)}_key"',
                        f"Key ({', '.join(columns)}) already exists.",
                    )
        if table == "customers" and not values.get("phone"):
            raise PostgrestError(400, "23502", 'null value in column "phone" violates not-null constraint')
        self.last_id += 1
        row = dict.fromkeys(COLUMNS[table]) | {"id": self.last_id} | _defaults(table) | dict(values)
        rows.append(row)
        return row

    def update(self, table: str, query: Pairs, values: Mapping[str, Any]) -> list[Row]:
        """Change the rows that match and return them."""
        _check_columns(table, values)
        rows = self._matching(table, query)
        for row in rows:
            row.update(values)
        return rows

    def _table(self, table: str) -> list[Row]:
        if table not in self.rows:
            raise PostgrestError(404, "PGRST205", f"Could not find the table 'public.{table}' in the schema cache")
        return self.rows[table]

    def _matching(self, table: str, query: Pairs) -> list[Row]:
        filters = [(column, text) for column, text in query if column not in NOT_FILTERS]
        rows = self._table(table)
        _check_columns(table, dict(filters))
        return [row for row in rows if all(_matches(row[column], text) for column, text in filters)]


def _defaults(table: str) -> Row:
    now = datetime.now(UTC).isoformat()
    defaults = {"locale": "pt-BR", "status": "booked", "created_at": now, "updated_at": now}
    return {key: value for key, value in defaults.items() if key in COLUMNS[table]}


def _check_columns(table: str, names: Iterable[str]) -> None:
    for name in names:
        if table in COLUMNS and name not in COLUMNS[table]:
            raise PostgrestError(400, "42703", f"column {table}.{name} does not exist")


def _matches(value: Any, text: str) -> bool:
    """Judge one filter as `eq.5` or `in.("a","b,c")`."""
    verb, _, operand = text.partition(".")
    match verb:
        case "not":
            return not _matches(value, operand)
        case "eq":
            return value is not None and _text(value) == operand
        case "neq":
            return value is not None and _text(value) != operand
        case "is":
            return value is {"null": None, "true": True, "false": False}.get(operand, ...)
        case "in":
            items = json.loads("[" + re.sub(r'("(?:[^"\\]|\\.)*")|([^,"]+)', _quoted, operand.strip("()")) + "]")
            return value is not None and _text(value) in items
        case "gt" | "gte" | "lt" | "lte":
            return value is not None and COMPARE[verb](value, type(value)(operand))
    raise PostgrestError(400, "PGRST100", f'"failed to parse filter ({text})" (line 1, column 1)')


def _quoted(match: re.Match[str]) -> str:
    return match.group(1) or json.dumps(match.group(2))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _time(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)
