import asyncio
import xml.etree.ElementTree as ET
from http import HTTPStatus
from pathlib import Path

import pytest

from router import cutoff, intake, serving, webhook
from shared.calls import CallSid, CallState, EndReason
from shared.errors import ReadinessUnavailable
from shared.messages import Problem
from shared.prefetch import AT_STREAM
from shared.ticket import Ticket
from shared.traces import Traces
from shared.workers import PoolId, WorkerId
from tests.fakes_pool import FakePool
from tests.router.harness import BASE, SID, Router, params_for, running, signature, until

STREAM_BASE = "wss://voice.example.test"


def tree(twiml: str) -> ET.Element:
    return ET.fromstring(twiml)  # noqa: S314 - our own words


def segment_in(twiml: str) -> str:
    """The ticket in an answer."""
    stream = tree(twiml).find("./Connect/Stream")
    assert stream is not None
    return stream.attrib["url"].removeprefix(f"{STREAM_BASE}/media/")


def verbs(twiml: str) -> list[str]:
    return [verb.tag for verb in tree(twiml)]


def ticket(**changes: object) -> Ticket:
    values: dict[str, object] = {
        "call_sid": SID, "attempt": 0, "pool": PoolId("p1"), "boot": "b1", "worker": WorkerId("0-1"),
        "trace_id": "0" * 32, "expires_at": 2**40,
    }  # fmt: skip
    return Ticket(**values | changes)  # type: ignore[arg-type]  # the values of a dict have no types of their own


async def ended(router: Router, segment: str, status: str = "in-progress", **changes: str) -> str:
    answer = await router.post(f"/call-ended/{segment}", params_for(CallStatus=status, **changes))
    assert answer.status == HTTPStatus.OK, answer
    return answer.text


# --- the webhook ----------------------------------------------------------------------------------------------------


async def test_a_signed_webhook_reserves_a_worker_and_connects_the_call_to_it(folder: Path) -> None:
    async with FakePool(folder).serving() as pool, running(folder) as router:
        answer = await router.post()
        assert answer.status == HTTPStatus.OK
        assert answer.headers["content-type"].startswith("text/xml")
        segment = segment_in(answer.text)
        assert router.office.open(segment).call_sid == SID
        connect = tree(answer.text).find("./Connect")
        assert connect is not None
        assert connect.attrib == {"action": f"{BASE}/call-ended/{segment}", "method": "POST"}
        parameters = {each.attrib["name"]: each.attrib["value"] for each in connect.iter("Parameter")}
        call = pool.reserved[0].call
        assert parameters == {"caller": "+5511999990000", "called": "+15005550006", "trace": call.trace_id}
        assert pool.reserved[0].ttl_s == 30.0
        assert [call] == router.queued
        assert router.metric("offhook_webhook_seconds_count", result="reserved") == 1
        assert router.metric("offhook_prefetch_enqueued_total", result="queued") == 1


async def test_a_webhook_by_get_is_signed_over_its_query(folder: Path) -> None:
    async with FakePool(folder).serving(), running(folder) as router:
        target = f"/incoming-call?CallSid={SID}&From=%2B5511999990000&To=%2B15005550006"
        answer = await router.get(target, x_twilio_signature=signature(BASE + target))
        assert verbs(answer.text) == ["Connect"]
        refused = await router.get(target + "&x=1", x_twilio_signature=signature(BASE + target))
        assert refused.status == HTTPStatus.FORBIDDEN


