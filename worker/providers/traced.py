"""Pipecat's spans for ears and voices that are not its own classes; they do nothing while traces are off."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from pipecat.utils.tracing.service_decorators import traced_stt, traced_tts

Method = TypeVar("Method", bound=Callable[..., Any])


def hears(method: Method) -> Method:
    """Have what an ear understands be spans; for `run_stt` of a class of ears."""
    return cast("Method", traced_stt(method))


def speaks(method: Method) -> Method:
    """Have what a voice says be spans; for `run_tts` of a class of voices."""
    return cast("Method", traced_tts(method))
