"""The MCP server of one user's store, and its transports: stdio and streamable HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeAlias

import mcp_types as types
import uvicorn
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from redis_store import __version__
from redis_store.aio import AsyncDataStore
from redis_store.clients.aio import connect_async
from redis_store.errors import DataStoreError, InvalidInput, InvalidSettings, InvalidType
from redis_store.integrations.mcp.budget import (
    DEFAULT_TOKENS,
    LEAST_TOKENS,
    AnswerList,
    Spot,
    fits,
    read_cursor,
    shortened,
    write_cursor,
)
from redis_store.integrations.mcp.feed import ChangeFeeds
from redis_store.integrations.mcp.resources import URI_TEMPLATE, Subscriptions, parse_uri, uri_of
from redis_store.integrations.mcp.tools import TOOLS, Tools, error_text
from redis_store.integrations.stores import check_no_user

LOOPBACK = ("127.0.0.1", "localhost", "::1")
TOKEN_VARIABLE = "REDIS_STORE_MCP_TOKEN"
LEAST_SECRET_CHARS = 16
_NOT_FOUND = -32002
"""The code of a resource that is missing, in protocols before 2026-07-28."""

INSTRUCTIONS = (
    "A store of JSON values that other agents of the same user read and write at the same time. Values are kept under keys, and"
    " keys in namespaces. Use append for lists, and set with if_version where others may write the same key. An answer with a"
    " cursor is a part: call the tool again with the cursor, and the same other arguments, for the next part."
)

Context: TypeAlias = "ServerRequestContext[Any]"
logger = logging.getLogger("redis_store")


class _Session:
    """What a running server has: the store, the feeds of changes, and the subscriptions."""

    def __init__(self, store: AsyncDataStore, read_only: bool, most_tokens: int) -> None:
        self.store = store
        self.most_tokens = most_tokens
        self.subscriptions = Subscriptions()
        self.feeds = ChangeFeeds(store, self.subscriptions.tell, self.subscriptions.namespaces)
        self.tools = Tools(store, self.feeds, read_only, most_tokens)


def mcp_server(
    store: AsyncDataStore | str | None = None,
    *,
    user: str | None = None,
    namespace: str | None = None,
    read_only: bool = False,
    most_tokens: int = DEFAULT_TOKENS,
    **options: Any,
) -> Server[Any]:
    """Return an MCP server for the data of one user: a store for asyncio, or the url of a server and the user's id.

    With `namespace`, the tools reach only that one; without it, all of the user's. Calls that name none use that of the store, or
    ``"default"``. With `read_only`, there are no tools that write. Each answer has at most `most_tokens` tokens, by an estimate.
    A store that is passed stays open, and takes neither `user` nor `options`: it has its own. One that is opened here, with the
    `options` of `connect_async`, closes with the server.
    """
    if not isinstance(most_tokens, int) or isinstance(most_tokens, bool) or most_tokens < LEAST_TOKENS:
        raise InvalidInput(f"The budget of an answer must be at least {LEAST_TOKENS:,} tokens, not {most_tokens!r}.")
    if namespace is not None and namespace.endswith("*"):
        raise InvalidInput(
            f"The namespace {namespace!r} must be one name, not a pattern: name one that does not end with '*'."
        )
    if store is not None and not isinstance(store, (AsyncDataStore, str)):
        raise InvalidType(f"An MCP server needs a store of connect_async, or a url, not {type(store).__name__}.")
    opened: AsyncDataStore | None = None
    if isinstance(store, AsyncDataStore):
        check_no_user(user, "an AsyncDataStore")
        if options:
            raise InvalidType(
                f"{', '.join(sorted(options))} was passed with an AsyncDataStore, which is open already: pass it to"
                " connect_async."
            )
        opened = _narrowed(store, namespace, read_only)
    elif user is None:
        raise InvalidSettings("An MCP server needs the id of a user: pass user, or a store.")
    else:
        open_store = partial(connect_async, store, user=user, **{"agent": "mcp", **options})
        _narrowed(open_store(), namespace, read_only)  # raises now for wrong arguments, and does not connect

    @asynccontextmanager
    async def running(_: Server[Any]) -> AsyncIterator[_Session]:
        async with contextlib.AsyncExitStack() as stack:
            served = opened
            if served is None:
                served = _narrowed(await stack.enter_async_context(open_store()), namespace, read_only)
            session = _Session(served, read_only, most_tokens)
            stack.push_async_callback(session.feeds.close)
            beginning = asyncio.create_task(_follow_at_once(session))
            stack.callback(beginning.cancel)
            yield session

    return Server(
        "redis-store",
        version=__version__,
        title="Agent data store",
        instructions=INSTRUCTIONS,
        lifespan=running,
        on_list_tools=_list_tools,
        on_call_tool=_call_tool,
        on_list_resources=_list_resources,
        on_list_resource_templates=_list_templates,
        on_read_resource=_read_resource,
        on_subscribe_resource=_subscribe,
        on_unsubscribe_resource=_unsubscribe,
        on_subscriptions_listen=_listen,
    )


def _narrowed(store: AsyncDataStore, namespace: str | None, read_only: bool) -> AsyncDataStore:
    if namespace is not None:
        store = store.use_namespace(namespace).restricted(namespaces=[namespace])
    return store.read_only() if read_only else store


async def _follow_at_once(session: _Session) -> None:
    """Follow the server's own namespace, so that `recent_changes` has what happens before its first call."""
    try:
        await session.feeds.of(session.store.namespace)
    except DataStoreError as error:
        logger.warning("The changes of the namespace are followed only when a client asks for them: %s", error)


