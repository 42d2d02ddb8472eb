"""`HANDOFF_DIR`: the folder in which each pool has its socket and where routers look for them.

Both sides ask for it here, at start, so that what is wrong with it is one line with the setting's name and no silence later.
"""

import os
import socket
import struct
from pathlib import Path
from typing import Final

from shared.errors import SettingsError, system_words

MOST_PATH_BYTES: Final = 107
"""Of the path of a Unix socket. Source: unix(7), `sun_path` (108 with the zero at its end)."""

_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid

_ANY_SOCKET: Final = "00000000.sock"
"""As long as the names of pools that have none given."""


def prepare(folder: Path) -> None:
    """Make the folder, for our user only, when it is absent, and see whether we can look into it.

    Raises:
        SettingsError: it cannot be had.
    """
    check_path(folder / _ANY_SOCKET)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        look(folder)
    except OSError as error:
        raise refusal(folder, error) from error


def look(folder: Path) -> list[Path]:
    """Name the sockets in the folder, whoever listens there.

    Raises:
        OSError: it may not be read or searched, or is gone.
    """
    (folder / "..").stat()  # reading shows names, and only searching lets them be used
    with os.scandir(folder) as entries:
        return sorted(folder / entry.name for entry in entries if entry.name.endswith(".sock"))


def check_path(path: Path) -> None:
    """See whether a socket can have this path.

    Raises:
        SettingsError: it is too long.
    """
    size = len(os.fsencode(path))
    if size > MOST_PATH_BYTES:
        raise SettingsError(
            f"HANDOFF_DIR: {path}: has {size} bytes, the path of a Unix socket at most {MOST_PATH_BYTES}"
        )


def refusal(folder: Path, error: OSError) -> SettingsError:
    """Say why the folder cannot be used, and whose it is where that may be the reason."""
    words = "is not a folder" if isinstance(error, FileExistsError) else system_words(error)
    if isinstance(error, PermissionError):
        words += f": {_owner(folder)}, this process is uid {os.geteuid()}"
    return SettingsError(f"HANDOFF_DIR: {folder}: {words}")


def _owner(folder: Path) -> str:
    for each in (folder, *folder.parents):
        try:
            status = each.stat()
        except OSError:
            continue
        return f"{'it' if each == folder else each} belongs to uid {status.st_uid} (mode {status.st_mode & 0o7777:04o})"
    return "nothing of it can be seen"


def uid_behind(sock: socket.socket) -> int:
    """Say which user the process at the other end of a connected Unix socket runs as.

    Between containers its process id is hidden (0) and its user is right. Source: unix(7), SO_PEERCRED.
    """
    _, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return int(uid)