async def test_a_webhook_may_be_signed_with_sha256(folder: Path) -> None:
    async with FakePool(folder).serving(), running(folder) as router:
        signed = signature(f"{BASE}/incoming-call", params_for(), "HMAC_SHA256")
        named = "key=webhooks_sharedkey_1,algorithm=HMAC_SHA256"
        answer = await router.post(x_twilio_signature=signed, x_twilio_webhooks_signature_settings=named)
        assert answer.status == HTTPStatus.OK


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"x_twilio_signature": ""}, "signature_missing"),
        ({"x_twilio_signature": "bm90IHRoaXMgb25lLCBzb3JyeSE="}, "signature_wrong"),
        (
            {"x_twilio_signature": signature("https://other.example.test/incoming-call", params_for())},
            "signature_wrong",
        ),
        ({"x_twilio_webhooks_signature_settings": "key=k,algorithm=HMAC_MD5"}, "signature_algorithm"),
        ({"x_twilio_webhooks_signature_settings": "key=k,algorithm=HMAC_SHA256"}, "signature_wrong"),
    ],
)
async def test_a_webhook_that_twilio_did_not_sign_is_forbidden_and_reserves_nothing(
    folder: Path, headers: dict[str, str], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with FakePool(folder).serving() as pool, running(folder) as router:
        answer = await router.post(params=params_for(), **headers)
        assert answer.status == HTTPStatus.FORBIDDEN
        assert not pool.reserved
        assert not router.queued
        assert router.metric("offhook_requests_refused_total", route="incoming-call", reason=reason) == 1
        assert router.metric("offhook_webhook_seconds_count", result="forbidden") == 1
        for secret in headers.values():
            assert not secret or secret not in caplog.text


async def test_a_repeated_signature_header_is_forbidden(folder: Path) -> None:
    async with FakePool(folder).serving(), running(folder) as router:
        value = signature(f"{BASE}/incoming-call")
        answer = await router.send(
            f"POST /incoming-call HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n"
            f"x-twilio-signature: {value}\r\nx-twilio-signature: {value}\r\n\r\n".encode()
        )
        assert answer.status == HTTPStatus.FORBIDDEN
        assert router.metric("offhook_requests_refused_total", route="incoming-call", reason="signature_repeated") == 1


@pytest.mark.parametrize("sid", [None, "", "CA123", "XX" + "0" * 32, SID + "0", "CA" + "g" * 32])
async def test_a_webhook_without_a_call_sid_of_twilios_form_is_a_bad_request(folder: Path, sid: str | None) -> None:
    async with FakePool(folder).serving() as pool, running(folder) as router:
        answer = await router.post(params=params_for(CallSid=sid))
        assert answer.status == HTTPStatus.BAD_REQUEST
        assert not pool.reserved
        assert router.metric("offhook_webhook_seconds_count", result="bad_request") == 1


@pytest.mark.parametrize("caller", [None, "", "anonymous", "+266696687", "client:ana", "sip:ana@example.test;x=1"])
async def test_a_caller_may_be_any_word(folder: Path, caller: str | None) -> None:
    async with FakePool(folder).serving() as pool, running(folder) as router:
        answer = await router.post(params=params_for(From=caller))
        assert verbs(answer.text) == ["Connect"]
        assert pool.reserved[0].call.caller == (caller or "")


async def test_what_is_not_a_form_is_a_bad_request(folder: Path) -> None:
    async with running(folder) as router:
        headers = {"content-type": "application/json"}
        answer = await router.request("POST", "/incoming-call", headers=headers, body=b'{"CallSid": 1}')
        assert answer.status == HTTPStatus.BAD_REQUEST
        bodies = (b"CallSid=%ff%fe", b"\xff\xfe", b"&".join(b"a%d=1" % n for n in range(300)))
        for body in bodies:
            answer = await router.request("POST", "/incoming-call", body=body)
            assert answer.status == HTTPStatus.BAD_REQUEST, body[:20]


async def test_a_body_over_64_kib_is_refused_before_it_is_read(folder: Path) -> None:
    async with running(folder) as router:
        answer = await router.request("POST", "/incoming-call", body=b"a=" + b"x" * intake.MAX_BODY_BYTES)
        assert answer.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE


async def test_a_body_that_does_not_come_is_given_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "BODY_TIMEOUT_S", 0.05)
    async with running(folder) as router:
        answer = await router.send(b"POST /incoming-call HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\na=")
        assert answer.status == HTTPStatus.REQUEST_TIMEOUT


