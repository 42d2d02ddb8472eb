"""Starting a process of ours with a control socket: all of it, or nothing is left behind."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence


def launch(
    module: str, arguments: Sequence[str], environment: Mapping[str, str]
) -> tuple["subprocess.Popen[bytes]", socket.socket, int]:
    """Run a module with `--control-fd`; gives its process, our end of the control socket and a pidfd, the caller's to close.

    Raises:
        OSError: there are no descriptors, processes or memory left; nothing runs then, and nothing is open.
    """
    with contextlib.ExitStack() as undo:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        undo.enter_context(ours)
        with theirs:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-m", module, "--control-fd", str(theirs.fileno()), *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # so that Ctrl-C reaches the pool alone, which drains
            )
        undo.callback(_end, process)
        pidfd = os.pidfd_open(process.pid)
        undo.pop_all()
    return process, ours, pidfd


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a process that nobody could watch; it has hardly begun."""
    process.kill()
    process.wait()
