"""For FastAPI and Starlette: the store of a request's user as a dependency, and a cache of responses."""

from __future__ import annotations

import functools
import inspect
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import date, datetime, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from enum import Enum
from hashlib import sha256
from typing import Any, ParamSpec, TypeVar, cast, overload
from uuid import UUID

from pydantic import BaseModel, TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema
from starlette.background import BackgroundTasks
from starlette.concurrency import run_in_threadpool
from starlette.endpoints import HTTPEndpoint
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from redis_store import AsyncClient, AsyncDataStore, Client, DataStore, bytes_from_json, bytes_to_json, fit_name
from redis_store.errors import ComputeFailed, DataStoreError, InvalidInput, InvalidName, InvalidType
from redis_store.limits import default_ttl_ms
from redis_store.namespace.keys import MAX_AGENT_BYTES, MAX_NAMESPACE_BYTES, MAX_USER_BYTES

try:
    from fastapi import Depends
    from fastapi.encoders import jsonable_encoder
except ImportError:  # Starlette alone
    Depends = None  # type: ignore[assignment]

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger("redis_store")

RESPONSES_NAMESPACE = "responses"
"""Default namespace of cached responses."""

MOST_RESPONSES = 10_000
"""Default bound on the cached responses of one user: a caller who varies the query cannot fill the server."""

MAX_RESPONSE_KEY_BYTES = 1024
"""Longest key of a cached response, in bytes; a longer one ends with a digest."""

_SCALARS = (str, int, float, bool, type(None))
_SHOWN_AS_TEXT = (datetime, date, time_of_day, timedelta, UUID, Decimal)
_NOT_IN_KEYS = (HTTPConnection, Response, BackgroundTasks, HTTPEndpoint, DataStore, AsyncDataStore)
_HIDDEN_REQUEST, _HIDDEN_RESPONSE, _HIDDEN_STORE = "redis_store_request", "redis_store_response", "redis_store_cache"
"""Parameters that FastAPI fills in for the cache."""


@overload
def user_store(
    client: AsyncClient | Callable[[], AsyncClient],
    user: Callable[..., Any],
    *,
    namespace: str = "default",
    agent: str | None = None,
) -> Callable[..., AsyncDataStore]: ...
@overload
def user_store(
    client: Client | Callable[[], Client],
    user: Callable[..., Any],
    *,
    namespace: str = "default",
    agent: str | None = None,
) -> Callable[..., DataStore]: ...
def user_store(
    client: Any, user: Callable[..., Any], *, namespace: str = "default", agent: str | None = None
) -> Callable[..., Any]:
    """Return a FastAPI dependency: the store of the request's user, on the connections of a client that all requests share.

    `client` is an `AsyncClient`, a `Client` for endpoints that block, or a function that returns one, such as
    ``lambda: app.state.client``. `user` is the dependency that authenticates the request and returns the user's id; it runs for
    each request. Any text can be an id: those that are too long for a user id get a suffix, see `fit_name`. An empty id raises
    `InvalidName`.
    """
    if Depends is None:
        raise ImportError("user_store needs FastAPI: pip install 'agent-data-store[fastapi]'.")
    if not callable(user):
        raise InvalidType(
            f"user must be the dependency that returns the user's id, not {type(user).__name__}: pass a function."
        )
    if not isinstance(client, (AsyncClient, Client)) and not callable(client):
        raise _no_client(client)
    given = Depends(user)
    agent_name = None if agent is None else fit_name(agent, MAX_AGENT_BYTES)

    async def store_of_user(user: Any = given) -> Any:
        if not isinstance(user, str):
            raise InvalidType(
                f"The user dependency must return a str, not {type(user).__name__}: return the user's id."
            )
        if not user:
            raise InvalidName("The user dependency returned an empty id: refuse the request there.", kind="user")
        opened = client if isinstance(client, (AsyncClient, Client)) else client()
        if not isinstance(opened, (AsyncClient, Client)):
            raise _no_client(opened)
        return opened.store(user=fit_name(user, MAX_USER_BYTES), namespace=namespace, agent=agent_name)

    return store_of_user