async def test_a_connection_that_never_finishes_its_head_is_closed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "HEAD_TIMEOUT_S", 0.05)
    async with running(folder) as router:
        for beginning in (b"", b"POST /incoming-call HTTP/1.1\r\nhost:"):
            assert (await router.send(beginning)).status == 0
        await until(lambda: not router.connections)


async def test_an_oversize_head_is_a_bad_request(folder: Path) -> None:
    async with running(folder) as router:
        answer = await router.send(b"GET /healthz HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 20_000)
        assert answer.status == HTTPStatus.BAD_REQUEST


async def test_a_webhook_is_answered_before_its_prefetch_is_queued(folder: Path) -> None:
    async with FakePool(folder).serving() as pool, running(folder) as router:
        router.state.queue_gate.clear()
        router.state.queue_works = False
        assert verbs((await router.post()).text) == ["Connect"]
        router.state.queue_gate.set()
        await until(lambda: bool(pool.no_prefetch))
        assert pool.no_prefetch[0].call_sid == SID
        assert router.metric("offhook_prefetch_enqueued_total", result="failed") == 1


async def test_a_router_that_does_not_prefetch_leaves_the_lookup_to_the_pool(folder: Path) -> None:
    async with FakePool(folder).serving() as pool, running(folder, parallel_context_prefetch=False) as router:
        assert verbs((await router.post()).text) == ["Connect"]
        await until(lambda: bool(pool.no_prefetch))
        assert (pool.no_prefetch[0].call_sid, pool.no_prefetch[0].why) == (SID, AT_STREAM)
        assert router.queued == []
        assert router.metric("offhook_prefetch_enqueued_total", result="failed") == 0


async def test_without_a_worker_and_without_a_line_the_caller_hears_an_apology(folder: Path) -> None:
    async with FakePool(folder, ready=0).serving() as pool, running(folder, hold_max=0) as router:
        answer = await router.post()
        assert verbs(answer.text) == ["Say", "Hangup"]
        assert len(pool.refused) == 1
        assert router.metric("offhook_webhook_seconds_count", result="no_worker") == 1


async def test_without_any_pool_the_apology_is_the_clip_when_there_is_one(folder: Path) -> None:
    async with running(folder, clips={"apology": b"RIFF"}, hold_max=0) as router:
        answer = await router.post()
        assert verbs(answer.text) == ["Play", "Hangup"]
        assert f"<Play>{BASE}/clips/apology.wav</Play>" in answer.text


# --- repeats --------------------------------------------------------------------------------------------------------


async def test_a_repeated_webhook_gets_the_same_bytes_and_no_second_worker(folder: Path) -> None:
    async with FakePool(folder).serving() as pool, running(folder) as router:
        first = await router.post(i_twilio_idempotency_token="t1")
        again = await router.post(i_twilio_idempotency_token="t1")
        without = await router.post()
        assert first.body == again.body == without.body
        assert len(pool.reserved) == len(router.queued) == 1
        assert router.metric("offhook_webhook_seconds_count", result="repeated") == 2


async def test_repeats_at_the_same_moment_share_one_answer(folder: Path) -> None:
    async with FakePool(folder).serving() as pool, running(folder) as router:
        answers = await asyncio.gather(*(router.post(i_twilio_idempotency_token="t1") for _ in range(8)))
        assert len({answer.body for answer in answers}) == 1
        assert len(pool.reserved) == len(router.queued) == 1


async def test_another_token_or_attempt_is_another_announcement(folder: Path) -> None:
    async with FakePool(folder).serving() as pool, running(folder) as router:
        await router.post(i_twilio_idempotency_token="t1")
        await router.post(i_twilio_idempotency_token="t2")
        await router.post("/incoming-call?attempt=1", i_twilio_idempotency_token="t3")
        assert [question.call.attempt for question in pool.reserved] == [0, 0, 1]


async def test_a_repeat_after_the_reservation_has_expired_is_a_new_one(folder: Path) -> None:
    async with FakePool(folder, expires_at=1).serving() as pool, running(folder) as router:
        await router.post()
        await router.post()
        assert len(pool.reserved) == 2


@pytest.mark.parametrize("attempt", ["-1", "10", "x", "%C2%B2", "1&attempt=2x"])
async def test_an_attempt_that_is_not_a_digit_is_a_bad_request(folder: Path, attempt: str) -> None:
    async with FakePool(folder).serving() as pool, running(folder) as router:
        answer = await router.post(f"/incoming-call?attempt={attempt}")
        assert answer.status == (HTTPStatus.OK if attempt.startswith("1&") else HTTPStatus.BAD_REQUEST)
        assert len(pool.reserved) == int(attempt.startswith("1&"))


# --- the end of a stream --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", [reason for reason in EndReason if reason is not EndReason.TRANSFERRED])
async def test_a_known_end_hangs_up_and_a_loss_of_ours_apologises(folder: Path, reason: EndReason) -> None:
    async with FakePool(folder, end=reason).serving() as pool, running(folder) as router:
        text = await ended(router, router.office.sign(ticket()))
        ours = reason in {EndReason.WORKER_LOST, EndReason.POISONED, EndReason.PROVIDER_LOST}
        assert verbs(text) == (["Say", "Hangup"] if ours else ["Hangup"])
        assert (pool.asked[0].call_sid, pool.asked[0].attempt) == (SID, 0)


async def test_an_end_nobody_knows_apologises(folder: Path) -> None:
    async with FakePool(folder, end_state=None).serving(), running(folder) as router:
        assert verbs(await ended(router, router.office.sign(ticket()))) == ["Say", "Hangup"]


async def test_an_end_the_pool_cannot_tell_any_more_is_looked_up(folder: Path) -> None:
    async with running(folder) as router:
        said = ticket(attempt=1)
        router.state.ends[said.call_sid, 1] = EndReason.AGENT_HANGUP
        assert verbs(await ended(router, router.office.sign(said))) == ["Hangup"]


async def test_a_pool_that_does_not_answer_and_a_redis_that_is_down_delay_the_apology_only_so_much(
    folder: Path,
) -> None:
    async with FakePool(folder, silent=True).serving(), running(folder) as router:
        router.state.end_error = ReadinessUnavailable("redis is down")
        assert verbs(await ended(router, router.office.sign(ticket()))) == ["Say", "Hangup"]


async def test_an_expired_ticket_still_asks_how_its_call_ended(folder: Path) -> None:
    async with FakePool(folder, end=EndReason.AGENT_HANGUP).serving(), running(folder) as router:
        assert verbs(await ended(router, router.office.sign(ticket(expires_at=1)))) == ["Hangup"]


@pytest.mark.parametrize("status", ["completed", "busy", "failed", "no-answer", "canceled"])
async def test_a_call_that_is_over_gets_an_empty_answer(folder: Path, status: str) -> None:
    async with FakePool(folder).serving() as pool, running(folder) as router:
        assert verbs(await ended(router, router.office.sign(ticket()), status)) == []
        assert not pool.asked


# --- a caller who asked for a person -----------------------------------------------------------------------------------

PERSON = "+15005550077"


@pytest.mark.parametrize("known_from", ["the pool, asked", "the pool, which told it", "Redis"])
async def test_a_transferred_caller_is_connected(
    folder: Path, known_from: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """To whom stands in no line of the log as a whole."""
    pool = FakePool(folder, dial=PERSON, end_state=None)
    async with pool.serving(), running(folder) as router:
        match known_from:
            case "the pool, asked":
                pool.end_state, pool.end = CallState.ENDED, EndReason.TRANSFERRED
            case "the pool, which told it":
                pool.ended(SID, 0, EndReason.TRANSFERRED)
                await until(lambda: bool(router.parts.door.pools._ends))
            case _:
                router.state.dial = PERSON
                router.state.ends[CallSid(SID), 0] = EndReason.TRANSFERRED
        answer = await ended(router, router.office.sign(ticket()))
        assert f'<Dial action="{BASE}/hold?dialled=transfer" method="POST">{PERSON}</Dial>' in answer
        assert router.metric("offhook_stream_ends_total", result="transfer") == 1
        for status, following in (("completed", ["Hangup"]), ("no-answer", ["Say", "Hangup"])):
            params = params_for(DialCallStatus=status, CallStatus="in-progress")
            assert verbs((await router.post("/hold?dialled=transfer", params)).text) == following
    assert PERSON not in capsys.readouterr().out


async def test_a_transfer_to_nobody_is_an_apology(folder: Path) -> None:
    pool = FakePool(folder, end=EndReason.TRANSFERRED)
    async with pool.serving(), running(folder) as router:
        assert verbs(await ended(router, router.office.sign(ticket()))) == ["Say", "Hangup"]


# --- a stream that was cut off --------------------------------------------------------------------------------------

LOST = Traces(journal=True)


def stream_of(twiml: str) -> str:
    """What the carrier is to do, as verbs; a stream is its own word."""
    return "Stream" if tree(twiml).find("./Connect/Stream") is not None else " ".join(verbs(twiml))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutoff, "SETTLE_S", 0.01)


@pytest.mark.usefixtures("quick")
async def test_a_call_that_was_cut_off_goes_on_with_another_pool(folder: Path) -> None:
    """As a new attempt of the same call, with its numbers and its trace."""
    async with FakePool(folder, end_state=None).serving() as pool, running(folder) as router:
        router.state.traces = [LOST]
        text = await ended(router, router.office.sign(ticket(pool="p0", trace_id="ab" * 16)))
        assert stream_of(text) == "Stream"
        [asked] = pool.reserved
        params = params_for()
        assert (asked.call.call_sid, asked.call.attempt, asked.call.trace_id) == (SID, 1, "ab" * 16)
        assert (asked.call.caller, asked.call.called) == (params["From"], params["To"])
        again = router.office.open(segment_in(text))
        assert (again.attempt, again.pool, again.call_sid, again.trace_id) == (1, "p1", SID, "ab" * 16)
        await until(lambda: bool(router.queued))
        assert router.queued[0].attempt == 1, "its customer is looked up again"
        assert router.metric("offhook_stream_ends_total", result="reconnect") == 1
        assert router.metric("offhook_reconnections_total", result="reserved") == 1


@pytest.mark.usefixtures("quick")
async def test_the_action_requested_twice_gets_one_stream(folder: Path) -> None:
    async with FakePool(folder, end_state=None).serving() as pool, running(folder) as router:
        router.state.traces = [LOST]
        segment = router.office.sign(ticket(pool="p0"))
        params = params_for(CallStatus="in-progress")
        first, second = await asyncio.gather(
            *(router.post(f"/call-ended/{segment}", params, i_twilio_idempotency_token="t") for _ in range(2))
        )
        third = await router.post(f"/call-ended/{segment}", params, i_twilio_idempotency_token="t")
        assert first.body == second.body == third.body
        assert stream_of(first.text) == "Stream"
        assert len(pool.reserved) == 1


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("changes", "traces"),
    [
        ({"pool": "p0", "attempt": 2}, [LOST]),
        ({"pool": "p0"}, [Traces()]),
        ({"pool": "p0"}, [LOST, Traces()]),
        ({"pool": "p0"}, [LOST, Traces(journal=True, lease_s=2.0)]),
        ({"pool": "p0"}, [Traces(ended=True, journal=True)]),
        ({}, [LOST]),
    ],
    ids=["third time", "no journal", "journal deleted", "lease renewed", "unknown reason", "pool here"],
)
async def test_a_doubt_is_an_apology(folder: Path, changes: dict[str, object], traces: list[Traces]) -> None:
    async with FakePool(folder, end_state=None).serving() as pool, running(folder) as router:
        router.state.traces = traces
        assert verbs(await ended(router, router.office.sign(ticket(**changes)))) == ["Say", "Hangup"]
        assert not pool.reserved
        assert router.metric("offhook_stream_ends_total", result="apology") == 1


