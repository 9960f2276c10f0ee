"""Logins with the credentials of a provider, such as tokens that live for some minutes.

redis-py asks the provider at each new connection. A held connection sends new credentials (``AUTH``) now and then, because some
services end a connection, or refuse its commands, when the token that it began with has expired. A call that was refused for that
(``NOAUTH``) has done nothing: it is sent again after a login.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from redis.credentials import CredentialProvider

from redis_store.connections.generation import Standing
from redis_store.errors import AuthenticationFailed, ConnectionLost, InvalidSettings
from redis_store.protocol.command import Command, ReplyError
from redis_store.protocol.error_replies import NO_LOGIN, NO_LOGIN_AND_CLOSED, translate

logger = logging.getLogger("redis_store")

RENEW_S = 300.0
"""Time after which a held connection logs in again, in seconds: a third of the life of a token of AWS IAM."""

RETRY_S = 10.0
"""Time to the next attempt after such a login failed, in seconds. Meanwhile the connection is used as it is."""

ATTEMPTS = 2
"""Logins with new credentials before a refusal counts: the first may be a token that the provider has kept for too long."""


class Credentials(CredentialProvider):
    """A caller's provider, whose errors become ours and never show a secret."""

    def __init__(self, provider: Any) -> None:
        if not callable(getattr(provider, "get_credentials", None)):
            raise InvalidSettings(
                f"credential_provider must have a method get_credentials, as redis.CredentialProvider has, not"
                f" {type(provider).__name__}."
            )
        self.provider = provider
        own = getattr(type(provider), "get_credentials_async", None)
        self._awaits = own is not None and own is not CredentialProvider.get_credentials_async

    def get_credentials(self) -> tuple[str, ...]:  # type: ignore[override]  # one or two texts
        try:
            found = self.provider.get_credentials()
        except Exception as error:
            raise _failed(error) from error
        return _checked(found)

    async def get_credentials_async(self) -> tuple[str, ...]:  # type: ignore[override]  # as above
        """Ask the provider. One that has only a blocking method is asked in another thread."""
        try:
            if self._awaits:
                found = await self.provider.get_credentials_async()
            else:
                found = await asyncio.to_thread(self.provider.get_credentials)
        except Exception as error:
            raise _failed(error) from error
        return _checked(found)


def _failed(error: Exception) -> AuthenticationFailed:
    return AuthenticationFailed(
        f"The credential provider raised {type(error).__name__}, so nothing was sent: see the cause of this error."
    )


def _checked(found: Any) -> tuple[str, ...]:
    if (
        not isinstance(found, (tuple, list))
        or len(found) not in (1, 2)
        or not all(isinstance(part, str) for part in found)
    ):
        raise AuthenticationFailed(
            "The credential provider must return (password,) or (user, password), as str: correct its get_credentials."
        )
    return tuple(found)


def _refuses(reply: Any, code: str) -> bool:
    return isinstance(reply, ReplyError) and str(reply).startswith(code)


Send = Callable[[Sequence[Command], bool, bool], Any]
"""`HeldConnection.exchange`."""


class Login:
    """The login of one held connection.

    `again` says whether a call is sent again that was refused for lack of a login. A connection with a state of its own had lost
    that with its login; it is given up.
    """

    __slots__ = ("_credentials", "_shown", "_standing", "again", "renew_at")

    def __init__(self, credentials: Credentials, shown: str, standing: Standing) -> None:
        self._credentials = credentials
        self._standing = standing
        self.again = True
        self._shown = shown
        self.renew_at = monotonic() + RENEW_S

    def exchange(self, send: Send, commands: Sequence[Command], repeatable: bool) -> Any:
        """Send commands and return the reply; log in before if it is time, or if the server asks for it."""
        if monotonic() >= self.renew_at:
            try:
                refusal = self._log_in(send)
            except AuthenticationFailed as error:
                refusal = error
            if refusal is not None:
                self.put_off(refusal)
        reply = send(commands, repeatable, True)
        if not self.is_needed(reply):
            return reply
        refusal = self._log_in(send)
        if refusal is not None:
            raise refusal
        return send(commands, repeatable, True)

    def is_needed(self, reply: Any) -> bool:
        """Whether a reply, or each of several, says that a login is needed first, so that nothing was done.

        Raises `ConnectionLost` if the server closes the connection for that.
        """
        if not self._standing.logged_out or not self.again:
            return False
        replies = reply if isinstance(reply, list) else [reply]
        if any(_refuses(each, NO_LOGIN_AND_CLOSED) for each in replies):
            raise ConnectionLost(
                f"The connection to {self._shown} had lost its login: nothing was written by this call."
            )
        return bool(replies) and all(_refuses(each, NO_LOGIN) for each in replies)

    def put_off(self, refusal: AuthenticationFailed) -> None:
        """Note that a login failed on a connection that may still be used."""
        self.renew_at = monotonic() + RETRY_S
        logger.warning("a connection to %s could not renew its login: %s", self._shown, refusal)

    def renewed(self) -> None:
        """Note that the connection has logged in."""
        self._standing.logged_out = False
        self.renew_at = monotonic() + RENEW_S

    def _log_in(self, send: Send) -> AuthenticationFailed | None:
        """Log in with new credentials. Return None, or why the server refused them."""
        for _ in range(ATTEMPTS):
            reply = send((("AUTH", *self._credentials.get_credentials()),), True, True)
            if not isinstance(reply, ReplyError):
                self.renewed()
                return None
        return refusal_of(reply)

    async def log_in_async(self, send: Callable[[Command], Any]) -> None:
        """Log in with new credentials. Raises `AuthenticationFailed` if the server refuses them."""
        for _ in range(ATTEMPTS):
            reply = await send(("AUTH", *await self._credentials.get_credentials_async()))
            if not isinstance(reply, ReplyError):
                self.renewed()
                return
        raise refusal_of(reply)


def refusal_of(reply: ReplyError) -> AuthenticationFailed:
    """Return the error for a refused login, whatever the code of the reply."""
    error = translate(reply)
    return error if isinstance(error, AuthenticationFailed) else AuthenticationFailed(str(error))
