"""The sessions of browsers, in memory: made for the token of the printed url, known by a cookie, ended when they lie unused."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable

SESSION_S = 12 * 3600
"""Time after its last use at which a session ends, in seconds."""

MOST_SESSIONS = 1000
"""Sessions that are kept, at most; the one unused for longest ends first."""

SESSION_BYTES = 32
"""Random bytes of a session's id, and of the key that signs forms."""

NONCE_BYTES = 8
"""Random bytes that make each form token another one."""


class Sessions:
    """The sessions of one console."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._used: OrderedDict[str, float] = OrderedDict()
        self._key = secrets.token_bytes(SESSION_BYTES)

    def begin(self) -> str:
        """Return the id of a new session."""
        session = secrets.token_urlsafe(SESSION_BYTES)
        self._used[session] = self._clock()
        while len(self._used) > MOST_SESSIONS:
            self._used.popitem(last=False)
        return session

    def use(self, session: str) -> bool:
        """Whether a session goes on. If so, it is used now."""
        used, now = self._used.pop(session, None), self._clock()
        if used is None or now - used > SESSION_S:
            return False
        self._used[session] = now
        return True

    def form_token(self, who: str) -> str:
        """Return a text that a form of this session, or of this user of a proxy, has to bring back.

        It is another one each time, so that the sizes of compressed pages tell nothing about it.
        """
        nonce = secrets.token_hex(NONCE_BYTES)
        return f"{nonce}.{self._signed(nonce, who)}"

    def is_form_token(self, who: str, given: str) -> bool:
        """Whether a form brought back a text of its session or user."""
        nonce, _, signature = given.partition(".")
        return hmac.compare_digest(self._signed(nonce, who).encode(), signature.encode(errors="replace"))

    def _signed(self, nonce: str, who: str) -> str:
        return hmac.new(self._key, f"{nonce}.{who}".encode(errors="replace"), hashlib.sha256).hexdigest()
