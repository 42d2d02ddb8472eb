"""TwiML as values: parse a document into the verbs the stand-in runs.

Pure: text in, frozen values out. Only what this project's server may answer is understood; any other verb becomes
`Unknown`, which the call notes and skips.

Source: Twilio docs, TwiML for Voice.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass

PARAMETER_LIMIT = 500  # characters of name and value together. Source: Twilio docs, TwiML <Stream>


class TwimlError(Exception):
    """The document cannot be executed; `code` is Twilio's number for it."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class Say:
    """Speak `text`."""

    text: str
    language: str
    voice: str


@dataclass(frozen=True, slots=True)
class Play:
    """Fetch and play `url`, `loop` times."""

    url: str
    loop: int


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait silently."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Redirect:
    """Hand control to another document."""

    url: str
    method: str


@dataclass(frozen=True, slots=True)
class Hangup:
    """End the call."""


@dataclass(frozen=True, slots=True)
class Reject:
    """Do not answer (as first verb)."""

    reason: str


@dataclass(frozen=True, slots=True)
class Dial:
    """Connect to other numbers; recorded, not dialled."""

    numbers: tuple[str, ...]
    action: str
    method: str


@dataclass(frozen=True, slots=True)
class Stream:
    """A two-way media stream; blocks until the socket closes."""

    url: str
    name: str
    parameters: tuple[tuple[str, str], ...]
    status_callback: str
    status_callback_method: str
    action: str
    action_method: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """A verb this stand-in does not run."""

    name: str


Verb = Say | Play | Pause | Redirect | Hangup | Reject | Dial | Stream | Unknown


def parse(document: bytes) -> tuple[Verb, ...]:
    """The verbs of `document`, in order. Raises `TwimlError` (12100 not XML, 12102 not TwiML, 13xxx bad attribute)."""
    try:
        root = ET.fromstring(document)  # noqa: S314 - from the system under test, not from strangers
    except ET.ParseError as error:
        raise TwimlError(12100, f"document parse failure: {error}") from error
    if root.tag != "Response":
        raise TwimlError(12102, f"root element is <{root.tag}>, not <Response>")
    return tuple(_verb(element) for element in root)


def _verb(element: ET.Element) -> Verb:
    text = "".join(element.itertext()).strip()
    match element.tag:
        case "Say":
            return Say(text, element.get("language", ""), element.get("voice", ""))
        case "Play":
            return Play(text, _integer(element, "loop", 1))
        case "Pause":
            return Pause(_integer(element, "length", 1))
        case "Redirect":
            return Redirect(text, element.get("method", "POST").upper())
        case "Hangup":
            return Hangup()
        case "Reject":
            return Reject(element.get("reason", "rejected"))
        case "Dial":
            return Dial(_numbers(element), element.get("action", ""), element.get("method", "POST").upper())
        case "Connect":
            return _connect(element)
        case _:
            return Unknown(element.tag)


def _integer(element: ET.Element, name: str, default: int) -> int:
    raw = element.get(name, str(default))
    if not raw.isdigit():
        raise TwimlError(12200, f'<{element.tag} {name}="{raw}"> is not a number')
    return int(raw)


def _numbers(dial: ET.Element) -> tuple[str, ...]:
    nested = [(child.text or "").strip() for child in dial]
    own = (dial.text or "").strip()
    return tuple(number for number in [own, *nested] if number)


def _connect(connect: ET.Element) -> Verb:
    stream = connect.find("Stream")
    if stream is None:
        return Unknown("Connect")
    url = stream.get("url", "")
    if not url:
        raise TwimlError(31923, "<Stream> has no url")
    return Stream(
        url=url,
        name=stream.get("name", ""),
        parameters=_parameters(stream),
        status_callback=stream.get("statusCallback", ""),
        status_callback_method=stream.get("statusCallbackMethod", "POST").upper(),
        action=connect.get("action", ""),
        action_method=connect.get("method", "POST").upper(),
    )


def _parameters(stream: ET.Element) -> tuple[tuple[str, str], ...]:
    pairs = tuple((child.get("name", ""), child.get("value", "")) for child in stream.findall("Parameter"))
    for name, value in pairs:
        if len(name) + len(value) >= PARAMETER_LIMIT:
            raise TwimlError(12200, f"<Parameter {name}> has {PARAMETER_LIMIT} characters or more")
    return pairs
