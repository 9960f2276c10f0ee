"""The session service of Google ADK: the contract of its services, and what several processes need."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import redis

if not os.environ.get("CI"):
    pytest.importorskip("google.adk.errors.session_not_found_error", reason="pip install 'google-adk>=2.13'")

from google.adk.errors.already_exists_error import AlreadyExistsError
from google.adk.errors.session_not_found_error import SessionNotFoundError
from google.adk.events.event import Event
from google.adk.events.event_actions import EventActions
from google.adk.sessions import BaseSessionService, InMemorySessionService, Session
from google.adk.sessions.base_session_service import GetSessionConfig
from google.genai import types

from redis_store import InvalidInput, connect_async
from redis_store.integrations.adk import StoreSessionService
from tests.integrations.killed import run_and_kill, stepped_writer
from tests.integrations.loops import in_loop
from tests.integrations.pages import read_page


def on_each(test: Callable[[BaseSessionService], Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a case on our service, and on the peer's own, which says what is right."""

    @pytest.mark.parametrize("whose", ["ours", "in memory"])
    def run(server_url: str, user: str, whose: str) -> None:
        async def on_a_service() -> None:
            if whose == "in memory":
                await test(InMemorySessionService())
            else:
                async with StoreSessionService(server_url, user=user) as service:
                    await test(service)

        asyncio.run(on_a_service())

    run.__name__ = test.__name__
    return run


def changed(**state: Any) -> Event:
    """Return an event that changes states; ``user__k`` stands for ``user:k``."""
    delta = {key.replace("__", ":"): value for key, value in state.items()}
    return Event(author="user", invocation_id="i", actions=EventActions(state_delta=delta))


async def got(service: BaseSessionService, session: Session, **config: Any) -> Session:
    found = await service.get_session(
        app_name=session.app_name,
        user_id=session.user_id,
        session_id=session.id,
        config=GetSessionConfig(**config) if config else None,
    )
    assert found is not None
    return found


async def ids_of(service: BaseSessionService, app: str, user: str | None) -> list[tuple[str, str]]:
    listed = await service.list_sessions(app_name=app, user_id=user)
    assert not any(session.events for session in listed.sessions)
    return [(session.user_id, session.id) for session in listed.sessions]


@on_each
async def test_a_session_is_created_read_and_deleted(service: BaseSessionService) -> None:
    where = {"app_name": "app", "user_id": "u"}
    assert await service.get_session(**where, session_id="1") is None
    session = await service.create_session(**where, state={"key": "value"})
    assert (session.app_name, session.user_id, session.state) == ("app", "u", {"key": "value"})
    assert session.id
    assert session.last_update_time <= time.time()
    assert await got(service, session) == session
    await service.delete_session(**where, session_id=session.id)
    await service.delete_session(**where, session_id=session.id)
    assert await service.get_session(**where, session_id=session.id) is None
    with pytest.raises(SessionNotFoundError):
        await service.append_event(session, changed(k=1))
    assert await service.get_session(**where, session_id=session.id) is None


@on_each
async def test_an_id_is_used_once_and_without_spaces_around(service: BaseSessionService) -> None:
    where = {"app_name": "app", "user_id": "u"}
    session = await service.create_session(**where, session_id=" s\n", state={"user:k": 1})
    assert session.id == "s"
    for name in ("s", " s "):
        assert (await service.get_session(**where, session_id=name)).id == "s"
        with pytest.raises(AlreadyExistsError):
            await service.create_session(**where, session_id=name, state={"user:k": 2, "app:k": 2})
    assert (await got(service, session)).state == {"user:k": 1}
    assert (await service.create_session(**where, session_id="  ")).id.strip()
    await service.delete_session(**where, session_id=" s ")
    assert await service.get_session(**where, session_id="s") is None