def _no_client(given: object) -> InvalidType:
    return InvalidType(
        f"user_store needs an AsyncClient, a Client, or a function that returns one, not {type(given).__name__}."
    )


def cached_response(
    store: AsyncDataStore | Callable[..., Any],
    *,
    ttl: float | timedelta,
    tags: Iterable[str] | Callable[..., Iterable[str]] | None = None,
    stale: float | timedelta | None = None,
    vary: Iterable[str] = (),
    ignore: Iterable[str] = (),
    max_age: int | None = None,
    credentials: bool = False,
    namespace: str = RESPONSES_NAMESPACE,
    max_keys: int | None = MOST_RESPONSES,
) -> Callable[[Callable[P, R]], Callable[P, Awaitable[Any]]]:
    """Decorate an endpoint of FastAPI or Starlette so that its responses to GET and HEAD requests are cached for `ttl` seconds.

    A `store` that is an `AsyncDataStore` is shared by all. A function gives each request the store of its user: for FastAPI a
    dependency, such as that of `user_store`; for Starlette a function of the request. Dependencies run for each request, so a
    request that they refuse is never answered from the cache. Concurrent requests compute a response once.

    Only responses of status 200 are cached: no streams, files, errors and raised exceptions, and none that set cookies or say
    ``no-store``. A shared cache is not used for requests with `Authorization` or `Cookie`, unless `credentials` says that the
    response does not depend on them; with a function, which tells users apart, `credentials` is refused.

    The key has the path, the query, the request headers named in `vary`, and the endpoint's arguments but those in `ignore`.
    `tags` are templates such as ``"item:{item}"``, or a function of the arguments: `invalidate_tag` of the same store deletes.
    With `stale`, an old response is served for that many seconds more while one request refreshes it.

    Responses get an `ETag`, and `If-None-Match` is answered with 304. `max_age` is for how many seconds browsers and proxies need
    not ask: by default the rest of the ttl, or 0 with tags, because an invalidation does not reach them. While the store is
    unavailable, responses are computed, and a warning is logged.
    """
    if not isinstance(store, AsyncDataStore) and not callable(store):
        raise InvalidType(
            f"The store must be an AsyncDataStore or a dependency that returns one, not {type(store).__name__}:"
            " use connect_async, or user_store with an AsyncClient."
        )
    if isinstance(tags, (str, bytes)) or isinstance(vary, str) or isinstance(ignore, str):
        raise InvalidType("tags, vary and ignore are lists of str: put a single one in a list.")
    if credentials and not isinstance(store, AsyncDataStore):
        raise InvalidInput("credentials=True was passed with a store for each user, which needs none: leave it out.")
    if max_age is not None and (not isinstance(max_age, int) or max_age < 0):
        raise InvalidInput(f"max_age is a number of seconds, 0 or more, not {max_age!r:.80}.")
    ttl_ms, stale_ms = default_ttl_ms(ttl), 0 if stale is None else default_ttl_ms(stale)
    if not isinstance(ttl_ms, int) or not isinstance(stale_ms, int):
        raise InvalidInput("A cached response needs a ttl: give seconds, or a timedelta.")
    options = _CacheOptions(
        store,
        ttl_ms / 1000,
        tags if tags is None or callable(tags) else tuple(tags),
        None if stale is None else stale_ms / 1000,
        tuple(sorted({name.lower() for name in vary})),
        frozenset(ignore),
        max_age,
        credentials,
        namespace,
        max_keys,
    )
    return lambda endpoint: cast("Callable[P, Awaitable[Any]]", _decorated(endpoint, options))


