"""Start the exporter of Redis for the Redis of REDIS_URL: it has another name for that, and no use for the other settings."""

import os
from pathlib import Path
from typing import Final

PROGRAM: Final = "prometheus-redis-exporter"
INCLUDED: Final = "redis://redis:6379"
"""The one of compose.yaml."""


def main() -> None:
    """Become the exporter."""
    given = os.environ
    if file := given.get("REDIS_URL_FILE"):
        address = Path(file).read_text(encoding="utf-8").strip()
    else:
        address = given.get("REDIS_URL") or INCLUDED
    os.execvpe(  # noqa: S606 - no shell is wanted
        PROGRAM, [PROGRAM, "-web.listen-address", ":9121"], {"PATH": given["PATH"], "REDIS_ADDR": address}
    )


if __name__ == "__main__":
    main()