@pytest.mark.usefixtures("quick")
async def test_a_reason_that_is_stored_meanwhile_hangs_up(folder: Path) -> None:
    async with FakePool(folder, end_state=None).serving() as pool, running(folder) as router:
        router.state.traces = [LOST, Traces(ended=True, reason=EndReason.AGENT_HANGUP, journal=True)]
        assert verbs(await ended(router, router.office.sign(ticket(pool="p0")))) == ["Hangup"]
        assert not pool.reserved


async def test_an_end_that_redis_never_got_is_known_from_the_pool_that_died_after_it(folder: Path) -> None:
    """Redis was away when the call ended, is back with what it had before, and the pool died in between."""
    dead = FakePool(folder, name="p0", boot="b0")
    async with dead.serving(), FakePool(folder, end_state=None).serving() as pool, running(folder) as router:
        router.state.traces = [Traces(journal=True, lease_s=1.0)]
        dead.ended(SID, 0, EndReason.AGENT_HANGUP)
        dead.die()
        await until(lambda: router.parts.door.pools.count == 1)
        assert verbs(await ended(router, router.office.sign(ticket(pool="p0", boot="b0")))) == ["Hangup"]
        assert not pool.reserved


async def test_a_pool_that_holds_the_call_in_place_of_another_is_heard(folder: Path) -> None:
    """It took the upgrade because the pool of the ticket was gone: that one's death is no news."""
    async with FakePool(folder, end_state=CallState.STREAMING).serving() as pool, running(folder) as router:
        router.state.traces = [LOST]
        assert verbs(await ended(router, router.office.sign(ticket(pool="p0")))) == ["Say", "Hangup"]
        assert not pool.reserved