@dataclass(frozen=True, slots=True)
class _CacheOptions:
    """The arguments of `cached_response`, checked."""

    store: AsyncDataStore | Callable[..., Any]
    ttl_s: float
    tags: tuple[str, ...] | Callable[..., Iterable[str]] | None
    stale_s: float | None
    vary: tuple[str, ...]
    ignore: frozenset[str]
    max_age: int | None
    credentials: bool
    namespace: str
    max_keys: int | None

    @property
    def shared(self) -> bool:
        return isinstance(self.store, AsyncDataStore)

    @property
    def told_vary(self) -> tuple[str, ...]:
        """The request headers on which responses depend, for browsers and proxies."""
        if self.shared and self.credentials:
            return self.vary
        return tuple(sorted({*self.vary, "authorization", "cookie"}))


class _NotCached(Exception):
    """A response that must not be stored: its caller gets it, and the waiters compute their own."""


@dataclass(slots=True)
class _Request:
    """One request to a decorated endpoint."""

    request: Request
    response: Response | None
    """The response to whose headers FastAPI adds those of the endpoint's value; None for Starlette."""
    store: AsyncDataStore
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    began: bool = False
    made: Any = _NotCached
    """What the endpoint returned, if this request called it."""


def _decorated(endpoint: Callable[..., Any], options: _CacheOptions) -> Callable[..., Any]:
    name = f"{endpoint.__module__}.{endpoint.__qualname__}"
    if inspect.isgeneratorfunction(endpoint) or inspect.isasyncgenfunction(endpoint):
        raise InvalidType(f"{name} streams, and streams are not cached: remove cached_response.")
    signature = _signature_of(endpoint)
    _check_ignored(name, signature, options.ignore)
    endpoint_of = _Endpoint(endpoint, name, options)

    async def answer(*args: Any, **kwargs: Any) -> Any:
        request = next((one for one in (*args, *kwargs.values()) if isinstance(one, Request)), None)
        if request is None:
            raise InvalidInput(f"{name} was called without a request: a cached response is of an endpoint only.")
        kwargs.pop(_HIDDEN_REQUEST, None)
        response = kwargs.pop(_HIDDEN_RESPONSE, None) or next(
            (v for v in kwargs.values() if isinstance(v, Response)), None
        )
        store = kwargs.pop(_HIDDEN_STORE, None) or await _store_for(options.store, request)
        if not isinstance(store, AsyncDataStore):
            raise InvalidType(
                f"The store of {name} must be an AsyncDataStore, not {type(store).__name__}: use an AsyncClient."
            )
        return await endpoint_of.answer(_Request(request, response, store, args, kwargs))

    functools.update_wrapper(answer, endpoint)
    del answer.__wrapped__  # type: ignore[attr-defined]  # FastAPI would look at the endpoint, which may not be a coroutine
    if Depends is not None:
        answer.__signature__ = _with_hidden(signature, options)  # type: ignore[attr-defined]
        answer.__annotations__ = {}
    return answer


def _check_ignored(name: str, signature: inspect.Signature, ignore: frozenset[str]) -> None:
    """Refuse names in `ignore` that no argument of the endpoint can have."""
    kinds = {each.kind for each in signature.parameters.values()}
    unknown = ignore - signature.parameters.keys()
    if unknown and inspect.Parameter.VAR_KEYWORD not in kinds:
        there_are = ", ".join(signature.parameters) or "no arguments"
        raise InvalidInput(f"{name} has no argument {sorted(unknown)[0]!r} to ignore: there are {there_are}.")


def _signature_of(endpoint: Callable[..., Any]) -> inspect.Signature:
    """Return an endpoint's signature with the annotations that are text evaluated where they were written."""
    names = getattr(inspect.unwrap(endpoint), "__globals__", {})

    def evaluated(annotation: Any, unknown: Any) -> Any:
        try:
            return eval(annotation, names) if isinstance(annotation, str) else annotation
        except NameError:
            return unknown

    signature = inspect.signature(endpoint)
    parameters = [
        each.replace(annotation=evaluated(each.annotation, each.annotation)) for each in signature.parameters.values()
    ]
    returned = evaluated(signature.return_annotation, inspect.Signature.empty)  # may be known to type checkers only
    return signature.replace(parameters=parameters, return_annotation=returned)