async def _list_tools(context: Context, _: types.PaginatedRequestParams | None) -> types.ListToolsResult:
    session: _Session = context.lifespan_context
    return types.ListToolsResult(
        tools=[
            types.Tool(
                name=spec.name,
                description=spec.description,
                input_schema=spec.schema,
                annotations=types.ToolAnnotations(
                    read_only_hint=not spec.writes,
                    destructive_hint=spec.destroys if spec.writes else None,
                    open_world_hint=False,
                ),
            )
            for spec in session.tools.specs.values()
        ]
    )


async def _call_tool(context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
    session: _Session = context.lifespan_context
    spec = session.tools.specs.get(params.name)
    if spec is None:
        known = params.name in {other.name for other in TOOLS}
        why = "this server only reads" if known else f"there are {', '.join(session.tools.specs)}"
        raise MCPError(types.INVALID_PARAMS, f"Unknown tool {shortened(params.name)!r}: {why}.")
    try:
        text, failed = await session.tools.call(spec, params.arguments), False
    except DataStoreError as error:
        text, failed = error_text(error), True
    return types.CallToolResult(content=[types.TextContent(text=text)], is_error=failed)


async def _list_resources(context: Context, params: types.PaginatedRequestParams | None) -> types.ListResourcesResult:
    session: _Session = context.lifespan_context
    with _as_protocol_errors():
        return await _resources_from(session, params.cursor if params else None)


async def _resources_from(session: _Session, cursor: str | None) -> types.ListResourcesResult:
    """Return a page of the keys of all namespaces that may be read."""
    at, inner = ("", None) if cursor is None else read_cursor(cursor, (str, str))
    entries = AnswerList(session.most_tokens)
    resources: list[types.Resource] = []
    for short, namespace in sorted((shortened(name), name) for name in await session.store.list_namespaces()):
        if short < at:
            continue
        space = session.store.use_namespace(namespace)
        place = Spot.read(inner or None) if short == at else Spot()
        while True:
            following, page = await space.scan_page(place.scan)
            for key in place.rest_of(following, page):
                uri = uri_of(namespace, key)
                if fits(uri, session.most_tokens // 2):
                    resource = types.Resource(uri=uri, name=entries.name(key), mime_type="application/json")
                    if not entries.add(resource.model_dump(mode="json", by_alias=True, exclude_none=True)):
                        return types.ListResourcesResult(
                            resources=resources, next_cursor=write_cursor(short, place.write())
                        )
                    resources.append(resource)
                place.last = shortened(key)
            if following == "0":
                break
            place = Spot(following)
    return types.ListResourcesResult(resources=resources)


async def _list_templates(_: Context, __: types.PaginatedRequestParams | None) -> types.ListResourceTemplatesResult:
    return types.ListResourceTemplatesResult(
        resource_templates=[
            types.ResourceTemplate(
                uri_template=URI_TEMPLATE,
                name="key",
                description="The value of a key, as JSON. A part of a long one has the URI of the next part in `_meta.next`.",
                mime_type="application/json",
            )
        ]
    )


async def _read_resource(context: Context, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
    session: _Session = context.lifespan_context
    with _as_protocol_errors():
        namespace, key, cursor = parse_uri(params.uri)
        found = await session.tools.read(namespace, key, cursor)
    if found is None:
        code = types.INVALID_PARAMS if context.protocol_version in MODERN_PROTOCOL_VERSIONS else _NOT_FOUND
        raise MCPError(
            code, f"There is no key of the URI {params.uri[:200]!r}: list the resources for those that there are."
        )
    text, following = found
    meta = None if following is None else {"next": uri_of(namespace, key, following)}
    content = types.TextResourceContents(uri=params.uri, mime_type="application/json", text=text, _meta=meta)
    return types.ReadResourceResult(contents=[content])


async def _subscribe(context: Context, params: types.SubscribeRequestParams) -> types.EmptyResult:
    session: _Session = context.lifespan_context
    with _as_protocol_errors():
        await session.subscriptions.subscribe(context.session, params.uri, session.feeds)
    return types.EmptyResult()


async def _unsubscribe(context: Context, params: types.UnsubscribeRequestParams) -> types.EmptyResult:
    session: _Session = context.lifespan_context
    session.subscriptions.unsubscribe(context.session, params.uri)
    return types.EmptyResult()


async def _listen(context: Context, params: types.SubscriptionsListenRequestParams) -> types.SubscriptionsListenResult:
    session: _Session = context.lifespan_context
    with _as_protocol_errors():
        return await session.subscriptions.listen(context, params, session.feeds)


@contextlib.contextmanager
def _as_protocol_errors() -> Any:
    """Answer with an error of the protocol where it has no place for one of a tool."""
    try:
        yield
    except InvalidInput as error:
        raise MCPError(types.INVALID_PARAMS, error_text(error)) from error
    except DataStoreError as error:
        raise MCPError(types.INTERNAL_ERROR, error_text(error)) from error


async def serve_stdio(server: Server[Any]) -> None:
    """Serve one client on this process's stdin and stdout, until it closes them.

    SIGINT and SIGTERM close the store, and then end the process.
    """
    serving, stopped_by = asyncio.current_task(), 0

    def stop(number: int) -> None:
        nonlocal stopped_by
        stopped_by = number
        if serving is not None:
            serving.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(ValueError, RuntimeError):  # signals are handled in the main thread only
            asyncio.get_running_loop().add_signal_handler(number, stop, number)
    async with stdio_server() as (incoming, outgoing):
        try:
            await server.run(incoming, outgoing, server.create_initialization_options())
        finally:
            if stopped_by:  # the thread that reads stdin would keep the process until the client closes it
                signal.signal(stopped_by, signal.SIG_DFL)
                os.kill(os.getpid(), stopped_by)


async def serve_http(server: Server[Any], host: str, port: int, token: str | None = None) -> None:
    """Serve any number of clients by streamable HTTP, at ``/mcp``, until a signal ends it.

    With `token`, each request needs it as a bearer token. Without one, only addresses of this machine are allowed. Port 0 takes
    a free port; the url is printed on stderr.
    """
    if token is not None and len(token) < LEAST_SECRET_CHARS:
        raise InvalidSettings(
            f"The token has {len(token)} characters: set {TOKEN_VARIABLE} to at least {LEAST_SECRET_CHARS}."
        )
    if token is None and host not in LOOPBACK:
        raise InvalidSettings(
            f"Anyone who reaches {host!r} could use the store: set {TOKEN_VARIABLE} to a secret that clients send as bearer"
            " token, or listen on 127.0.0.1."
        )
    app: Any = server.streamable_http_app(host=host)
    if token is not None:
        app = _NeedsToken(app, token)
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise InvalidSettings(
            f"{host}:{port} cannot be listened on ({error}): choose another address or port."
        ) from error
    with listening:
        shown = f"[{host}]" if ":" in host else host
        print(f"Serving http://{shown}:{listening.getsockname()[1]}/mcp", file=sys.stderr, flush=True)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
        await uvicorn.Server(config).serve(sockets=[listening])


class _NeedsToken:
    """Lets only requests with the bearer token through."""

    def __init__(self, app: Any, token: str) -> None:
        self._app = app
        self._wanted = f"Bearer {token}".encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._wanted):
                headers = [(b"www-authenticate", b"Bearer"), (b"content-length", b"0")]
                await send({"type": "http.response.start", "status": 401, "headers": headers})
                await send({"type": "http.response.body"})
                return
        await self._app(scope, receive, send)
