"""The OpenAI Agents SDK: what the tests of its session for Redis ask in general, in our words, and what they do not ask."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis
from agents import Agent, RunConfig, Runner, function_tool, set_tracing_disabled
from agents.extensions.memory.encrypt_session import EncryptedSession
from agents.memory import Session, SessionSettings
from agents.testing import ScriptedModel
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText

from redis_store import (
    DataStore,
    InvalidName,
    InvalidType,
    InvalidValue,
    LimitExceeded,
    StoreClosed,
    StoredDataError,
    connect_async,
)
from redis_store.integrations.openai_agents import ConversationSession
from tests.integrations.loops import in_loop
from tests.integrations.pages import read_page
from tests.integrations.requests import counted_requests

set_tracing_disabled(True)


def messages(*texts: object) -> list[Any]:
    return [{"role": "user", "content": str(text)} for text in texts]


def texts_of(items: list[Any]) -> list[Any]:
    return [item["content"] for item in items]


def answer(text: str) -> Any:
    part = ResponseOutputText(text=text, type="output_text", annotations=[], logprobs=[])
    return ResponseOutputMessage(id="1", type="message", role="assistant", content=[part], status="completed")


@asynccontextmanager
async def opened(url: str, user: str, session_id: str = "chat", **options: Any) -> AsyncIterator[ConversationSession]:
    async with ConversationSession(session_id, url, user=user, **options) as session:
        yield session


@in_loop
async def test_add_get_pop_clear(server_url: str, user: str) -> None:
    async with opened(server_url, user) as session:
        assert isinstance(session, Session)
        assert await session.get_items() == []
        assert await session.pop_item() is None
        await session.add_items([])
        assert await session.get_items() == []
        await session.add_items(messages("Hello"))
        await session.add_items([{"role": "assistant", "content": "Hi there!"}])
        assert await session.get_items() == [*messages("Hello"), {"role": "assistant", "content": "Hi there!"}]
        assert await session.pop_item() == {"role": "assistant", "content": "Hi there!"}
        assert await session.get_items() == messages("Hello")
        await session.clear_session()
        assert await session.get_items() == []
        assert await session.pop_item() is None


@in_loop
async def test_the_last_items(server_url: str, user: str) -> None:
    async with opened(server_url, user) as session:
        await session.add_items(messages(1, 2, 3, 4))
        assert texts_of(await session.get_items(limit=2)) == ["3", "4"]
        assert texts_of(await session.get_items(limit=10)) == ["1", "2", "3", "4"]
        assert await session.get_items(limit=0) == await session.get_items(limit=-3) == []


@pytest.mark.parametrize("settings", [SessionSettings(limit=3), {"limit": 3}], ids=["object", "dict"])
@in_loop
async def test_settings_have_a_limit_that_a_call_overrides(server_url: str, user: str, settings: Any) -> None:
    async with opened(server_url, user, session_settings=settings) as session:
        assert session.session_settings == SessionSettings(limit=3)
        await session.add_items(messages(*range(10)))
        assert texts_of(await session.get_items()) == ["7", "8", "9"]
        assert texts_of(await session.get_items(limit=2)) == ["8", "9"]
    async with opened(server_url, user) as session:
        assert session.session_settings == SessionSettings()
        assert len(await session.get_items()) == 10


@in_loop
async def test_items_come_back_as_they_were(server_url: str, user: str) -> None:
    texts = [
        "こんにちは",
        "😊👍",
        "O'Reilly",
        '{"nested": "json"}',
        '"SELECT * FROM users WHERE name = "admin";"',
        "Robert'); DROP TABLE students;--",
        "Line1\nLine2\tTabbed\0",
        "\\n\\t\\r \\u0041",
        "",
    ]
    parts = [{"role": "user", "content": [{"type": "input_text", "text": "x"}, {"type": "input_image", "n": 1.0}]}]
    async with opened(server_url, user) as session:
        await session.add_items(messages(*texts) + parts)
        assert await session.get_items() == messages(*texts) + parts
        with pytest.raises(InvalidValue):
            await session.add_items([*messages("fine"), {"role": "user", "content": b"bytes"}])
        assert len(await session.get_items()) == len(texts) + 1


@in_loop
async def test_concurrent_writers_lose_nothing(server_url: str, user: str) -> None:
    async with opened(server_url, user) as first, opened(server_url, user) as second:
        batches = [messages(*range(start, start + 5)) for start in range(0, 50, 5)]
        await asyncio.gather(*((first, second)[n % 2].add_items(batch) for n, batch in enumerate(batches)))
        found = texts_of(await first.get_items())
        assert sorted(found, key=int) == [str(n) for n in range(50)]
        assert all(found[n : n + 5] == [str(int(found[n]) + m) for m in range(5)] for n in range(0, 50, 5))
        popped = await asyncio.gather(*(session.pop_item() for session in [first, second] * 30))
        assert sorted(int(item["content"]) for item in popped if item) == list(range(50))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a", "b"),
        ("*", "a"),
        ("", "/"),
        ("a/b", "a"),
        ("a\n", "a"),
        ("x" * 2048, "x" * 2047),
        ("\ud800", "\ud801"),
        ("../" * 9, ".."),
    ],
    ids=ascii,
)
@in_loop
async def test_sessions_are_apart(server_url: str, user: str, one: str, other: str) -> None:
    async with (
        opened(server_url, user, one) as mine,
        opened(server_url, user, other) as theirs,
        opened(server_url, user, one, prefix="app2") as elsewhere,
        opened(server_url, f"{user}-2", one) as of_another_user,
    ):
        await mine.add_items(messages("mine"))
        await theirs.add_items(messages("theirs"))
        await elsewhere.add_items(messages("elsewhere"))
        assert await of_another_user.get_items() == []
        await of_another_user.clear_session()
        await theirs.clear_session()
        assert texts_of(await mine.get_items()) == ["mine"]
        assert texts_of(await elsewhere.get_items()) == ["elsewhere"]
        assert await theirs.get_items() == []


@in_loop
async def test_a_ttl_is_that_of_the_whole_session(server_url: str, user: str, store: DataStore) -> None:
    async with opened(server_url, user, ttl=100) as session:
        await session.add_items(messages(1, 2))
        namespace = store.use_namespace("sessions/chat")
        for key in namespace.list_keys():
            namespace.expire(key, 5)
        await session.add_items(messages(3))
        lives = [info.expires_at for _, info in namespace.get_all(info=True).values() if info.expires_at]
        assert len(lives) == 3
        assert (max(lives) - min(lives)).total_seconds() < 5
        for key in namespace.list_keys():
            namespace.expire(key, 0.001)
        while await session.get_items():
            await asyncio.sleep(0.001)
        await session.add_items(messages(4))
        assert texts_of(await session.get_items()) == ["4"]


@in_loop
async def test_takes_one_round_trip_for_each_call_however_long_the_session_is(server_url: str, user: str) -> None:
    async with opened(server_url, user) as session:
        for _ in range(3):
            await session.add_items(messages(*range(1000)))

        async def use_each() -> None:
            await session.add_items(messages(*range(5)))
            await session.get_items(limit=50)
            await session.clear_session()

        await use_each()
        with counted_requests(server_url) as requests:
            await use_each()
            assert requests() == 3
        with pytest.raises(LimitExceeded, match="in parts"):
            await session.add_items(messages(*range(1001)))
        assert await session.get_items() == []


KILLED = """
import asyncio, os, sys
from redis_store.integrations.openai_agents import ConversationSession
from redis_store import AsyncStoredSequence