def _with_hidden(signature: inspect.Signature, options: _CacheOptions) -> inspect.Signature:
    """Return the signature with what the cache needs of FastAPI, which gives an endpoint one request and one response."""
    kinds = [each.annotation for each in signature.parameters.values()]
    given = {
        wanted
        for wanted in (Request, Response)
        if any(isinstance(kind, type) and issubclass(kind, wanted) for kind in kinds)
    }
    keyword = inspect.Parameter.KEYWORD_ONLY
    hidden = []
    if Request not in given:
        hidden.append(inspect.Parameter(_HIDDEN_REQUEST, keyword, annotation=Request))
    if Response not in given:
        hidden.append(inspect.Parameter(_HIDDEN_RESPONSE, keyword, annotation=Response))
    if not options.shared:
        hidden.append(
            inspect.Parameter(
                _HIDDEN_STORE, keyword, annotation=Any, default=Depends(cast("Callable[..., Any]", options.store))
            )
        )
    mine = list(signature.parameters.values())
    at = next((i for i, each in enumerate(mine) if each.kind is inspect.Parameter.VAR_KEYWORD), len(mine))
    return signature.replace(parameters=[*mine[:at], *hidden, *mine[at:]])


async def _store_for(store: Any, request: Request) -> Any:
    """Return the store of a request of Starlette, or the shared one."""
    if isinstance(store, AsyncDataStore):
        return store
    found = store(request)
    return await found if inspect.isawaitable(found) else found