@on_each
async def test_sessions_are_listed_in_the_order_of_their_last_updates(service: BaseSessionService) -> None:
    for user, name in (("u", "1"), ("u", "2"), ("v", "1"), ("v", "3")):
        session = await service.create_session(app_name="app", user_id=user, session_id=name, state={"k": name})
        event = changed(k2=user)
        event.timestamp = {"1": 3.0, "2": 1.0, "3": 2.0}[name]
        await service.append_event(session, event)
    await service.create_session(app_name="other", user_id="u", session_id="x")
    assert await ids_of(service, "app", "u") == [("u", "2"), ("u", "1")]
    assert await ids_of(service, "app", None) == [("u", "2"), ("v", "3"), ("u", "1"), ("v", "1")]
    listed = await service.list_sessions(app_name="app", user_id="v")
    assert [session.state for session in listed.sessions] == [{"k": "3", "k2": "v"}, {"k": "1", "k2": "v"}]
    for app, user in (("app", ""), ("app", "w"), ("", None), ("nowhere", None), ("app", "*"), ("a*", None)):
        assert await ids_of(service, app, user) == []


@on_each
async def test_states_are_of_the_app_the_user_or_the_session(service: BaseSessionService) -> None:
    first = await service.create_session(
        app_name="app", user_id="u", session_id="1", state={"app:a": 1, "user:u": 1, "s": 1, "temp:t": 1}
    )
    assert first.state == {"app:a": 1, "user:u": 1, "s": 1}
    await service.append_event(first, changed(app__b=2, user__v=2, r=2, temp__t=2))
    assert first.state == {"app:a": 1, "app:b": 2, "user:u": 1, "user:v": 2, "s": 1, "r": 2, "temp:t": 2}
    again = await got(service, first)
    assert again.state == {"app:a": 1, "app:b": 2, "user:u": 1, "user:v": 2, "s": 1, "r": 2}
    assert again.events[0].actions.state_delta == {"app:b": 2, "user:v": 2, "r": 2}
    second = await service.create_session(app_name="app", user_id="u", session_id="2")
    assert second.state == {"app:a": 1, "app:b": 2, "user:u": 1, "user:v": 2}
    third = await service.create_session(app_name="app", user_id="v", session_id="1")
    assert third.state == {"app:a": 1, "app:b": 2}
    assert (await service.create_session(app_name="other", user_id="u")).state == {}
    assert await service.get_user_state(app_name="app", user_id="u") == {"u": 1, "v": 2}
    assert await service.get_user_state(app_name="app", user_id="nobody") == {}
    await service.append_event(second, changed(user__u=None))
    assert (await got(service, first)).state["user:u"] is None
    assert len((await got(service, third)).events) == 0


@on_each
async def test_an_event_comes_back_as_it_was(service: BaseSessionService) -> None:
    session = await service.create_session(app_name="app", user_id="u")
    image = types.Part.from_bytes(data=b"\x00\xffimage", mime_type="image/png")
    await service.append_event(
        session,
        Event(
            invocation_id="i",
            author="user",
            content=types.Content(role="user", parts=[types.Part(text="é\u2028"), image]),
            grounding_metadata=types.GroundingMetadata(search_entry_point=types.SearchEntryPoint(sdk_blob=b"\xff")),
            actions=EventActions(artifact_delta={"file": 0}, transfer_to_agent="agent", escalate=True),
            long_running_tool_ids={"tool"},
            error_code="code",
            interrupted=True,
            turn_complete=True,
            usage_metadata=types.GenerateContentResponseUsageMetadata(total_token_count=2),
            custom_metadata={"key": [1, None]},
            output_transcription=types.Transcription(text="text", finished=True),
        ),
    )
    assert await got(service, session) == session


@on_each
async def test_a_part_of_the_events_is_read(service: BaseSessionService) -> None:
    session = await service.create_session(app_name="app", user_id="u")
    for number in range(1, 6):
        await service.append_event(session, Event(author="user", timestamp=number))
    for config, wanted in (
        ({}, [1, 2, 3, 4, 5]),
        ({"num_recent_events": 3}, [3, 4, 5]),
        ({"num_recent_events": 9}, [1, 2, 3, 4, 5]),
        ({"num_recent_events": 0}, []),
        ({"after_timestamp": 4.0}, [4, 5]),
        ({"after_timestamp": 50.0}, []),
        ({"num_recent_events": 3, "after_timestamp": 4.0}, [4, 5]),
        ({"num_recent_events": 1, "after_timestamp": 4.0}, [5]),
    ):
        assert [event.timestamp for event in (await got(service, session, **config)).events] == wanted, config
    assert (await got(service, session)).last_update_time == session.last_update_time == 5


