"""The session of the OpenAI Agents SDK: a conversation is a sequence of the user, and its items are the items of the SDK."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

from redis_store import AsyncDataStore, InvalidName, InvalidType, fit_name
from redis_store.integrations.stores import async_store
from redis_store.namespace.keys import MAX_NAMESPACE_BYTES

if TYPE_CHECKING:
    from agents import TResponseInputItem
    from agents.memory import SessionSettings


class ConversationSession:
    """A `Session` of the OpenAI Agents SDK: ``Runner.run(agent, text, session=ConversationSession("chat-1", store))``.

    `store` is an `AsyncDataStore`, which stays open when this is closed, or a url, or None as for `connect_async`: then `user` is
    needed. The items are the sequence ``<prefix>/<session_id>`` of the user. Different ids never share one, whatever is in them.

    With `ttl`, in seconds or a timedelta, a session is deleted that long after items were last added to it. `session_settings` is
    a `SessionSettings`, or a dict for one. Any number of processes may add to a session: none of their items is lost.
    """

    def __init__(
        self,
        session_id: str,
        store: AsyncDataStore | str | None = None,
        *,
        user: str | None = None,
        prefix: str = "sessions",
        ttl: float | timedelta | None = None,
        session_settings: SessionSettings | dict[str, Any] | None = None,
    ) -> None:
        if not isinstance(session_id, str):
            raise InvalidType(f"session_id must be a str, not {type(session_id).__name__}.")
        if not isinstance(prefix, str) or not prefix or "/" in prefix:
            raise InvalidName(
                f"prefix {prefix!r} must be a name without '/', so that no two sessions share a namespace.",
                kind="prefix",
            )
        self.session_id = session_id
        self.session_settings: SessionSettings | None = _settings(session_settings)
        self._store, self._own = async_store(store, user)
        name = fit_name(f"{prefix}/{session_id}", MAX_NAMESPACE_BYTES)
        self._items = self._store.sequence(name, ttl=ttl)
        self._living = None if ttl is None else self._store.use_namespace(name, ttl=ttl, sliding=True)

    async def get_items(self, limit: int | None = None) -> list[TResponseInputItem]:
        """Return the items in order, or the last `limit` ones: None stands for that of `session_settings`.

        Raises `StoredDataError` for an item that cannot be read: it is not left out.
        """
        if limit is None and self.session_settings is not None:
            limit = self.session_settings.limit
        if limit is None:
            return await self._items.range()
        return await self._items.last(limit) if limit > 0 else []

    async def add_items(self, items: list[TResponseInputItem]) -> None:
        """Add items, at most 1,000, all or none: in one round trip, or in three with a ttl, for which the others live on too."""
        if self._living is not None and items and (earlier := await self._living.list_keys()):
            # Before the append: if this process dies in between, nothing but the time of expiry has changed.
            await self._living.get_many(earlier)
        await self._items.append(*items)

    async def pop_item(self) -> TResponseInputItem | None:
        """Delete the last item and return it, or None if there is none. Of concurrent callers, one gets it."""
        return await self._items.pop(None)

    async def clear_session(self) -> None:
        """Delete all items."""
        await self._items.clear()

    async def close(self) -> None:
        """Close the store if it was opened here. Later calls raise `StoreClosed`, which is a RuntimeError."""
        if self._own:
            await self._store.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<ConversationSession {self.session_id!r} of {self._store!r}>"


def _settings(given: SessionSettings | dict[str, Any] | None) -> SessionSettings | None:
    if given is not None and not isinstance(given, dict):
        return given
    try:
        from agents.memory import SessionSettings
    except ImportError:
        if given is None:  # without the SDK, as in a program that only reads sessions
            return None
        raise
    return SessionSettings(**(given or {}))
