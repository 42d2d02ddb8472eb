"""Where a worker's stack goes when it is asked for it, or crashes: a file in memory, which its pool reads.

The handlers run in the signal itself and not in Python's loop, so they also speak for a main thread that is blocked or
loops. What is written are files, lines and functions, never a value. A stopped process cannot run them.
"""

import faulthandler
import os

from shared.workers import STACK_SIGNAL


def open_stacks() -> int:
    """Make the file and install the handlers; gives its descriptor, which stays open for the life of the process."""
    fd = os.memfd_create("offhook-stack")
    faulthandler.enable(file=fd, all_threads=False)
    faulthandler.register(STACK_SIGNAL, file=fd, all_threads=False)
    return fd
