"""The operator's name in the log of changes."""

from __future__ import annotations

import getpass
import socket

from redis_store.admin.audit import LONGEST_OPERATOR
from redis_store.errors import InvalidInput
from redis_store.limits import shown

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
