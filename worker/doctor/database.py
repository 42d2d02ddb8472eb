"""Supabase: whether it answers, and has the functions of the migrations.

Functions are looked for with a GET: PostgREST runs it in a transaction that can only read, so that nothing is written whatever
a function does. One that is there answers, or is refused what it wants to write; one that is not is PGRST202.

Source: docs.postgrest.org, "Functions as RPC" (GET), "Errors" (PGRST202; 25006 is a 405).
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from http import HTTPStatus
from typing import Final

import httpx

from worker.dataapi import CONTEXT_FUNCTION, NOBODY
from worker.doctor.case import Case, Stopwatch
from worker.doctor.findings import Finding, bad, good, not_tried, timed
from worker.doctor.trouble import Refused, Service, trouble
from worker.doctor.wire import words_of

NO_SUCH_FUNCTION: Final = "PGRST202"
MIGRATIONS: Final = "apply deploy/supabase/migrations, all of them (supabase db push)"

FUNCTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "create_customer": ("p_key", "p_phone"),
    "update_customer_status": ("p_key", "p_phone", "p_status"),
    "add_customer_fact": ("p_key", "p_phone", "p_fact", "p_value"),
    "busy_between": ("p_calendar", "p_from", "p_to"),
    "book_appointment": ("p_key", "p_phone", "p_calendar", "p_starts_at", "p_ends_at"),
    "cancel_appointment": ("p_key", "p_phone"),
    "reschedule_appointment": ("p_key", "p_phone", "p_id", "p_old_starts_at", "p_starts_at"),
    "log_message": ("p_key", "p_phone", "p_call_sid", "p_channel", "p_direction", "p_body"),
    "message_status": ("p_provider_sid", "p_status"),
    "message_of": ("p_key",),
    "store_call": ("p_call",),
    "recording_deleted": ("p_call_sid",),
    "calls_of_caller": ("p_phone",),
    "forget_caller": ("p_phone",),
}
"""What tools, records and messages ask for, with the arguments each must have."""

AT_ONCE: Final = 4
TIMEOUT_S: Final = 5.0


async def supabase(case: Case) -> AsyncGenerator[Finding, None]:
    """Ask for a customer nobody is, then look for every other function."""
    conf = case.conf
    if not conf.supabase_url:
        yield not_tried("there is no SUPABASE_URL: the agent knows nobody, and has no tools that need a database")
        return
    service = Service("Supabase", "SUPABASE_SECRET_KEY", "SUPABASE_URL")
    key = conf.supabase_secret_key.get_secret_value()
    headers = {"apikey": key, "Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(
        base_url=f"{conf.supabase_url}/rest/v1/rpc/", headers=headers, verify=case.tls, timeout=TIMEOUT_S, http2=True
    ) as client:
        try:
            yield await _customer(client, conf.prefetch_timeout)
            missing = await _missing(client)
        except (httpx.HTTPError, OSError, Refused, ValueError) as error:
            yield trouble(service, error)
            return
    if missing:
        lost = "the tools, records and messages that need them fail"
        yield bad(f"functions are missing: {', '.join(missing)}: {lost}", MIGRATIONS)
    else:
        yield good(f"the other {len(FUNCTIONS)} functions of the migrations are there")


async def _customer(client: httpx.AsyncClient, within_s: float) -> Finding:
    watch = Stopwatch()
    answer = await client.post(CONTEXT_FUNCTION, json={"p_phone": NOBODY})
    connect_ms, watch = watch.ms, Stopwatch()
    if _is_missing(answer):
        return bad(f"the function {CONTEXT_FUNCTION} is missing: no caller is known", MIGRATIONS)
    if not answer.is_success:
        raise Refused(answer.status_code, words_of(answer.content))
    if answer.json() is not None:
        return bad(
            f"{CONTEXT_FUNCTION} knows somebody with the number {NOBODY}", "delete this customer: nobody can have it"
        )
    await client.post(CONTEXT_FUNCTION, json={"p_phone": NOBODY})
    said = f"{CONTEXT_FUNCTION} answers (the first time, with connecting, in {connect_ms:.0f} ms)"
    return timed(
        said, watch.ms, within_s * 1000 / 2, "put it into a nearer region; PREFETCH_TIMEOUT is what a caller waits"
    )


async def _missing(client: httpx.AsyncClient) -> list[str]:
    room = asyncio.Semaphore(AT_ONCE)

    async def look(name: str, arguments: tuple[str, ...]) -> bool:
        async with room:
            answer = await client.get(name, params=dict.fromkeys(arguments, ""))
        if answer.status_code == HTTPStatus.UNAUTHORIZED:
            raise Refused(answer.status_code, words_of(answer.content))
        return _is_missing(answer)

    found = await asyncio.gather(*(look(name, arguments) for name, arguments in FUNCTIONS.items()))
    return [name for name, missing in zip(FUNCTIONS, found, strict=True) if missing]


def _is_missing(answer: httpx.Response) -> bool:
    return answer.status_code == HTTPStatus.NOT_FOUND and NO_SUCH_FUNCTION in answer.text
