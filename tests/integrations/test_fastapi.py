"""The user's store as a dependency, and the cache of responses, in applications of FastAPI and Starlette."""

import asyncio
import inspect
from datetime import UTC, datetime
from typing import Annotated, Any

import httpx
import pytest
import redis
from fastapi import BackgroundTasks, Cookie, Depends, FastAPI, Header, HTTPException, Query, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse, StreamingResponse
from pydantic import BaseModel, Field, SecretStr
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.routing import Mount, Route

from redis_store import AsyncClient, AsyncDataStore, Client, DataStore, InvalidInput, InvalidName, InvalidType
from redis_store.integrations.fastapi import cached_response, user_store
from tests.integrations.loops import in_loop
from tests.integrations.pages import read_page
from tests.support.servers import free_port


def visit(app: Any, **headers: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", headers=headers)


async def user_of(x_user: Annotated[str, Header()]) -> str:
    if x_user == "nobody":
        raise HTTPException(401)
    return x_user.removeprefix("=")


def counted(app: FastAPI, store: Any, path: str = "/n", **options: Any) -> list[int]:
    """Add an endpoint that counts its calls."""
    calls: list[int] = []

    @app.get(path)
    @cached_response(store, ttl=60, **options)
    async def number(n: int = 0) -> dict[str, int]:
        calls.append(n)
        return {"n": n, "call": len(calls)}

    return calls


@in_loop
async def test_each_request_gets_the_store_of_its_user(server_url: str, user: str) -> None:
    app = FastAPI()
    async with AsyncClient(server_url) as client:
        store_of = user_store(client, user_of, namespace="notes", agent="api")

        @app.put("/notes/{key}")
        async def put(key: str, note: dict[str, Any], store: Annotated[AsyncDataStore, Depends(store_of)]) -> None:
            await store.set(key, note)

        @app.get("/notes/{key}")
        async def get(key: str, store: Annotated[AsyncDataStore, Depends(store_of)]) -> Any:
            return await store.get(key)

        async with visit(app) as web:
            names = [f"{user}:a", f"{user}:*", f"{user}/../a", f"{user}{'x' * 2000}", f"{user}{'x' * 2001}"]
            for name in names:
                await web.put("/notes/a", json={"of": name}, headers={"x-user": name})
            for name in names:
                assert (await web.get("/notes/a", headers={"x-user": name})).json() == {"of": name}
            assert (await web.get("/notes/a", headers={"x-user": "nobody"})).status_code == 401
            with pytest.raises(InvalidName, match="empty"):
                await web.get("/notes/a", headers={"x-user": "="})
        stored = client.store(user=names[0], namespace="notes")
        assert await stored.get("a") == {"of": names[0]}
        assert (await stored.info("a")).updated_by == "api"


def test_endpoints_that_block_get_a_blocking_store(server_url: str, user: str) -> None:
    app = FastAPI()
    with Client(server_url) as client:
        app.state.client = client
        store_of = user_store(lambda: app.state.client, user_of)

        @app.get("/")
        def get(store: Annotated[DataStore, Depends(store_of)]) -> Any:
            return store.increment("n")

        async def twice() -> list[int]:
            async with visit(app, **{"x-user": user}) as web:
                return [(await web.get("/")).json() for _ in range(2)]

        assert asyncio.run(twice()) == [1, 2]


@in_loop
async def test_a_thousand_concurrent_requests_compute_once(server_url: str, user: str) -> None:
    app = FastAPI()
    calls = 0
    async with AsyncClient(server_url, timeout=30) as client:
        await client.ping()

        @app.get("/report/{name}")
        @cached_response(client.store(user=user), ttl=60)
        async def report(name: str) -> dict[str, Any]:
            nonlocal calls
            calls += 1
            await asyncio.sleep(0.05)
            return {"name": name, "call": calls}

        async with visit(app) as web:
            answers = await asyncio.gather(*(web.get("/report/a") for _ in range(1000)))
        assert calls == 1
        assert {answer.text for answer in answers} == {'{"name":"a","call":1}'}
        assert len({answer.headers["etag"] for answer in answers}) == 1


@in_loop
async def test_requests_that_wait_for_an_error_compute_their_own(server_url: str, user: str) -> None:
    app = FastAPI()
    calls = 0
    async with AsyncClient(server_url) as client:

        @app.get("/")
        @cached_response(client.store(user=user), ttl=60)
        async def failing() -> None:
            nonlocal calls
            calls += 1
            await asyncio.sleep(0.02)
            raise HTTPException(404, "not here")

        async with visit(app) as web:
            answers = await asyncio.gather(*(web.get("/") for _ in range(5)))
        assert {(answer.status_code, answer.text) for answer in answers} == {(404, '{"detail":"not here"}')}
        assert calls == 5


@in_loop
async def test_a_known_etag_is_answered_with_304(server_url: str, user: str) -> None:
    app = FastAPI()
    async with AsyncClient(server_url) as client:
        calls = counted(app, client.store(user=user))
        async with visit(app) as web:
            first = await web.get("/n?n=1")
            etag = first.headers["etag"]
            for asked in (etag, f'"x", {etag}', etag.removeprefix("W/"), "*"):
                again = await web.get("/n?n=1", headers={"if-none-match": asked})
                assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
                assert again.headers["cache-control"].startswith("public, max-age=")
                assert again.headers["vary"] == "authorization, cookie"
            other = await web.get("/n?n=1", headers={"if-none-match": '"other"'})
            assert (other.status_code, other.json()) == (200, {"n": 1, "call": 1})
            different = await web.get("/n?n=2", headers={"if-none-match": etag})
            assert (different.status_code, different.json()) == (200, {"n": 2, "call": 2})
        assert calls == [1, 2]


@in_loop
async def test_users_have_responses_of_their_own(server_url: str, user: str) -> None:
    app = FastAPI()
    async with AsyncClient(server_url) as client:
        calls = counted(app, user_store(client, user_of))
        async with visit(app) as web:

            async def ask(who: str) -> httpx.Response:
                return await web.get("/n", headers={"x-user": who, "cookie": "a=b"})

            mine, others = await ask(f"{user}-a"), await ask(f"{user}-b")
            assert (mine.json()["call"], others.json()["call"]) == (1, 2)
            assert (await ask(f"{user}-a")).json()["call"] == 1
            assert mine.headers["cache-control"] == "private, max-age=59"
            assert (await ask("nobody")).status_code == 401
        assert len(calls) == 2


@in_loop
async def test_a_shared_cache_is_not_used_with_credentials(server_url: str, user: str) -> None:
    app = FastAPI()
    async with AsyncClient(server_url) as client:
        store = client.store(user=user)
        careful, careless = counted(app, store, "/careful"), counted(app, store, "/careless", credentials=True)
        async with visit(app) as web:
            for path in ("/careful", "/careless"):
                for headers in ({}, {"authorization": "Bearer a"}, {"cookie": "session=a"}, {}):
                    answer = await web.get(path, headers=headers)
                    assert ("etag" in answer.headers) == (path == "/careless" or not headers)
                    assert ("vary" in answer.headers) == (path == "/careful" and not headers)
        assert (len(careful), len(careless)) == (3, 1)


@in_loop
async def test_a_shared_cache_refuses_the_store_of_a_user(server_url: str, user: str) -> None:
    app = FastAPI()
    async with AsyncClient(server_url) as client:

        @app.get("/")
        @cached_response(client.store(user=user), ttl=60)
        async def mine(store: Annotated[AsyncDataStore, Depends(user_store(client, user_of))]) -> Any:
            return await store.get("mine")

        async with visit(app, **{"x-user": f"{user}-a"}) as web:
            with pytest.raises(InvalidInput, match="give cached_response the dependency"):
                await web.get("/")


class Person(BaseModel):
    name: str
    token: SecretStr


@in_loop
async def test_different_arguments_have_different_responses(server_url: str, user: str) -> None:
    app = FastAPI()

    def person_of(x_name: Annotated[str, Header()] = "") -> Person:
        return Person(name=x_name, token="secret")

    class Session:
        """Of a database."""

    async with AsyncClient(server_url) as client:
        store = client.store(user=user)

        @app.get("/{path:path}")
        @cached_response(store, ttl=60, ignore=["person"], vary=["Accept-Language"])
        async def shown(
            request: Request,
            path: str,
            person: Annotated[Person, Depends(person_of)],
            session: Annotated[str, Cookie()] = "",
            q: Annotated[list[str], Query()] = [],  # noqa: B006
            at: datetime | None = None,
        ) -> list[Any]:
            return [path, q, str(request.url.query), request.headers.get("accept-language"), at, str(request.base_url)]

        async with visit(app) as web:
            asked = [
                ("/a/b", {}), ("/a%2Fb", {}), ("/a?q=b", {}), ("/a?q=b&q=c", {}), ("/a?q=b%26q%3Dc", {}), ("/a%3Fq=b", {}),
                ("/a%0A", {}), ("/*", {}), ("/", {}), ("/" + "x" * 2000, {}), ("/" + "x" * 2001, {}), ("/?other=1", {}),
                ("/", {"accept-language": "de"}), ("/?at=2026-01-01T00:00:00Z", {}),
                ("/", {"host": "other"}),
            ]  # fmt: skip
            first = [(await web.get(path, headers=headers)).json() for path, headers in asked]
            again = [(await web.get(path, headers=headers)).json() for path, headers in asked]
            assert first == again
            assert first[0] == first[1], "the same path"
            assert len({str(one) for one in first}) == len(asked) - 1

        for kind, refused in ((Person, "SecretStr"), (Session, "Session")):

            @cached_response(store, ttl=60)
            async def unknown(request: Request, given: Any) -> str:
                return "for one person"

            scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}
            with pytest.raises(InvalidInput, match=f"{refused}, which cannot be part of a key: name it in ignore="):
                await unknown(request=Request(scope), given=kind() if kind is Session else person_of())


