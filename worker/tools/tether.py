"""Runs a command that ends with the process that started it, also when that one is killed.

    python -I -S tether.py <pid of the parent> <command> [arguments]

The command takes this process's place; the kernel sends it SIGKILL when the parent ends. Standard library only: it is
run as a file, without the environment of the project.
"""

import contextlib
import ctypes
import os
import signal
import sys
from typing import Final

PR_SET_PDEATHSIG: Final = 1
"""Source: prctl(2); kept across execve(2), unless that gains privileges."""

OOM_SCORE: Final = "700"
"""A machine out of memory takes an MCP server before a worker (500), which holds a caller, and long before the pool (0)."""

EXIT_NOT_FOUND: Final = 127


def main(arguments: list[str]) -> int:
    """Bind this process to its parent and become the command; gives an exit status only when that is not possible."""
    parent, *command = arguments
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)  # what is ignored stays ignored in the command
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:  # noqa: PTH123
        score.write(OOM_SCORE)
    if os.getppid() != int(parent):  # it ended before it could be watched
        return EXIT_NOT_FOUND
    try:
        os.execvp(command[0], command)  # noqa: S606 - the operator's own command, from the agents file
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        return EXIT_NOT_FOUND


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