@on_each
async def test_a_partial_event_is_not_kept_and_a_repeated_one_once(service: BaseSessionService) -> None:
    session = await service.create_session(app_name="app", user_id="u")
    await service.append_event(session, Event(author="user", partial=True))
    assert session.events == (await got(service, session)).events == []
    event = changed(k=1)
    await service.append_event(session, event)
    await service.append_event(session, event.model_copy(deep=True))
    other = Event(id=event.id, author="agent", timestamp=event.timestamp)
    await service.append_event(session, other)
    assert session.events == (await got(service, session)).events == [event, other]


@on_each
async def test_a_session_that_others_went_on_with_loses_nothing(service: BaseSessionService) -> None:
    mine = await service.create_session(app_name="app", user_id="u")
    others = await got(service, mine)
    await service.append_event(others, changed(k=1, of="others"))
    await service.append_event(mine, changed(l=2))
    final = await got(service, mine)
    assert final.state == {"k": 1, "of": "others", "l": 2}
    assert len(final.events) == 2


@on_each
async def test_hostile_names_are_of_sessions_of_their_own(service: BaseSessionService) -> None:
    names = ["*", "a", "a:b", 'a","b', "a\n", "a/../b", "[a]", "user:a", "~" + "0" * 64, "x" * 3000, "x" * 3001, "é"]
    sessions = []
    for at, (app, user) in enumerate([(a, b) for a in names for b in names]):
        name = names[at % len(names)]
        sessions.append(
            await service.create_session(app_name=app, user_id=user, session_id=name, state={"n": at, "user:n": at})
        )
    for at, session in enumerate(sessions):
        assert (await got(service, session)).state == {"n": at, "user:n": at}
    for name in names:
        assert sorted(user for user, _ in await ids_of(service, name, None)) == sorted(names)
    assert await ids_of(service, "a", "*") == [("*", sessions[names.index("a") * len(names)].id)]


@in_loop
async def test_concurrent_appends_are_all_kept(server_url: str, user: str) -> None:
    async with (
        StoreSessionService(server_url, user=user) as first,
        StoreSessionService(server_url, user=user) as second,
    ):
        session = await first.create_session(app_name="app", user_id="u", session_id="s")
        copies = [await got(first, session) for _ in range(10)]
        await asyncio.gather(
            *(
                (first if at % 2 else second).append_event(copy, changed(**{f"k{at}": at, "user__n": at, "app__n": at}))
                for at, copy in enumerate(copies)
            )
        )
        final = await got(first, session)
        assert len(final.events) == 10
        assert {f"k{at}": at for at in range(10)}.items() <= final.state.items()
        last = final.events[-1].actions.state_delta
        assert (final.state["user:n"], final.state["app:n"]) == (last["user:n"], last["app:n"])


