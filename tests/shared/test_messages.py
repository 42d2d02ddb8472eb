"""The messages between processes: what is written can be read by the right peer and by no other."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import framing, messages, tool_messages
from shared.agents import Agent, McpServer
from shared.calls import CallSid, IncomingCall, TraceId
from shared.errors import StreamProtocolError
from shared.framing import FROM_POOL, FROM_ROUTER, FROM_WORKER, FROM_ZYGOTE, TO_WORKER, TO_ZYGOTE, encode
from shared.messages import Message
from shared.ticket import Ticket
from shared.workers import PoolId, Resource, WorkerId

CALL = IncomingCall(call_sid=CallSid("CA1"), caller="+15550001111", called="anonymous", trace_id=TraceId("0" * 32))
TICKET = Ticket(CallSid("CA1"), 0, PoolId("p"), "boot", WorkerId("0-1"), TraceId("0" * 32), 1_700_000_000)
ASKED = tool_messages.RunTool(
    request=1,
    tool="book",
    call_id="call_1",
    arguments={"day": None},
    call=CALL,
    agent=Agent(mcp=("crm",)),
    server="crm",
)
OFFER = tool_messages.OfferedTool(
    name="crm_find", description="Finds.", parameters={"type": "object"}, stage="full", timeout_s=3.0
)

SAMPLES = [
    (FROM_ROUTER, messages.Hello()),
    (FROM_ROUTER, messages.Reserve(request=1, call=CALL, ttl_s=30.0)),
    (FROM_ROUTER, messages.HandOff(ticket=TICKET, head=b"GET /\xff HTTP/1.1\r\n\r\n", accepted_at=1.5)),
    (FROM_ROUTER, messages.HandOff(ticket=TICKET, head=b"", accepted_at=1.5, call=CALL)),
    (FROM_ROUTER, messages.NoPrefetch(call_sid=CallSid("CA1"), why="redis")),
    (FROM_POOL, messages.Readiness(ready=1, warming=2, problems=(messages.Problem(resource="tts", detail="429"),))),
    (FROM_POOL, messages.NoWorker(request=1, why="draining")),
    (TO_ZYGOTE, messages.Fork(worker=WorkerId("0-1"))),
    (FROM_ZYGOTE, messages.Forked(worker=WorkerId("0-1"), pid=7)),
    (FROM_ZYGOTE, messages.WarmFailed(resource="vad", detail="gone", traceback="…")),
    (TO_WORKER, messages.Customer(outcome="found", record={"name": "Ana", "n": [1, None]})),
    (TO_WORKER, messages.EndStored()),
    (FROM_WORKER, messages.Beat(warm={Resource.TTS: True}, lag_s=0.0)),
    (FROM_WORKER, messages.WarmFailed(resource="tts", detail="refused", traceback="…")),
    (framing.TO_HOST, tool_messages.Attend(worker=WorkerId("0-1"))),
    (framing.TO_HOST, tool_messages.Serve(servers=(McpServer(name="crm", command="crm", env={"A": "b"}),))),
    (framing.FROM_HOST, tool_messages.HostUp()),
    (framing.FROM_HOST, tool_messages.ServerState(server="crm", tools=0, why="gone")),
    (framing.WORKER_TO_HOST, ASKED),
    (framing.WORKER_TO_HOST, tool_messages.DropTool(request=1)),
    (framing.HOST_TO_WORKER, tool_messages.HostHas(services=("database",), servers=("crm",))),
    (framing.HOST_TO_WORKER, tool_messages.Offered(server="crm", tools=(OFFER,), first=False)),
    (framing.HOST_TO_WORKER, tool_messages.ToolRan(request=1, result={"error": "no"}, answer=False)),
]
READERS = (
    *(FROM_ROUTER, FROM_POOL, TO_ZYGOTE, FROM_ZYGOTE, TO_WORKER, FROM_WORKER),
    *(framing.TO_HOST, framing.FROM_HOST, framing.WORKER_TO_HOST, framing.HOST_TO_WORKER),
)


@pytest.mark.parametrize(("reader", "message"), SAMPLES, ids=lambda value: type(value).__name__)
def test_what_a_peer_writes_the_other_reads(reader: framing.Reader, message: Message) -> None:
    assert reader(encode(message)) == message


def test_the_tag_is_the_class_name_in_lower_case() -> None:
    assert msgspec.json.decode(encode(messages.EndStored())) == {"type": "endstored"}


def test_a_message_of_another_peer_is_refused() -> None:
    with pytest.raises(StreamProtocolError):
        FROM_ROUTER(encode(messages.Fork(worker=WorkerId("0-1"))))


@given(st.binary(max_size=200))
def test_garbage_is_refused_by_every_reader(data: bytes) -> None:
    for reader in READERS:
        with pytest.raises(StreamProtocolError):
            reader(data)


def test_a_message_over_64_kib_is_never_sent() -> None:
    with pytest.raises(StreamProtocolError, match="Customer"):
        encode(messages.Customer(outcome="found", record={"text": "x" * framing.MAX_MESSAGE_BYTES}))


@given(st.text(max_size=500), st.floats(allow_nan=False, allow_infinity=False))
def test_any_text_survives_the_journal(text: str, at: float) -> None:
    entry = messages.Entry(kind="user", text=text, at=at)
    assert FROM_WORKER(encode(entry)) == entry