class _Endpoint:
    """A decorated endpoint."""

    def __init__(self, endpoint: Callable[..., Any], name: str, options: _CacheOptions) -> None:
        self._endpoint = endpoint
        self._name = name
        self._options = options
        self._forms: dict[int, _Form] = {}

    async def answer(self, one: _Request) -> Any:
        """Return the endpoint's answer to a request, from the cache if it is there."""
        headers, options = one.request.headers, self._options
        if one.request.method not in ("GET", "HEAD") or (
            options.shared and not options.credentials and ("authorization" in headers or "cookie" in headers)
        ):
            return await self._run(one)
        arguments = {**one.request.path_params, **one.kwargs}
        cache = one.store.use_namespace(options.namespace, max_keys=options.max_keys)
        key, tags = self._key(one, cache), self._tags(arguments)
        try:
            entry = await cache.get_or_set(
                key,
                lambda: self._compute(one),
                ttl=options.ttl_s,
                stale=options.stale_s,
                tags=tags,
                on_error="compute",
            )
        except _NotCached:
            return one.made
        except ComputeFailed:
            if one.began:  # the endpoint's own
                raise
            return await self._run(one)
        except DataStoreError as error:
            if one.made is _NotCached:
                raise
            logger.warning("the response of %s was computed and could not be stored: %s", self._name, error)
            return one.made
        try:
            return self._rendered(one, cast("dict[str, Any]", entry))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            if one.began:
                raise
            logger.warning("%r is no cached response, so it is computed: %s", key, type(error).__name__)
            return await self._run(one)

    async def _run(self, one: _Request) -> Any:
        if inspect.iscoroutinefunction(self._endpoint):
            return await self._endpoint(*one.args, **one.kwargs)
        return await run_in_threadpool(self._endpoint, *one.args, **one.kwargs)

    async def _compute(self, one: _Request) -> dict[str, Any]:
        one.began = True
        one.made = await self._run(one)
        answer = one.made if isinstance(one.made, Response) else one.response
        if answer is None or not self._may_store(answer):
            raise _NotCached
        entry: dict[str, Any] = {
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in answer.headers.raw],
            "fresh_until": time.time() + self._options.ttl_s,
        }
        if isinstance(one.made, Response):
            body = bytes(answer.body)
            tag = body + repr(answer.headers.get("content-type")).encode()
            try:
                entry["text"] = body.decode()
            except UnicodeDecodeError:
                entry["base64"] = bytes_to_json(body)
        else:
            form = self._form_of(one.request.scope.get("route"))
            entry["value"] = form.to_json(one.made)
            tag = json.dumps([form.digest, entry["value"]], sort_keys=True).encode()
        entry["etag"] = answer.headers.get("etag") or f'W/"{sha256(tag).hexdigest()[:32]}"'
        return entry

    def _may_store(self, answer: Response) -> bool:
        """Whether a response, or one whose headers and status these are, may be given to others."""
        if answer.status_code not in (200, None) or "set-cookie" in answer.headers:
            return False
        if not isinstance(getattr(answer, "body", None), (bytes, memoryview)):
            return False  # a stream or a file
        said = {part.strip().lower() for part in answer.headers.get("cache-control", "").split(",")}
        if "no-store" in said or (self._options.shared and "private" in said):
            return False
        varies = {name.strip().lower() for line in answer.headers.getlist("vary") for name in line.split(",")}
        return varies <= {*self._options.vary, "accept-encoding", "origin", ""}

    def _rendered(self, one: _Request, entry: dict[str, Any]) -> Any:
        """Return the answer to a request: a response, or for FastAPI a value beside headers."""
        own = one.made if isinstance(one.made, Response) else None
        told = self._told(entry)
        if _matches(one.request.headers.get("if-none-match"), entry["etag"]):
            return Response(status_code=304, headers=told, background=None if own is None else own.background)
        if "value" in entry and one.response is not None:
            value = self._form_of(one.request.scope.get("route")).from_json(entry["value"])
            if one.made is _NotCached:
                _add_headers(one.response, entry["headers"])
            _tell(one.response, told)
            return value
        if own is None:
            body = bytes_from_json(entry["base64"]) if "base64" in entry else entry["text"].encode()
            own = Response(body)
            own.raw_headers = []
            _add_headers(own, entry["headers"])
        _tell(own, told)
        return own

    def _told(self, entry: dict[str, Any]) -> dict[str, str]:
        """Return the headers that the cache adds."""
        options = self._options
        said = next((value for name, value in entry["headers"] if name == "cache-control"), None)
        if said is None:
            rest_s = 0 if options.tags is not None else min(options.ttl_s, entry["fresh_until"] - time.time())
            max_age = max(0, int(rest_s)) if options.max_age is None else options.max_age
            said = f"{'public' if options.shared else 'private'}, max-age={max_age}"
            if options.stale_s is not None and max_age > 0:
                said += f", stale-while-revalidate={int(options.stale_s)}"
        told = {"etag": entry["etag"], "cache-control": said}
        return {**told, "vary": ", ".join(options.told_vary)} if options.told_vary else told

    def _key(self, one: _Request, cache: AsyncDataStore) -> str:
        request = one.request
        about = [
            self._name,
            request.method,
            request.url.scheme,
            request.headers.get("host"),  # an endpoint may make links of it
            request.scope.get("root_path", ""),
            request.scope["path"],
            request.url.query,
            [request.headers.getlist(name) for name in self._options.vary],
            self._plain(one.args, cache),
            {
                name: self._plain(each, cache, name)
                for name, each in one.kwargs.items()
                if name not in self._options.ignore
            },
            self._form_of(request.scope.get("route")).digest,
        ]
        return fit_name(json.dumps(about, ensure_ascii=False, sort_keys=True), MAX_RESPONSE_KEY_BYTES)

    def _plain(self, value: Any, cache: AsyncDataStore, what: str = "argument") -> Any:
        """Return an argument as JSON that differs for different arguments; refuse one of which that is not known."""
        if isinstance(value, (DataStore, AsyncDataStore)) and value.user != cache.user:
            raise InvalidInput(
                f"{self._name} uses a store of {value.user!r}, and its responses are cached for others too:"
                " give cached_response the dependency that returns the user's store."
            )
        if type(value) in _SCALARS:
            return value
        if isinstance(value, _NOT_IN_KEYS):
            return None
        within = functools.partial(self._plain, cache=cache, what=what)
        if isinstance(value, Enum):
            return ["enum", value.name]
        if isinstance(value, _SHOWN_AS_TEXT):
            return [type(value).__name__, str(value)]
        if isinstance(value, (bytes, bytearray)):
            return ["bytes", value.hex()]
        if isinstance(value, (set, frozenset)):
            return ["set", sorted((within(each) for each in value), key=repr)]
        if isinstance(value, (list, tuple)):
            return [within(each) for each in value]
        if isinstance(value, Mapping):
            return ["map", [[within(key), within(each)] for key, each in value.items()]]
        if isinstance(value, BaseModel):
            return [
                type(value).__qualname__,
                within(vars(value)),
                within(value.__pydantic_extra__),
                within(value.__pydantic_private__),
            ]
        if is_dataclass(value) and not isinstance(value, type):
            return [type(value).__qualname__, [within(getattr(value, each.name)) for each in fields(value)]]
        if isinstance(value, _SCALARS):  # a subclass
            return [type(value).__qualname__, str(value)]
        raise InvalidInput(
            f"The argument {what} of {self._name} is a {type(value).__name__}, which cannot be part of a key: name it in"
            " ignore=, if responses do not depend on it."
        )

    def _tags(self, arguments: dict[str, Any]) -> list[str] | None:
        tags = self._options.tags
        if tags is None:
            return None
        if callable(tags):
            made = list(tags(**arguments))
        else:
            try:
                made = [tag.format(**arguments) for tag in tags]
            except (LookupError, AttributeError, ValueError) as error:
                raise InvalidInput(
                    f"The tags of {self._name} cannot be filled ({type(error).__name__}: {error}): there are"
                    f" {', '.join(arguments) or 'no arguments'}."
                ) from None
        return [fit_name(tag, MAX_NAMESPACE_BYTES) for tag in made]

    def _form_of(self, route: Any) -> _Form:
        if id(route) not in self._forms:
            self._forms[id(route)] = _Form(route)
        return self._forms[id(route)]