async def test_a_pool_nearby_that_is_gone_is_known_at_once(folder: Path) -> None:
    """Its lease still stands, and nobody waits for its end."""
    dead = FakePool(folder, name="p0", boot="b0")
    async with dead.serving(), FakePool(folder, end_state=None).serving(), running(folder) as router:
        router.state.traces = [Traces(journal=True, lease_s=3600.0)]
        dead.die()
        await until(lambda: router.parts.door.pools.count == 1)
        assert stream_of(await ended(router, router.office.sign(ticket(pool="p0", boot="b0")))) == "Stream"


@pytest.mark.usefixtures("quick")
async def test_a_cut_off_call_that_nobody_can_take_is_answered_like_a_new_one(folder: Path) -> None:
    async with FakePool(folder, end_state=None, ready=0).serving(), running(folder) as router:
        router.state.traces = [LOST]
        assert verbs(await ended(router, router.office.sign(ticket(pool="p0"))))[-1] == "Redirect", "it is held"
        assert router.metric("offhook_reconnections_total", result="held") == 1


async def test_the_end_of_a_call_is_told_to_nobody_without_its_ticket(folder: Path) -> None:
    async with FakePool(folder).serving() as pool, running(folder) as router:
        good = router.office.sign(ticket())
        for segment, params in [
            ("garbled", params_for()),
            (good[:-2] + "xx", params_for()),
            (good, params_for(CallSid="CA" + "1" * 32)),
        ]:
            answer = await router.post(f"/call-ended/{segment}", params)
            assert answer.status == HTTPStatus.FORBIDDEN
        unsigned = await router.post(f"/call-ended/{good}", x_twilio_signature="")
        assert unsigned.status == HTTPStatus.FORBIDDEN
        assert not pool.asked


