"""What the threads that send messages and note their fate have ready: clients of Twilio, Supabase and Redis."""

import socket
import ssl
from collections.abc import Callable
from typing import Final

import httpx

from shared import redis_door
from shared.letters import QUEUE, STATUS_QUEUE, State
from shared.settings import Settings
from worker.jobs.attempts import Attempts
from worker.jobs.lookup import CustomerLookup
from worker.jobs.twilio_client import WhatsApp
from worker.jobs.whatsapp import CONTEXT, Context
from worker.prefetcher_report import MessageTried, line

THREADS: Final = (QUEUE, QUEUE, STATUS_QUEUE)
"""Two that send: a Twilio that does not answer holds one for five seconds."""


class Messages:
    """What all message threads of the process share."""

    def __init__(self, conf: Settings, parent: socket.socket) -> None:
        self._conf = conf
        self._parent = parent
        self._tls: ssl.SSLContext = httpx.create_ssl_context()

    def prepare(self) -> Callable[[], None]:
        """Set up the calling thread with clients of its own; there is nothing to keep warm."""
        conf = self._conf
        database = None
        if conf.supabase_url:
            key = conf.supabase_secret_key.get_secret_value()
            database = CustomerLookup(conf.supabase_url, key, conf.prefetch_timeout, self._tls).call
        token = conf.twilio_auth_token.get_secret_value()
        whatsapp = WhatsApp(conf.twilio_account_sid, token, conf.twilio_api_base_url, conf.whatsapp_from)
        attempts = Attempts(redis_door.sync_commands(conf.redis_url))
        template = conf.whatsapp_template_sid
        CONTEXT.set(Context(whatsapp, attempts, database, conf.public_base_url, template, self.observe))
        return lambda: None

    def observe(self, outcome: State) -> None:
        """Tell the parent; an observation is dropped rather than a message delayed by a parent that does not read."""
        try:
            self._parent.send(line(MessageTried(outcome)), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            return