@in_loop
async def test_what_is_for_one_reader_or_no_success_is_not_cached(server_url: str, user: str, tmp_path: Any) -> None:
    app = FastAPI()
    calls: list[str] = []
    (tmp_path / "file").write_text("file")

    async def parts() -> Any:
        yield b"a"
        yield b"b"

    answers = {
        "stream": lambda: StreamingResponse(parts()),
        "file": lambda: FileResponse(tmp_path / "file"),
        "error": lambda: PlainTextResponse("no", 503),
        "created": lambda: PlainTextResponse("yes", 201),
        "cookie": lambda: PlainTextResponse("yes", headers={"set-cookie": "session=1"}),
        "no-store": lambda: PlainTextResponse("yes", headers={"cache-control": "No-Store"}),
        "private": lambda: PlainTextResponse("yes", headers={"cache-control": "max-age=9, private"}),
        "varies": lambda: PlainTextResponse("yes", headers={"vary": "X-Other"}),
        "all": lambda: PlainTextResponse("yes", headers={"vary": "*"}),
        "stored": lambda: PlainTextResponse("yes", headers={"vary": "Origin", "cache-control": "max-age=9"}),
    }
    async with AsyncClient(server_url) as client:
        store = client.store(user=user)

        @app.api_route("/{name}", methods=["GET", "POST"])
        @cached_response(store, ttl=60)
        async def answer(name: str) -> Response:
            calls.append(name)
            return answers[name]()

        @app.get("/values/{status}")
        @cached_response(store, ttl=60)
        async def value(status: int, response: Response, session: str = "") -> dict[str, int]:
            calls.append("value")
            response.status_code = status
            if session:
                response.set_cookie("session", session)
            return {"status": status}

        @app.get("/raised/now")
        @cached_response(store, ttl=60)
        async def raised() -> None:
            calls.append("raised")
            raise ZeroDivisionError

        async with visit(app) as web:
            for name in answers:
                calls.clear()
                first = await web.get(f"/{name}")
                web.cookies.clear()
                second = await web.get(f"/{name}")
                web.cookies.clear()
                assert (first.status_code, first.content) == (second.status_code, second.content)
                assert calls == [name] * (1 if name == "stored" else 2)
            assert second.headers["cache-control"] == "max-age=9"
            assert [await web.post("/stored") for _ in range(2)]
            assert calls == ["stored"] * 3, "a POST is not cached"
            for path in ("/values/404", "/values/202", "/values/200?session=1"):
                calls.clear()
                for _ in range(2):
                    await web.get(path)
                    web.cookies.clear()
                assert calls == ["value"] * 2, path
            calls.clear()
            for _ in range(2):
                with pytest.raises(ZeroDivisionError):
                    await web.get("/raised/now")
            assert calls == ["raised"] * 2
        assert len(await store.use_namespace("responses").list_keys()) == 1


