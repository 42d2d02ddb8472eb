"""The pages of the prefetchers' port: `/readyz` says whether jobs are taken, all else is metrics. Open, as the pool's."""

import json
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment


class Listeners:
    """How many threads of each child take jobs; written by the loop, read by the threads that answer."""

    def __init__(self, roles: Iterable[str]) -> None:
        self._counts = dict.fromkeys(roles, 0)

    def show(self, role: str, count: int) -> None:
        """Note how many of a child take jobs; 0 when it has died."""
        self._counts[role] = count

    @property
    def counts(self) -> Mapping[str, int]:
        """How many, by role."""
        return dict(self._counts)

    @property
    def reason(self) -> str:
        """Why jobs are not taken; empty while they are."""
        deaf = [role for role, count in self._counts.items() if not count]
        return f"nobody takes jobs of {' and '.join(deaf)}" if deaf else ""


def pages(metrics: "WSGIApplication", listeners: Listeners) -> "WSGIApplication":
    """Make the application of the port out of that of the metrics."""

    def application(request: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        if request.get("PATH_INFO") != "/readyz":
            return metrics(request, start_response)
        reason = listeners.reason
        status = HTTPStatus.SERVICE_UNAVAILABLE if reason else HTTPStatus.OK
        body = json.dumps({"listening": listeners.counts, "reason": reason}).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
        start_response(f"{status.value} {status.phrase}", headers)
        return [body]

    return application
