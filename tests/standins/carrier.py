"""The Twilio carrier stand-in: places calls to the system under test and judges them from the caller's side.

In-process: `async with Carrier(settings) as carrier: call = await carrier.dial()`. As its own process, with a REST API
for the vendor's client and `/_control`: `python -m tests.standins.carrier --port 0 --target URL ...`.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from tests.standins import carrier_run
from tests.standins.carrier_call import NO_FAULTS, Call, Dialling
from tests.standins.carrier_requests import Post, absolute, request
from tests.standins.carrier_settings import CallFailed, CallFaults, CarrierSettings
from tests.standins.carrier_sign import Sign, call_parameters, new_sid
from tests.standins.carrier_verbs import upgrade_status
from tests.standins.carrier_wheel import Wheel

if TYPE_CHECKING:
    from types import TracebackType

    from tests.standins.carrier_http import Answer
    from tests.standins.carrier_record import CallRecord

__all__ = ["CallFailed", "CallFaults", "Carrier", "CarrierSettings", "Dialling"]

CALLER = "+5511999990000"
CALLED = "+15550001111"


class Carrier:
    """Places calls. Leaving the context hangs up what is still going on and waits for it."""

    def __init__(self, settings: CarrierSettings) -> None:
        self.settings = settings  # may be replaced; calls keep what they began with
        self.calls: dict[str, Call] = {}
        self._wheel = Wheel()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def dial(
        self,
        from_: str = CALLER,
        to: str = CALLED,
        *,
        call_sid: str | None = None,
        sign: Sign = "valid",
        faults: CallFaults = NO_FAULTS,
    ) -> Call:
        """Place an inbound call; returns when the webhook was sent and answered, well or badly, or the call is over.

        The call goes on in a task of its own. Nothing is raised for a refusal: `ended()` tells.
        """
        call = self.place(Dialling(call_sid or new_sid("CA"), from_, to, sign=sign, faults=faults))
        await call.webhook_done()
        return call

    def place(self, dialling: Dialling) -> Call:
        """Begin a call of any kind and return at once."""
        call = Call(self.settings, dialling, self._wheel)
        self.calls[call.call_sid] = call
        task = asyncio.get_running_loop().create_task(carrier_run.run(call), name=f"call {call.call_sid}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return call

    async def webhook(
        self, params: dict[str, str] | None = None, *, path: str = "", method: str = "", sign: Sign = "valid"
    ) -> Answer:
        """Send one webhook outside of any call: forged, incomplete or strange ones. Nothing is followed.

        `params` default to those of a new ringing call. Raises `ConnectFailed` or `RequestBroken`.
        """
        if params is None:
            params = call_parameters(self.settings.account_sid, new_sid("CA"), CALLER, CALLED, "inbound")
            params["CallStatus"] = "ringing"
        url = absolute(self.settings, path or self.settings.webhook_path)
        return await request(self.settings, Post(url, params, method or self.settings.method, sign))

    async def repeat_webhook(self, call: Call, *, same_token: bool = True) -> Answer:
        """Send the first webhook of `call` again, with the idempotency token it had or a new one."""
        done = next(exchange for exchange in call.exchanges if exchange.purpose == "incoming")
        post = Post(done.url, done.parameters, call.dialling.method or self.settings.method)
        return await request(self.settings, replace(post, idempotency_token=done.token) if same_token else post)

    async def upgrade_status(self, url: str, sign: Sign = "valid") -> int:
        """Dial a stream URL outside of any call; the HTTP status of the answer, 0 for none."""
        return await upgrade_status(self.settings, url, sign)

    async def hangup_all(self, timeout_s: float = 30.0) -> list[CallRecord]:
        """Hang up every call and return the records of all calls placed so far."""
        for call in self.calls.values():
            await call.hangup()
        return [await call.ended(timeout_s) for call in self.calls.values()]

    async def close(self) -> None:
        """Hang up and wait for every call; a call that does not end is cancelled."""
        for call in self.calls.values():
            await call.hangup()
        if self._tasks:
            _, stuck = await asyncio.wait(set(self._tasks), timeout=self.settings.webhook_timeout_s * 2)
            for task in stuck:
                task.cancel()
            await asyncio.gather(*stuck, return_exceptions=True)


if __name__ == "__main__":
    from tests.standins.carrier_process import main

    main()