# --- the rest -------------------------------------------------------------------------------------------------------


async def test_call_status_is_taken_note_of(folder: Path) -> None:
    async with running(folder) as router:
        answer = await router.post("/call-status", params_for(CallStatus="completed"))
        assert (answer.status, answer.body) == (HTTPStatus.NO_CONTENT, b"")


async def test_clips_are_served_and_unknown_ones_are_not_found(folder: Path) -> None:
    async with running(folder, clips={"apology": b"RIFFxyz"}) as router:
        answer = await router.get("/clips/apology.wav")
        assert (answer.status, answer.headers["content-type"], answer.body) == (200, "audio/wav", b"RIFFxyz")
        for path in ("/clips/other.wav", "/clips/..%2fapology.wav", "/clips/apology", "/clips/"):
            assert (await router.get(path)).status == HTTPStatus.NOT_FOUND


async def test_what_is_not_there_and_what_is_not_allowed_is_said_plainly(folder: Path) -> None:
    async with running(folder) as router:
        for method, path, status in [
            ("GET", "/", 404), ("GET", "/media/x", 404), ("POST", "/incoming-call/", 404), ("GET", "/call-ended/x", 405),
            ("PUT", "/incoming-call", 405), ("HEAD", "/incoming-call", 405), ("GET", "/call-status", 405),
            ("POST", "/healthz", 405),
        ]:  # fmt: skip
            answer = await router.request(method, path)
            assert (method, path, answer.status) == (method, path, status)
            assert "location" not in answer.headers
            assert "server" not in answer.headers