def test_what_cannot_be_cached_is_refused_at_once(server_url: str, user: str) -> None:
    async def lines() -> Any:
        yield "line"

    client = AsyncClient(server_url)
    with pytest.raises(InvalidType, match="streams are not cached"):
        cached_response(client.store(user=user), ttl=60)(lines)
    with pytest.raises(InvalidType, match="AsyncDataStore"):
        cached_response("redis://localhost", ttl=60)
    with pytest.raises(InvalidType, match="put a single one in a list"):
        cached_response(client.store(user=user), ttl=60, tags="item")
    with pytest.raises(InvalidInput, match="max_age"):
        cached_response(client.store(user=user), ttl=60, max_age=-1)
    with pytest.raises(InvalidInput, match="needs a ttl"):
        cached_response(client.store(user=user), ttl=None)
    with pytest.raises(InvalidInput, match="credentials=True was passed with a store for each user"):
        cached_response(user_store(client, user_of), ttl=60, credentials=True)

    def item(name: str) -> str:
        return name

    with pytest.raises(InvalidInput, match="no argument 'nmae' to ignore: there are name"):
        cached_response(client.store(user=user), ttl=60, ignore=["nmae"])(item)


@in_loop
async def test_a_store_of_no_client_or_no_user_is_refused(server_url: str, user: str) -> None:
    async with AsyncClient(server_url) as client:
        for wrong in (server_url, client.store(user=user), None):
            with pytest.raises(InvalidType, match="needs an AsyncClient, a Client, or a function"):
                user_store(wrong, user_of)
            with pytest.raises(InvalidType, match="needs an AsyncClient, a Client, or a function"):
                await user_store(lambda wrong=wrong: wrong, user_of)(user)
        with pytest.raises(InvalidType, match="user must be the dependency that returns the user's id, not str"):
            user_store(client, user)


