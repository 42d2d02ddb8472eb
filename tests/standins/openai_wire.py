"""What a chat completion looks like on the wire, streamed and whole. Pure.

Source: platform.openai.com, API reference "Chat Completions" (object and chunk object), and the types of the SDK 3.54.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tests.standins.openai_cache import CHARACTERS_PER_TOKEN
from tests.standins.rules import Answer

TOKEN = re.compile(r"\s*\S+|\s+$")
ERROR_TYPES = {
    401: "invalid_request_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer on its way: its id, its time and the model it names."""

    id: str
    created: int  # Unix seconds
    model: str
    answer: Answer
    usage: Mapping[str, object]

    @property
    def finish_reason(self) -> str:
        """Why the answer ends."""
        return "tool_calls" if self.answer.tool else "stop"

    def whole(self) -> dict[str, object]:
        """Build the answer to a request without `stream`."""
        message: dict[str, object] = {"role": "assistant", "content": self.answer.text or None, "refusal": None}
        if self.answer.tool:
            message["tool_calls"] = [self._tool_call(json.dumps(dict(self.answer.arguments)))]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self.finish_reason}
        return {**self._head("chat.completion"), "choices": [choice], "usage": self.usage}

    def chunks(self, *, include_usage: bool) -> Iterator[str]:
        """Build the `data:` blocks of a stream: role, one a token, tool call, finish, usage when asked for, the end."""
        for delta, finish in self._deltas():
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
            yield self._block({"choices": [choice], **({"usage": None} if include_usage else {})})
        if include_usage:
            yield self._block({"choices": [], "usage": self.usage})
        yield "data: [DONE]\n\n"

    def _deltas(self) -> Iterator[tuple[dict[str, object], str | None]]:
        answer = self.answer
        if answer.text or not answer.tool:
            yield {"role": "assistant", "content": "", "refusal": None}, None
            for token in TOKEN.findall(answer.text):
                yield {"content": token}, None
        if answer.tool:
            start = {} if answer.text else {"role": "assistant", "content": None}
            yield {**start, "tool_calls": [{"index": 0, **self._tool_call("")}]}, None
            arguments = json.dumps(dict(answer.arguments))
            middle = len(arguments) // 2  # in two pieces, as they really come
            for piece in (arguments[:middle], arguments[middle:]):
                yield {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}, None
        yield {}, self.finish_reason

    def _tool_call(self, arguments: str) -> dict[str, object]:
        function = {"name": self.answer.tool, "arguments": arguments}
        return {"id": f"call_{self.id.removeprefix('chatcmpl-')}", "type": "function", "function": function}

    def _block(self, fields: dict[str, object]) -> str:
        return f"data: {json.dumps({**self._head('chat.completion.chunk'), **fields}, ensure_ascii=False)}\n\n"

    def _head(self, kind: str) -> dict[str, object]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "service_tier": "default",
            "system_fingerprint": "fp_standin",
        }


def usage(prompt: int, cached: int, answer: Answer) -> dict[str, object]:
    """Write down the tokens: of the prompt, those of them that were cached, and a guess at the answer's."""
    completion = (len(answer.text) + len(answer.tool or "")) // CHARACTERS_PER_TOKEN + 1
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def error(status: int, message: str, code: str | None = None) -> dict[str, object]:
    """Build the body of an error answer."""
    kind = ERROR_TYPES.get(status, "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def model(name: str) -> dict[str, object]:
    """Build what is said of a model. Source: API reference "Models", the model object."""
    return {"id": name, "object": "model", "created": 1_750_000_000, "owned_by": "system"}
