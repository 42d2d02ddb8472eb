"""A stand-in for Supabase's data API: the function `customer_context` and the four tables behind it, in memory.

    python -m tests.standins.supabase_api --port 0 --data customers.json --latency-ms 40
    python -m tests.standins.supabase_api --port 0 --postgres "host=/run/postgresql dbname=offhook"

With `--postgres`, every function of the migrations runs on that database, as PostgREST would run it; then there are no tables
to be asked for. The data file and, in `POST /_control`, `customers` (in place of all there are) and `add_customers` hold a list:
`{"phone": "+5511...", "name": ..., "facts": {key: value}, "appointments": [{"starts_at": ..., "status": ...}]}`.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.standins.control import Control, parser, serve, settings_from
from tests.standins.supabase_tables import PostgrestError, Row, Tables

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from starlette.requests import Request

SINGLE_OBJECT = "application/vnd.pgrst.object+json"


@dataclass(frozen=True, slots=True)
class SupabaseSettings:
    """Latency in ms and faults; 0 means none."""

    api_key: str = ""  # the only one accepted; empty accepts any, but one must be there
    latency_ms: float = 0.0
    fail_status: int = 0  # answer requests with this HTTP status
    stall: bool = False  # take requests, never answer
    garbage: bool = False  # answer with something that is not JSON, with fail_status or 200
    wrong_shape: bool = False  # answer with JSON of another shape than was asked for


class DataApi:
    """The tables and their HTTP face."""

    def __init__(self, settings: SupabaseSettings, dsn: str = "") -> None:
        self.control = Control(settings, actions={"customers": self.load, "add_customers": self.add})
        self.tables = Tables()
        self.dsn = dsn

    def load(self, customers: Any) -> None:
        """Replace all data. Raises ValueError."""
        listed = _listed(customers)
        if self.dsn:
            from tests.standins.supabase_postgres import load  # psycopg takes 0.2 s to import

            load(self.dsn, listed)
        else:
            self.tables.load_customers(listed)

    def add(self, customers: Any) -> None:
        """Add customers to those in memory. Raises ValueError."""
        if self.dsn:
            raise ValueError("add_customers: only in memory")
        self.tables.add_customers(_listed(customers))

    async def rpc(self, request: Request) -> Response:
        """Call a function: arguments from the body of a POST, or from the query of a GET."""
        name = request.path_params["name"]
        arguments = await _body(request) if request.method == "POST" else dict(request.query_params)
        if self.dsn:
            from tests.standins.supabase_postgres import run

            read_only = request.method == "GET"
            return JSONResponse(await run(self.dsn, name, arguments, request.headers["apikey"], read_only=read_only))
        if name != "customer_context":
            raise PostgrestError(404, "PGRST202", f"Could not find the function public.{name} in the schema cache")
        if not isinstance(arguments, dict) or set(arguments) != {"p_phone"}:
            raise PostgrestError(404, "PGRST202", f"Could not find the function public.{name} with these parameters")
        return JSONResponse(self.tables.context(arguments["p_phone"], datetime.now(UTC)))

    async def table(self, request: Request) -> Response:
        """Select, insert, upsert or update rows of a table."""
        name, query = request.path_params["name"], request.query_params.multi_items()
        if self.dsn:
            raise PostgrestError(404, "PGRST205", "this stand-in shows no tables of its PostgreSQL")
        prefer = request.headers.get("prefer", "")
        status = 200
        count = None
        match request.method:
            case "POST":
                values = await _body(request)
                merge = request.query_params.get("on_conflict", "id") if "merge-duplicates" in prefer else None
                rows = [
                    self.tables.insert(name, row, merge) for row in (values if isinstance(values, list) else [values])
                ]
                status = 201
            case "PATCH":
                rows = self.tables.update(name, query, await _body(request))
            case _:
                rows, count = self.tables.select(name, query)
        if request.method != "GET" and "return=representation" not in prefer:
            return Response(status_code=201 if request.method == "POST" else 204)
        span = f"0-{len(rows) - 1}" if rows else "*"
        headers = {"content-range": f"{span}/{count if 'count=exact' in prefer and count is not None else '*'}"}
        return _rows(request, rows, status, headers)

    def guarded(
        self, endpoint: Callable[[Request], Coroutine[Any, Any, Response]]
    ) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Put the key, the log, the latency and the faults in front of an endpoint."""

        async def guarded(request: Request) -> Response:
            settings = self.control.settings
            self.control.counters["requests"] += 1
            self.control.note(
                "request",
                method=request.method,
                path=request.url.path,
                query=request.query_params.multi_items(),
                body=(await request.body()).decode(errors="replace"),
                prefer=request.headers.get("prefer"),
                retry=request.headers.get("x-retry-count"),
                connection=request.state.connection,
            )
            key = request.headers.get("apikey")
            if not key or (settings.api_key and key != settings.api_key):
                message = "Invalid API key" if key else "No API key found in request"
                return JSONResponse({"message": message, "hint": "Double check the `apikey` header."}, 401)
            await asyncio.sleep(settings.latency_ms / 1000)
            if settings.stall:
                while (await request.receive())["type"] != "http.disconnect":
                    pass
                return Response(status_code=499)  # nobody is there to read it
            if settings.garbage:
                return Response("<html>Bad Gateway</html>", settings.fail_status or 200, media_type="text/html")
            if settings.wrong_shape:
                return JSONResponse([["surprise"], 7])
            if settings.fail_status:
                return _error(PostgrestError(settings.fail_status, "PGRST000", "made to fail"))
            try:
                return await endpoint(request)
            except PostgrestError as error:
                return _error(error)

        return guarded


