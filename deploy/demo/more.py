"""Further calls: to the demo that is being served here, or to a deployment that is reached by its URL.

What a deployment's callers must know (token, public address, where its database is) says the command line, else the settings
of this process, which may be the file that the stand-ins wrote (SETTINGS_FILE).
"""

import argparse
import asyncio
import sys
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace
from typing import Final
from urllib.parse import urlsplit

from deploy.demo import customers
from deploy.demo.calls import Told, call_each, check
from deploy.demo.ear import Ear, Hearing, Nobody, Tones
from deploy.demo.scene import LOGS, Site, load_site
from deploy.demo.show import BY_CARRIER, ROWS, table, transcript
from deploy.demo.trouble import Trouble
from shared import settings
from shared.errors import SettingsError
from shared.processes import Process

MOST_CALLS: Final = 100


async def more_calls(options: argparse.Namespace) -> None:
    """Place the calls, print what was heard and how long it took.

    Raises:
        Trouble: they could not be placed, or one was not a conversation; what went wrong with others stands on stderr.
    """
    if not 1 <= options.calls <= MOST_CALLS:
        raise Trouble(f"--calls: {options.calls}", f"1 to {MOST_CALLS} can be placed")
    site = site_at(options.url, options.public_url, options.token) if options.url else load_site()
    numbers = customers.callers(options.calls)
    site = replace(site, codes=await _plant(site, numbers))
    names = {phone: f"call {index + 1}" if len(numbers) > 1 else "call" for index, phone in enumerate(numbers)}
    groups = [names] if options.at_once else [{phone: name} for phone, name in names.items()]
    told: list[Told] = []
    troubles: list[Trouble] = []
    async with _listening(options.judge, site) as ear:
        await ear.ready()
        print("calling", flush=True)
        for group in groups:
            for one in await call_each(site, group, ear):
                if isinstance(one, Trouble):
                    troubles.append(one)
                    continue
                told.append(one)
                print(transcript(one), flush=True)
                try:
                    if options.judge != "none":
                        check(one, site.see("pool"))
                except Trouble as trouble:
                    troubles.append(trouble)
    if told:
        print(f"\n{table(told, ROWS if site.logs else BY_CARRIER)}", flush=True)
    for other in troubles[:-1]:
        print(f"offhook: {other}", file=sys.stderr)
    if troubles:
        raise troubles[-1]


def site_at(url: str, public_url: str, token: str) -> Site:
    """Say how a deployment is called.

    Raises:
        Trouble: something is not known that must be.
    """
    if urlsplit(url).scheme != "http" or not urlsplit(url).hostname:
        raise Trouble(f"--url: {url}", "give where the router listens, without TLS: http://host:port")
    said = {name: value for name, value in (("public_base_url", public_url), ("twilio_auth_token", token)) if value}
    try:
        given = settings.load(Process.PREFETCHER, **said, whatsapp_from="")  # nothing is required, nothing withheld
    except SettingsError as error:
        raise Trouble(str(error).splitlines()[0], "set it right") from error
    secret = given.twilio_auth_token.get_secret_value()
    if not secret:
        raise Trouble("TWILIO_AUTH_TOKEN: missing", "give --token, or name the deployment's settings in SETTINGS_FILE")
    url = url.rstrip("/")
    return Site(url, "", {}, given.public_base_url or url, secret, given.supabase_url)


async def _plant(site: Site, numbers: list[str]) -> dict[str, str]:
    """Give each caller a record with words nobody else knows, where the database is a stand-in."""
    codes = customers.codes(numbers)
    if site.supabase_url:
        records = customers.planted(codes)
        if await asyncio.to_thread(customers.add, site.supabase_url, records):
            return codes
    print("no stand-in for Supabase: nothing is planted there, and what the agent knows of its callers is not checked")
    return {}


def _listening(judge: str, site: Site) -> AbstractAsyncContextManager[Hearing]:
    match judge:
        case "tones":
            return nullcontext(Tones())
        case "none":
            return nullcontext(Nobody())
        case _:
            return Ear(LOGS / "ear.log" if site.logs else None)