class _Form:
    """How the values of a route of FastAPI are stored; nothing for a route of Starlette."""

    def __init__(self, route: Any) -> None:
        self.route = route  # kept, so that no other gets its id
        model = getattr(route, "response_model", None)
        self._adapter: TypeAdapter[Any] | None = None if model is None else TypeAdapter(model)
        self._leaves_unset = bool(getattr(route, "response_model_exclude_unset", False))
        self.digest = "" if self._adapter is None else _digest_of(self._adapter)
        """Of the form of values: after a change of the code, responses are computed anew."""

    def to_json(self, value: Any) -> Any:
        """Return a value as JSON, with the fields that the response shows and no others."""
        if self._adapter is None:
            return jsonable_encoder(value)
        whole = self._adapter.validate_python(value, from_attributes=True)
        return self._adapter.dump_python(
            whole, mode="json", round_trip=True, by_alias=False, exclude_unset=self._leaves_unset, warnings=False
        )

    def from_json(self, value: Any) -> Any:
        """Return the value of `to_json`, for FastAPI to serialize as it does what the endpoint returns."""
        if self._adapter is None:
            return value
        return self._adapter.validate_python(value, by_alias=False, by_name=True)


def _digest_of(adapter: TypeAdapter[Any]) -> str:
    try:
        schemas = [adapter.json_schema(mode="serialization"), adapter.json_schema(mode="validation")]
    except PydanticInvalidForJsonSchema:  # a type of the caller's, which has no schema
        return ""
    return sha256(json.dumps(schemas, sort_keys=True).encode()).hexdigest()[:16]


def _add_headers(response: Response, headers: list[list[str]]) -> None:
    response.headers.raw.extend((name.encode("latin-1"), value.encode("latin-1")) for name, value in headers)


def _tell(response: Response, told: dict[str, str]) -> None:
    """Set the headers of the cache; the response may vary by more."""
    response.headers.update({name: value for name, value in told.items() if name != "vary"})
    if "vary" in told:
        response.headers.add_vary_header(told["vary"])


def _matches(asked: str | None, etag: str) -> bool:
    """Whether `If-None-Match` names this tag, by the weak comparison."""
    if asked is None:
        return False
    named = [each.strip().removeprefix("W/") for each in asked.split(",")]
    return "*" in named or etag.removeprefix("W/") in named