def _listed(customers: Any) -> list[dict[str, Any]]:
    try:
        return msgspec.convert(customers, list[dict[str, Any]])
    except msgspec.ValidationError as error:
        raise ValueError(f"customers: {error}") from None


async def _body(request: Request) -> Any:
    try:
        return json.loads(await request.body())
    except ValueError:
        raise PostgrestError(400, "PGRST102", "Empty or invalid json") from None


def _error(error: PostgrestError) -> JSONResponse:
    return JSONResponse(error.body, error.status)


def _rows(request: Request, rows: list[Row], status: int, headers: dict[str, str]) -> JSONResponse:
    """Answer with a list, or with the one object the client insists on."""
    if SINGLE_OBJECT not in request.headers.get("accept", ""):
        return JSONResponse(rows, status, headers)
    if len(rows) != 1:
        message = "Cannot coerce the result to a single JSON object"
        raise PostgrestError(406, "PGRST116", message, f"The result contains {len(rows)} rows")
    return JSONResponse(rows[0], status, headers)


def application(settings: SupabaseSettings, customers: Any = (), dsn: str = "") -> Starlette:
    """Build the ASGI application; `dsn` is the PostgreSQL whose functions it runs, if any."""
    api = DataApi(settings, dsn)
    if customers or not dsn:
        api.load(customers)
    return Starlette(
        routes=[
            api.control.route(),
            Route("/rest/v1/rpc/{name}", api.guarded(api.rpc), methods=["GET", "POST"]),
            Route("/rest/v1/{name}", api.guarded(api.table), methods=["GET", "POST", "PATCH"]),
        ]
    )


def main() -> None:
    """Run the stand-in."""
    arguments = parser("supabase_api", "the Supabase data API", SupabaseSettings)
    arguments.add_argument("--data", type=Path, help="JSON file with a list of customers")
    arguments.add_argument("--postgres", default="", help="address of a PostgreSQL with the migrations applied")
    options = arguments.parse_args()
    customers = json.loads(options.data.read_text(encoding="utf-8")) if options.data else []
    serve("supabase_api", application(settings_from(options, SupabaseSettings), customers, options.postgres), options)


if __name__ == "__main__":
    main()