@in_loop
async def test_tags_delete_responses(server_url: str, user: str) -> None:
    app = FastAPI()
    calls: list[str] = []
    async with AsyncClient(server_url) as client:
        store = client.store(user=user)

        @app.get("/items/{item}")
        @cached_response(store, ttl=60, tags=["items", "item:{item}"])
        async def item(item: str) -> dict[str, Any]:
            calls.append(item)
            return {"item": item, "call": len(calls)}

        async with visit(app) as web:

            async def ask(name: str) -> Any:
                answer = await web.get(f"/items/{name}")
                assert answer.headers["cache-control"] == "public, max-age=0"
                return answer.json()["call"]

            assert [await ask(name) for name in ("a", "b", "a", "b")] == [1, 2, 1, 2]
            assert await store.invalidate_tag("item:a") == 1
            assert [await ask(name) for name in ("a", "b")] == [3, 2]
            assert await store.invalidate_tag("items") == 2
            assert [await ask(name) for name in ("a", "b")] == [4, 5]


@in_loop
async def test_an_old_response_is_served_while_one_request_refreshes_it(server_url: str, user: str) -> None:
    app = FastAPI()
    calls = 0
    begun, go_on = asyncio.Event(), asyncio.Event()
    async with AsyncClient(server_url) as client:

        @app.get("/")
        @cached_response(client.store(user=user), ttl=0.05, stale=60, max_age=5)
        async def number() -> int:
            nonlocal calls
            calls += 1
            if calls == 2:
                begun.set()
                await go_on.wait()
            return calls

        async with visit(app) as web:
            first = await web.get("/")
            assert first.headers["cache-control"] == "public, max-age=5, stale-while-revalidate=60"
            refreshing = asyncio.create_task(_until(web, begun))
            await begun.wait()
            assert (await web.get("/")).json() == 1
            go_on.set()
            assert await refreshing == 2
            assert (await web.get("/")).json() >= 2


