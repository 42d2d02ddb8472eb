"""What every process of ours asks of the kernel before it holds a secret or a socket."""

import contextlib
import resource


def take() -> None:
    """Forbid core files, and raise the limit of open descriptors to what this process may have.

    A core file would hold callers' voices and our keys; children inherit the prohibition and cannot lift it. The usual
    soft limit of 1024 descriptors is for programs that use select(2): a pool of 200 workers needs more, and a router that
    runs out of them answers nobody. Called once, first thing; harmless when called again or when the kernel refuses.
    """
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