async def die(self, *items):
    os.kill(os.getpid(), 9)

async def main():
    session = ConversationSession("chat", sys.argv[1], user=sys.argv[2], ttl=50)
    AsyncStoredSequence.append = die
    await session.add_items([{"role": "user", "content": "new"}])

asyncio.run(main())
"""


@in_loop
async def test_a_killed_writer_leaves_the_session_as_it_was(server_url: str, user: str) -> None:
    async with opened(server_url, user, ttl=100) as session:
        await session.add_items(messages(1, 2))
        child = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", KILLED, server_url, user], check=False)
        assert child.returncode == -9
        assert texts_of(await session.get_items()) == ["1", "2"]


@in_loop
async def test_an_item_that_cannot_be_read_is_not_left_out(server_url: str, user: str, store: DataStore) -> None:
    async with opened(server_url, user) as session:
        await session.add_items(messages(1, 2))
        store.sequence("sessions/chat").append("no item, but a value")
        assert (await session.get_items())[2] == "no item, but a value"
        with redis.Redis.from_url(server_url) as raw:
            (data,) = raw.scan_iter(f"user:{user}:ns:sessions/chat")
            raw.hset(data, "0000000000000002", "{incomplete")
        with pytest.raises(StoredDataError):
            await session.get_items()
        with pytest.raises(StoredDataError):
            await session.pop_item()
        assert texts_of(await session.get_items(limit=0)) == []


@in_loop
async def test_closes_what_it_has_opened_and_nothing_else(server_url: str, user: str) -> None:
    session = ConversationSession("chat", server_url, user=user)
    await session.add_items(messages(1))
    await asyncio.gather(session.close(), session.close())
    for call in (session.get_items, session.pop_item, session.clear_session, lambda: session.add_items(messages(2))):
        with pytest.raises(RuntimeError) as caught:
            await call()
        assert isinstance(caught.value, StoreClosed)
    async with connect_async(server_url, user=user) as store:
        async with ConversationSession("chat", store) as shared:
            assert texts_of(await shared.get_items()) == ["1"]
        assert await store.sequence("sessions/chat").count() == 1


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"session_id": 1, "user": "a"}, InvalidType),
        ({"session_id": "a"}, InvalidType),
        ({"session_id": "a", "store": 1, "user": "a"}, InvalidType),
        ({"session_id": "a", "user": "a", "prefix": "a/b"}, InvalidName),
        ({"session_id": "a", "user": "a", "prefix": ""}, InvalidName),
        ({"session_id": "a", "user": "a", "prefix": 1}, InvalidName),
        ({"session_id": "a", "user": "a", "ttl": -1}, ValueError),
    ],
    ids=lambda value: str(value)[:40],
)
def test_says_what_it_needs(wrong: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        ConversationSession(**wrong)


@in_loop
async def test_an_agent_remembers_in_its_session_only(server_url: str, user: str) -> None:
    model = ScriptedModel()
    agent = Agent(name="test", model=model)
    async with opened(server_url, user) as session, opened(server_url, user, "other") as other:
        model.enqueue([answer("San Francisco")])
        result = await Runner.run(agent, "In which city is the Golden Gate Bridge?", session=session)
        assert result.final_output == "San Francisco"
        model.enqueue([answer("California")])
        await Runner.run(agent, "In which state is it?", session=session)
        assert "Golden Gate" in str(model.calls[-1].input)
        model.enqueue([answer("No idea")])
        await Runner.run(agent, "What did I ask?", session=other)
        assert "Golden Gate" not in str(model.calls[-1].input)
        model.enqueue([answer("Yes")])
        limit = RunConfig(session_settings=SessionSettings(limit=2))
        await Runner.run(agent, "New question", session=session, run_config=limit)
        assert len(model.calls[-1].input) == 3
        assert len(await session.get_items()) == 6


@in_loop
async def test_an_agents_tool_calls_are_kept(server_url: str, user: str) -> None:
    @function_tool
    def weather(city: str) -> str:
        return f"{city}: rain"

    model = ScriptedModel()
    call = ResponseFunctionToolCall(
        id="1", call_id="c1", type="function_call", name="weather", arguments='{"city": "Oslo"}'
    )
    model.enqueue([call])
    model.enqueue([answer("Take an umbrella")])
    async with opened(server_url, user) as session:
        await Runner.run(Agent(name="test", model=model, tools=[weather]), "Oslo?", session=session)
        kinds = [item.get("type") for item in await session.get_items()]
        assert kinds == [None, "function_call", "function_call_output", "message"]


@in_loop
async def test_the_frameworks_encryption_stands_before_it(server_url: str, user: str) -> None:
    async with opened(server_url, user) as session:
        encrypted = EncryptedSession("chat", session, encryption_key="secret")
        await encrypted.add_items(messages("hidden"))
        assert await encrypted.get_items() == messages("hidden")
        assert "hidden" not in str(await session.get_items())


def test_the_page(server_url: str) -> None:
    read_page("openai-agents.md", server_url)