async def _until(web: httpx.AsyncClient, begun: asyncio.Event) -> Any:
    """Ask until a request refreshes the response, and return its answer."""
    while True:
        answer = (await web.get("/")).json()
        if begun.is_set():
            return answer


class Account(BaseModel, populate_by_name=True):
    name: str
    made: datetime = Field(default_factory=lambda: datetime.now(UTC))
    kind: str = Field(default="plain", validation_alias="kindIn", serialization_alias="kindOut")


class SecretAccount(Account):
    password: str


@in_loop
async def test_values_are_shown_as_by_the_response_model_and_no_more_is_stored(server_url: str, user: str) -> None:
    app = FastAPI()
    async with AsyncClient(server_url) as client:
        store = client.store(user=user)

        @app.get("/returned")
        @cached_response(store, ttl=60)
        async def returned() -> Account:
            return SecretAccount(name="a", password="hidden", kind="special")

        @app.get("/model", response_model=list[Account])
        @cached_response(store, ttl=60)
        def model(response: Response, tasks: BackgroundTasks):
            response.headers["x-more"] = "1"
            return [SecretAccount(name="b", password="hidden")]

        @app.get("/plain", response_model=None)
        @cached_response(store, ttl=60)
        async def plain():
            return {"at": datetime(2026, 1, 1, tzinfo=UTC), "text": "é\n", "none": None}

        @app.get("/unset", response_model_exclude_unset=True)
        @cached_response(store, ttl=60)
        async def unset() -> Account:
            return Account(name="c")

        async with visit(app) as web:
            for path, shown in (("returned", "special"), ("model", "plain"), ("plain", "é"), ("unset", '{"name":"c"}')):
                first, second = await web.get(f"/{path}"), await web.get(f"/{path}")
                assert first.text == second.text
                assert shown in first.text
                assert "hidden" not in first.text
                assert first.headers.get("x-more") == second.headers.get("x-more")
                assert first.headers["content-type"] == second.headers["content-type"] == "application/json"
            assert (await web.get("/model")).headers.get_list("x-more") == ["1"]
            assert "redis_store" not in str(app.openapi())
        stored = await store.use_namespace("responses").get_all()
        assert len(stored) == 4
        assert "hidden" not in str(stored)


