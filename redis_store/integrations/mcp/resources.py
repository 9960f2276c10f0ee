"""Keys as resources: their URIs, and the subscriptions to their changes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from typing import Any
from urllib.parse import parse_qsl, quote

from mcp.server.context import ServerRequestContext
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ResourceUpdated
from mcp_types import SubscriptionsListenRequestParams, SubscriptionsListenResult

from redis_store.errors import InvalidInput
from redis_store.integrations.mcp.feed import ChangeFeeds
from redis_store.types import Change

URI_TEMPLATE = "redis-store://key{?namespace,key,cursor}"
_URI_HEAD = "redis-store://key?"
SEND_S = 5.0
"""Time for which a client may let a notification wait, in seconds."""
MOST_SUBSCRIPTIONS = 1_000
"""Maximum number of resources that one session subscribes to."""

logger = logging.getLogger("redis_store")

Address = tuple[str, str]
"""A namespace and a key."""


def uri_of(namespace: str, key: str, cursor: str | None = None) -> str:
    """Return the URI of a key. Every character of the names is allowed, and none has a meaning of its own."""
    more = "" if cursor is None else f"&cursor={cursor}"
    return f"{_URI_HEAD}namespace={quote(namespace, safe='')}&key={quote(key, safe='')}{more}"


def parse_uri(uri: str) -> tuple[str, str, str | None]:
    """Return the namespace, the key and the cursor of a URI, or raise `InvalidInput`."""
    try:
        if not uri.startswith(_URI_HEAD):
            raise ValueError
        parts = parse_qsl(uri.removeprefix(_URI_HEAD), True, True, errors="strict", max_num_fields=3)
        found = dict(parts)
        if len(found) != len(parts) or not {"namespace", "key"} <= found.keys() <= {"namespace", "key", "cursor"}:
            raise ValueError
    except ValueError:
        raise InvalidInput(
            f"{uri[:80]!r} is not the URI of a key: take one of the list, or fill in {URI_TEMPLATE}."
        ) from None
    return found["namespace"], found["key"], found.get("cursor")


class Subscriptions:
    """The subscribers to changes of keys: streams of ``subscriptions/listen``, and sessions of older protocols."""

    def __init__(self) -> None:
        self._bus = InMemorySubscriptionBus()
        self._listen = ListenHandler(self._bus)
        self._listened: Counter[Address] = Counter()
        """The keys of the streams that are open."""
        self._sessions: dict[Any, dict[str, tuple[Address, Any]]] = {}
        """By connection: each URI that it subscribes to, with its key and the session to tell."""

    async def listen(
        self, context: ServerRequestContext[Any], params: SubscriptionsListenRequestParams, feeds: ChangeFeeds
    ) -> SubscriptionsListenResult:
        """Serve a stream of changes, which begins once the namespaces of its resources are watched."""
        asked = params.notifications
        addresses = [parse_uri(uri)[:2] for uri in asked.resource_subscriptions or ()]
        honored = asked.model_copy(
            update={
                "tools_list_changed": None,
                "prompts_list_changed": None,
                "resources_list_changed": None,
                "resource_subscriptions": [uri_of(*address) for address in addresses],
            }
        )
        self._listened.update(addresses)
        try:
            for namespace in dict.fromkeys(namespace for namespace, _ in addresses):
                await feeds.of(namespace)
            return await self._listen(context, params.model_copy(update={"notifications": honored}))
        finally:
            self._listened -= Counter(addresses)

    async def subscribe(self, session: Any, uri: str, feeds: ChangeFeeds) -> None:
        """Subscribe a session of an older protocol to the changes of a resource."""
        namespace, key, _ = parse_uri(uri)
        connection = _connection_of(session)
        uris = self._sessions.get(connection)
        if uris is not None and uri not in uris and len(uris) >= MOST_SUBSCRIPTIONS:
            raise InvalidInput(
                f"A session subscribes to at most {MOST_SUBSCRIPTIONS:,} resources: unsubscribe from others."
            )
        if uris is None:
            uris = self._sessions[connection] = {}
            with contextlib.suppress(AttributeError):
                connection.exit_stack.callback(self._sessions.pop, connection, None)
        uris[uri] = (namespace, key), session
        try:
            await feeds.of(namespace)
        except BaseException:
            uris.pop(uri, None)
            raise

    def unsubscribe(self, session: Any, uri: str) -> None:
        """End the subscription of a session to a resource. Does nothing if it has none."""
        self._sessions.get(_connection_of(session), {}).pop(uri, None)

    def namespaces(self) -> set[str]:
        """Return the namespaces that have subscribers."""
        older = {address[0] for uris in self._sessions.values() for address, _ in uris.values()}
        return older | {namespace for namespace, _ in self._listened}

    async def tell(self, change: Change) -> None:
        """Notify the subscribers to the key of a change; after `clear` and `reset`, those to any key of the namespace."""
        keys = (
            [change.key]
            if change.key is not None
            else [key for name, key in self._listened if name == change.namespace]
        )
        for key in keys:
            await self._bus.publish(ResourceUpdated(uri_of(change.namespace, key)))
        for uris in list(self._sessions.values()):
            for uri, ((namespace, key), session) in list(uris.items()):
                if namespace == change.namespace and change.key in (None, key):
                    await self._send(uris, uri, session)

    async def _send(self, uris: dict[str, Any], uri: str, session: Any) -> None:
        """Notify a session, and end its subscription if it is gone or does not read."""
        try:
            async with asyncio.timeout(SEND_S):
                await session.send_resource_updated(uri)
        except Exception as error:
            logger.warning("A client is told no more of a resource's changes, because it did not take one: %r", error)
            uris.pop(uri, None)


def _connection_of(session: Any) -> Any:
    """Return what the requests of one client share. The package has no public name for it."""
    return getattr(session, "_connection", session)
