"""The store that an integration is given: one that is open, or where to find one."""

from __future__ import annotations

from redis_store import AsyncDataStore, DataStore, InvalidType, connect, connect_async


def async_store(store: AsyncDataStore | str | None, user: str | None) -> tuple[AsyncDataStore, bool]:
    """Return an asyncio store, and whether it is opened here: it is given, or made of a url, or None, and a user."""
    if isinstance(store, AsyncDataStore):
        check_no_user(user, "an AsyncDataStore")
        return store, False
    return connect_async(_url(store, "an AsyncDataStore"), user=_user(user, "an AsyncDataStore")), True


def blocking_store(store: DataStore | str | None, user: str | None) -> tuple[DataStore, bool]:
    """Do `async_store` for a `DataStore`."""
    if isinstance(store, DataStore):
        check_no_user(user, "a DataStore")
        return store, False
    return connect(_url(store, "a DataStore"), user=_user(user, "a DataStore")), True


def check_no_user(user: str | None, kind: str) -> None:
    """Refuse a user that was passed with a store."""
    if user is not None:
        raise InvalidType(f"user={user!r} was passed with {kind}, which has its user already: leave it out.")


def _url(store: object, kind: str) -> str | None:
    if store is None or isinstance(store, str):
        return store
    raise InvalidType(f"{kind[0].upper()}{kind[1:]} is needed, or a url, not {type(store).__name__}.")


def _user(user: str | None, kind: str) -> str:
    if user is None:
        raise InvalidType(f"No user was passed: pass user= with a url, or {kind}, which has its user.")
    return user
