"""Plays the first moments of a call before there is one, so that a real one runs on warm code.

The first run of Python code is its slowest: the interpreter has not specialised it, and in a fork every page it touches is
copied. The greeting path runs once in a call; without a rehearsal that one time costs 1.1 ms of CPU.
A room of its own because nothing here may be mistaken for the path itself: it only calls it.
"""

import asyncio
import socket
from typing import Final

from websockets.protocol import CLIENT, SERVER, State
from websockets.protocol import Protocol as WebSocket

from shared.agents import Agent
from shared.calls import CallSid, IncomingCall, StreamSid, TraceId
from shared.framing import TO_WORKER, encode
from shared.messages import Beat, Bind, EndStored, FirstMedia, Observed, Prepare, Started
from shared.metrics import Timing
from shared.workers import Resource
from worker.call.greeting import Recording, burst
from worker.call.media import Codec, clear_message, mark_message
from worker.call.stream import open_stream

TIMES: Final = 20
"""The interpreter specialises code after 8 runs or so."""

WAIT_S: Final = 2.0

_SID: Final = "MZ00000000000000000000000000000000"
_CALL: Final = IncomingCall(call_sid=CallSid("CA0"), caller="+10000000", called="+10000001", trace_id=TraceId("0" * 32))
_LINES: Final = (
    b'{"event":"connected","protocol":"Call","version":"1.0.0"}',
    b'{"event":"start","sequenceNumber":"1","start":{"accountSid":"AC0","streamSid":"%s","callSid":"CA0",'
    b'"tracks":["inbound"],"mediaFormat":{"encoding":"audio/x-mulaw","sampleRate":8000,"channels":1},'
    b'"customParameters":{"caller":"+10000000"}},"streamSid":"%s"}' % (_SID.encode(), _SID.encode()),
    b'{"event":"media","sequenceNumber":"2","media":{"track":"inbound","chunk":"1","timestamp":"20","payload":"%s"},'
    b'"streamSid":"%s"}' % (b"f39/" * 53, _SID.encode()),
    b'{"event":"mark","sequenceNumber":"3","streamSid":"%s","mark":{"name":"0:1"}}' % _SID.encode(),
)


def rehearse_words(greeting: Recording | None) -> None:
    """Run what needs no event loop: codec, greeting, framing, messages. For the zygote; leaves nothing behind."""
    agent = Agent()
    orders = [
        encode(Prepare(call=_CALL, agent=agent, reserved_at=0.0)),
        encode(Bind(call=_CALL, agent=agent, accepted_at=0.0, reserved_at=0.0)),
        encode(EndStored()),
    ]
    for _ in range(TIMES):
        codec, ws = Codec(), WebSocket(SERVER, state=State.OPEN)
        for line in _LINES:
            codec.read(line)
        media = [] if greeting is None else burst(greeting, _SID)[0]
        for text in (*media, mark_message(_SID, "0:1"), clear_message(_SID)):
            ws.send_text(text.encode())
        ws.data_to_send()
        for order in orders:
            TO_WORKER(order)
        for report in (
            Started(stream_sid=StreamSid(_SID)),
            FirstMedia(at=0.0),
            Observed(timing=Timing.GREETING_START, seconds=0.001),
            Beat(warm=dict.fromkeys(Resource, True), lag_s=0.0),
        ):
            encode(report)


class _Listener:
    """Counts what arrives."""

    def __init__(self) -> None:
        self.heard = asyncio.Event()

    def text(self, data: bytes) -> None:
        if data == _LINES[-1]:
            self.heard.set()

    def binary(self) -> None: ...

    def oversize(self) -> None: ...

    def ended(self, code: int | None) -> None: ...


async def rehearse_stream(greeting: Recording | None) -> None:
    """Open a stream on a socket pair, read a call's first messages from it and write a greeting to it."""
    ours, theirs = socket.socketpair()
    with theirs:
        listener = _Listener()
        stream = await open_stream(ours, listener)
        peer = WebSocket(CLIENT, state=State.OPEN)
        for line in _LINES:
            peer.send_text(line)
        theirs.sendall(b"".join(peer.data_to_send()))
        async with asyncio.timeout(WAIT_S):
            await listener.heard.wait()
        if greeting is not None:
            stream.send(*burst(greeting, _SID)[0])
    async with asyncio.timeout(WAIT_S):
        await stream.done
