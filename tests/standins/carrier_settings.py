"""What the carrier stand-in is told: its settings, and the faults one call can carry.

Rules: values only. Every field is a plain scalar, so that it can become a command line flag and be changed at run time.
Times are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass


class CallFailed(Exception):
    """The call did not get where the caller of the library waited for; the text says what happened instead."""


@dataclass(frozen=True, slots=True)
class CarrierSettings:
    """How the carrier reaches the system under test and how it behaves.

    `target` is where the router, or with https:// an edge before it, really listens; `public_base_url` is what is signed, what
    TwiML names, and whose certificate the edge must have.
    """

    target: str = "http://127.0.0.1:8080"
    public_base_url: str = "https://voice.example.test"
    ca_file: str = ""  # whose certificates are believed; empty: those this machine believes
    account_sid: str = "AC00000000000000000000000000000001"
    auth_token: str = "carrier-auth-token"
    webhook_path: str = "/incoming-call"  # may carry a query string
    method: str = "POST"  # of the first webhook: POST or GET
    algorithm: str = "HMAC_SHA1"  # or HMAC_SHA256, which adds the settings header
    signing_key_id: str = "webhooks_sharedkey_standin"  # named in the settings header of HMAC_SHA256
    fallback_url: str = ""  # requested with ErrorCode and ErrorUrl when a webhook fails
    status_callback: str = ""  # the number's own status callback: the final status only
    connect_timeout_s: float = 5.0  # Source: Twilio docs, connection overrides, `ct`
    webhook_timeout_s: float = 15.0  # Source: Twilio docs, connection overrides, `tt`
    connect_retries: int = 1  # Source: Twilio docs, connection overrides, `rc`
    answer_delay_s: float = 0.0  # between reaching <Connect> and the upgrade; Twilio takes about 0.5 s
    upgrade_timeout_s: float = 10.0  # no figure is published
    close_wait_s: float = 2.0  # for the other side of a closing handshake
    fast_verbs: bool = False  # Say, Play, Pause and Dial take no time
    allow_ws: bool = False  # Twilio refuses ws:// with 31922; loopback set-ups need it
    continue_after_loss: bool = True  # TwiML goes on after an abrupt loss: Twilio does not say so in words
    continue_after_refusal: bool = True  # TwiML goes on after an upgrade without 101: unverified as well
    action_after_hangup: bool = True  # the action of <Connect> is requested, CallStatus=completed, on hang-up
    dial_result: str = "no-answer"  # DialCallStatus of every <Dial>: nothing is really dialled
    dial_seconds: float = 0.0  # how long a <Dial> lasts
    buffer_limit_s: float = 600.0  # outbound audio Twilio keeps. Source: Twilio error 31931
    verb_limit: int = 200  # a call that runs more verbs than this loops, and is ended as failed
    utterance_pause_s: float = 1.0  # without marks, a longer silence separates utterances
    numbers: str = "+15550001111"  # of the account, separated by commas
    whatsapp_sender: str = "+15550009999"  # the only number WhatsApp messages may come from
    whatsapp_open: bool = True  # whether whoever is written to wrote within the last 24 h
    whatsapp_refuses_at_once: bool = False  # free text outside the window is refused, not accepted and then failed
    content_sid: str = "HX00000000000000000000000000000001"  # the only template; its text is a prefix and variable 1
    content_prefix: str = "A message from us: "
    message_statuses: str = "sent,delivered,read"  # what a message goes through, each told to its callback
    message_step_s: float = 0.01  # between two statuses
    message_repeats: int = 0  # how often a callback is made again
    message_error: int = 0  # every message ends as undelivered with this code
    message_refusal: int = 0  # every message is refused with this code
    message_faults: str = ""  # of the next messages: 429,500,503,reset, and of taken ones lost,stall,garbage
    retry_after: str = ""  # the header of 429 and 503


@dataclass(frozen=True, slots=True)
class CallFaults:
    """What goes wrong with one call; everything is off by default. Times count from the moment `start` was sent."""

    no_connected: bool = False  # the stream opens with `start`
    no_start: bool = False  # `connected` and then nothing
    wrong_call_sid: bool = False  # start.callSid names another call
    hangup_before_start: bool = False  # the caller is gone when the upgrade is answered
    hangup_at_first_media: bool = False
    hangup_after_s: float = 0.0
    silent_after_s: float = 0.0  # no more frames, the socket stays open
    reset_after_s: float = 0.0  # TCP RST
    upgrade_delay_s: float = 0.0  # beside answer_delay_s, for this call only
    upgrade_signature: str = "valid"  # valid, missing or wrong
    upgrade_twice: bool = False  # the same URL is dialled again once the stream is up
    split_frames: bool = False  # every frame goes out in two TCP segments
    split_pause_s: float = 0.002  # between the two halves
    inject_after_frames: int = 10  # the messages below are sent once, after this many media frames
    binary_frame: bool = False
    invalid_json: bool = False
    unknown_event: bool = False
    oversize_frame: bool = False  # a valid media message of more than 64 KiB
    wrong_stream_sid: bool = False  # a media message of another stream
    sequence_gap: bool = False  # five frames lost: numbers and timestamps jump