@in_loop
async def test_values_that_json_cannot_represent_are_stored_as_text(
    server_url: str, user: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with StoreSessionService(server_url, user=user) as service:
        session = await service.create_session(app_name="app", user_id="u", state={"object": object(), "n": 1})
        assert session.state["n"] == 1
        assert "object" in session.state["object"]
        assert "stored as text" in caplog.text


@in_loop
async def test_what_is_left_in_the_store_and_how_often_it_is_asked(server_url: str, user: str) -> None:
    async with connect_async(server_url, user=user) as data_store:
        service = StoreSessionService(data_store)
        session = await service.create_session(app_name="app", user_id="u", state={"k": 1})
        await service.append_event(session, changed(k=2))
        with redis.Redis.from_url(server_url) as raw:
            before = raw.info("stats")["total_reads_processed"]
            await service.append_event(session, changed(k=3))
            assert raw.info("stats")["total_reads_processed"] - before - 1 == 3
            before = raw.info("stats")["total_reads_processed"]
            assert len((await got(service, session)).events) == 2
            assert raw.info("stats")["total_reads_processed"] - before - 1 == 2
        await service.delete_session(app_name="app", user_id="u", session_id=session.id)
        assert await data_store.list_namespaces() == []
        session = await service.create_session(app_name="app", user_id="u", state={"user:k": 1})
        await service.delete_session(app_name="app", user_id="u", session_id=session.id)
        assert await data_store.list_namespaces() == ['adk:states:["app"]']  # the user's state
        await service.close()
        assert await data_store.list_namespaces(), "the store was not the service's to close"
    with pytest.raises(InvalidInput, match="must not be empty"):
        StoreSessionService(connect_async(server_url, user=user), namespace="")
    with pytest.raises(InvalidInput, match="has its user already: leave it out"):
        StoreSessionService(connect_async(server_url, user=user), user=user)


APPENDING = """
import asyncio, sys
from google.adk.events.event import Event
from google.adk.events.event_actions import EventActions
from redis_store.integrations.adk import StoreSessionService

async def main(url, user):
    async with StoreSessionService(url, user=user) as service:
        session = await service.create_session(app_name="app", user_id="u", session_id="s")
        for n in range(1, 1_000_000):
            delta = {"n": n, "user:n": n, "app:n": n}
            await service.append_event(session, Event(author="user", actions=EventActions(state_delta=delta)))
            if n == 20:
                print("going", flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


def test_a_killed_process_leaves_no_half_written_event(server_url: str, user: str) -> None:
    run_and_kill(APPENDING, server_url, user, lines=1)

    async def check() -> None:
        async with StoreSessionService(server_url, user=user) as service:
            session = await service.get_session(app_name="app", user_id="u", session_id="s")
            number = len(session.events)
            assert session.state == {"n": number, "user:n": number, "app:n": number}
            assert session.events[-1].actions.state_delta["n"] == number
            await service.append_event(session, changed(n=number + 1))

    asyncio.run(check())


WRITES = """
from redis_store.integrations.adk import StoreSessionService

async def write(store, what):
    at = {"app_name": "app", "user_id": "u"}
    service = StoreSessionService(store)
    if what == "create":
        await service.create_session(**at, session_id="new", state={"n": 9, "user:n": 9, "app:n": 9})
    else:
        await service.delete_session(**at, session_id="s")
"""


@pytest.mark.parametrize(
    ("what", "after"),
    [("create", [("new", 9, 9, 0), ("s", 1, 9, 2)]), ("delete", [])],
    ids=lambda value: str(value)[:6],
)
def test_a_killed_process_leaves_no_half_session(server_url: str, user: str, what: str, after: list[Any]) -> None:
    before = [("s", 1, 1, 2)]

    async def reset() -> None:
        async with connect_async(server_url, user=user) as store:
            for name in await store.list_namespaces():
                await store.use_namespace(name).clear()
        async with StoreSessionService(server_url, user=user) as service:
            state = {"n": 1, "user:n": 1, "app:n": 1}
            session = await service.create_session(app_name="app", user_id="u", session_id="s", state=state)
            for n in range(2):
                await service.append_event(session, changed(of=n))

    async def found() -> list[Any]:
        async with StoreSessionService(server_url, user=user) as service:
            shown = []
            for _, session_id in await ids_of(service, "app", "u"):
                session = await service.get_session(app_name="app", user_id="u", session_id=session_id)
                state = session.state
                assert state["user:n"] == state["app:n"]
                shown.append((session_id, state["n"], state["user:n"], len(session.events)))
            return sorted(shown)

    seen = []
    killed = True
    with stepped_writer(server_url, WRITES) as writer:
        while killed:
            asyncio.run(reset())
            killed = writer.is_killed(user, what, len(seen) + 1)
            seen.append(asyncio.run(found()))
    assert len(seen) > 1
    assert all(each in (before, after) for each in seen)
    assert (seen[0], seen[-1]) == (before, after)


def test_the_example_of_the_page_runs(server_url: str) -> None:
    read_page("adk.md", server_url)
