"""What an operator's process knows without asking the server: its name in the log of changes, and the embedded server's state."""

from __future__ import annotations

import getpass
import shutil
import socket
from contextlib import suppress

from redis_store.admin.audit import LONGEST_OPERATOR
from redis_store.admin.doctor import Finding, check_embedded
from redis_store.clients.options import ClientOptions
from redis_store.errors import InvalidInput
from redis_store.limits import shown
from redis_store.server import status

PASSWORD_BYTES = 32
"""Random bytes of a new password."""


def operator_name(given: str | None = None) -> str:
    """Return the given name, or that of this process's user and host: ``<user>@<host>``."""
    if given is not None:
        if not isinstance(given, str) or not 0 < len(given) <= LONGEST_OPERATOR:
            raise InvalidInput(
                f"operator must be a str of 1 to {LONGEST_OPERATOR} characters, or None, not {shown(given)}."
            )
        return given
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = "?"
    return f"{user}@{socket.gethostname()}"


def embedded_findings(url: str, options: ClientOptions) -> list[Finding]:
    """Return what the doctor says of the embedded server, if a client with this url and these options uses it."""
    if not url.startswith("unix:"):
        return []
    state = status(options.get("data_dir"))
    if state.url != url:
        return []
    data_bytes = 0
    for path in state.data_dir.rglob("*"):
        with suppress(OSError):  # a rewrite may remove it
            data_bytes += path.lstat().st_size
    return check_embedded(state, shutil.disk_usage(state.data_dir).free, data_bytes)