async def test_the_router_is_ready_when_a_worker_is(folder: Path) -> None:
    async with running(folder) as router:
        assert (await router.get("/healthz")).status == HTTPStatus.OK
        answer = await router.get("/readyz")
        assert (answer.status, "no pool" in answer.text) == (HTTPStatus.SERVICE_UNAVAILABLE, True)
        problem = Problem("tts", "connection refused")
        async with FakePool(folder, ready=0, problems=(problem,)).serving() as pool:
            await until(lambda: router.parts.health.pools.count == 1)
            answer = await router.get("/readyz")
            assert answer.status == HTTPStatus.SERVICE_UNAVAILABLE
            assert '"problems":[{"resource":"tts","detail":"connection refused"}]' in answer.text
            pool.push(2)
            await until(lambda: router.parts.health.pools.ready == 2)
            answer = await router.get("/readyz")
            said = '{"ready":2,"problems":[{"resource":"tts","detail":"connection refused"}]}'
            assert (answer.status, answer.text) == (HTTPStatus.OK, said)
            assert router.metric("offhook_router_ready_workers") == 2
        await until(lambda: router.metric("offhook_router_ready_workers") == 0)


async def test_metrics_need_the_token_when_there_is_one(folder: Path) -> None:
    async with running(folder, console_token="s3cret") as router:
        for given in ("", "Bearer", "Bearer other", "Basic s3cret", "Bearer \xe9"):
            answer = await router.get("/metrics", authorization=given)
            assert answer.status == HTTPStatus.UNAUTHORIZED, given
        answer = await router.get("/metrics", authorization="Bearer s3cret")
        assert answer.status == HTTPStatus.OK
        assert "offhook_webhook_seconds_bucket" in answer.text
        assert "process_resident_memory_bytes" in answer.text


async def test_metrics_without_a_token_answer_this_machine_whatever_a_header_says(folder: Path) -> None:
    async with running(folder) as router:
        answer = await router.get("/metrics", x_forwarded_for="203.0.113.9")
        assert answer.status == HTTPStatus.OK


async def test_without_validation_a_webhook_needs_no_signature(folder: Path) -> None:
    base = "http://127.0.0.1:8080"
    unsigned = running(folder, public_base_url=base, twilio_validate_signatures=False)
    async with FakePool(folder).serving(), unsigned as router:
        answer = await router.post(x_twilio_signature="")
        assert 'url="ws://127.0.0.1:8080/media/' in answer.text
        assert f'action="{base}/call-ended/' in answer.text


async def test_stopping_waits_for_jobs_under_way_and_closes_what_was_opened(folder: Path) -> None:
    async with FakePool(folder).serving(), running(folder) as router:
        router.state.queue_gate.clear()
        await router.post()
        state = router.state
        asyncio.get_running_loop().call_soon(state.queue_gate.set)
    assert state.closed
    assert router.metric("offhook_prefetch_enqueued_total", result="queued") == 1


async def test_stopping_does_not_wait_for_a_queue_that_hangs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "LEAVING_S", 0.05)
    async with FakePool(folder).serving(), running(folder) as router:
        router.state.queue_gate.clear()
        await router.post()
    assert router.state.closed