@in_loop
async def test_responses_are_computed_while_the_store_is_away(caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()
    async with AsyncClient(f"redis://127.0.0.1:{free_port()}") as client:
        calls = counted(app, client.store(user="alice"))
        async with visit(app) as web:
            assert [(await web.get("/n")).json()["call"] for _ in range(2)] == [1, 2]
        assert len(calls) == 2
        assert "is computed without it" in caplog.text


@in_loop
async def test_a_response_that_does_not_fit_is_sent_all_the_same(server_url: str, user: str) -> None:
    app = FastAPI()
    async with AsyncClient(server_url, max_value_bytes=1000) as client:

        @app.get("/")
        @cached_response(client.store(user=user), ttl=60)
        async def long() -> Response:
            return PlainTextResponse("x" * 2000)

        async with visit(app) as web:
            assert len((await web.get("/")).text) == 2000


@in_loop
async def test_what_others_wrote_in_the_place_of_a_response_is_not_sent(
    server_url: str, user: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = FastAPI()
    async with AsyncClient(server_url) as client:
        calls = counted(app, client.store(user=user))
        responses = client.store(user=user, namespace="responses")
        async with visit(app) as web:
            first = await web.get("/n")
            (key,) = await responses.list_keys()
            for value in (None, [], "text", {"etag": 1}, {"etag": "", "headers": [], "fresh_until": 1, "value": []}):
                await responses.set(key, value)
                answer = await web.get("/n")
                assert (answer.status_code, answer.json()["n"]) == (200, 0), value
                assert answer.headers["content-type"] == first.headers["content-type"]
        assert len(calls) == 6
        assert "is no cached response" in caplog.text


@in_loop
async def test_starlette_endpoints(server_url: str, user: str) -> None:
    calls: list[str] = []
    async with AsyncClient(server_url) as client:
        shared, namespace = client.store(user=user), "pages"

        @cached_response(shared, ttl=60, tags=["page:{name}"], namespace=namespace)
        async def page(request: Request) -> Response:
            calls.append("page")
            return HTMLResponse(f"<h1>{request.path_params['name']}</h1>", headers={"x-more": "1"})

        @cached_response(lambda request: client.store(user=request.headers["x-user"]), ttl=60)
        def mine(request: Request) -> Response:
            calls.append("mine")
            return Response(b"\xff\x00" + request.headers["x-user"].encode(), media_type="application/octet-stream")

        class Pages(HTTPEndpoint):
            @cached_response(shared, ttl=60)
            async def get(self, request: Request) -> Response:
                calls.append("class")
                return PlainTextResponse(request.url.path)

        inner = Starlette(routes=[Route("/{name}", page)])
        app = Starlette(routes=[Mount("/a", inner), Mount("/b", inner), Route("/mine", mine), Route("/class", Pages)])
        async with visit(app) as web:
            for _ in range(2):
                answer = await web.get("/a/x")
                assert (answer.text, answer.headers["x-more"]) == ("<h1>x</h1>", "1")
                assert answer.headers["content-type"] == "text/html; charset=utf-8"
                assert answer.headers.get_list("content-length") == ["10"]
                assert (await web.get("/class")).text == "/class"
                for who in (f"{user}-a", f"{user}-b"):
                    answer = await web.get("/mine", headers={"x-user": who})
                    assert answer.content == b"\xff\x00" + who.encode()
            assert calls == ["page", "class", "mine", "mine"]
            etag = answer.headers["etag"]
            known = await web.get("/mine", headers={"x-user": f"{user}-b", "if-none-match": etag})
            assert (known.status_code, known.content) == (304, b"")
            assert (await web.head("/a/x")).status_code == 200
            await web.get("/b/x")
            assert calls[4:] == ["page", "page"], "another method, and another mount"
            assert await shared.invalidate_tag("page:x") == 3
            await web.get("/a/x")
            assert calls[6:] == ["page"]


@in_loop
async def test_a_hit_is_one_round_trip_or_none(server_url: str, user: str) -> None:
    app = FastAPI()
    with redis.Redis.from_url(server_url) as raw:
        for near_cache, requests in ((False, 10), (True, 0)):
            async with AsyncClient(server_url, near_cache=near_cache) as client:
                path = f"/near-{near_cache}"
                counted(app, client.store(user=user), path)
                async with visit(app) as web:
                    for _ in range(3):
                        await web.get(path)
                    before = raw.info("stats")["total_commands_processed"]
                    for _ in range(10):
                        await web.get(path)
                    assert raw.info("stats")["total_commands_processed"] - before - 1 == requests


def test_the_example_of_the_page_runs(server_url: str) -> None:
    read_page("fastapi.md", server_url)


def test_decorated_endpoints_keep_their_name_and_parameters(server_url: str, user: str) -> None:
    @cached_response(AsyncClient(server_url).store(user=user), ttl=60)
    async def item(name: str, n: int = 1) -> dict[str, int]:
        """Return an item."""
        return {name: n}

    assert (item.__name__, item.__doc__) == ("item", "Return an item.")
    parameters = inspect.signature(item).parameters
    assert list(parameters)[:2] == ["name", "n"]
    assert parameters["n"].annotation is int
