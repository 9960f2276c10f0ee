"""The conversation store of Pydantic AI: what its own store in memory does, and what several processes need."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import redis

if not os.environ.get("CI"):
    pytest.importorskip("pydantic_ai.conversation_store", reason="pip install 'pydantic-ai-slim>=2.68'")

from pydantic_ai import Agent, BinaryContent, Conversation
from pydantic_ai.conversation_store import ConversationConflict, ConversationStore, InMemoryConversationStore
from pydantic_ai.exceptions import UserError
from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelResponse,
    TextPart,
    UserPromptPart,
)
from pydantic_ai.models.test import TestModel

from redis_store import InvalidInput, connect_async
from redis_store.integrations.pydantic_ai import LINE_ENTRIES, RedisConversationStore
from tests.integrations.killed import SteppedWriter, stepped_writer
from tests.integrations.loops import in_loop
from tests.integrations.pages import read_page


def on_each(test: Callable[[ConversationStore], Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a case on our store, and on the peer's own, which says what is right."""

    @pytest.mark.parametrize("whose", ["ours", "in memory"])
    def run(server_url: str, user: str, whose: str) -> None:
        async def on_a_store() -> None:
            if whose == "in memory":
                await test(InMemoryConversationStore())
            else:
                async with RedisConversationStore(server_url, user=user) as conversations:
                    await test(conversations)

        asyncio.run(on_a_store())

    run.__name__ = test.__name__
    return run


def said(*texts: str) -> list[ModelMessage]:
    return [
        ModelRequest(parts=[UserPromptPart(text)]) if at % 2 == 0 else ModelResponse(parts=[TextPart(text)])
        for at, text in enumerate(texts)
    ]


def texts_of(conversation: Conversation | None) -> list[str]:
    assert conversation is not None
    return [str(message.parts[0].content) for message in conversation.messages]  # type: ignore[union-attr]


async def saved(store: ConversationStore, name: str, *texts: str, scope: str | None = None) -> Conversation:
    conversation = Conversation(conversation_id=name, messages=said(*texts))
    await store.save(conversation, scope=scope)
    return conversation


@on_each
async def test_a_conversation_grows_by_what_is_new(store: ConversationStore) -> None:
    assert await store.load("a") is None
    conversation = await saved(store, "a", "hello", "hi")
    conversation.messages += said("bye", "see you")
    conversation.usage.requests = 2
    entries = await store.save(conversation)
    assert [str(entry.message.parts[0].content) for entry in entries] == ["bye", "see you"]
    loaded = await store.load("a")
    assert texts_of(loaded) == ["hello", "hi", "bye", "see you"]
    assert (loaded.messages, loaded.usage, loaded.revision) == (
        conversation.messages,
        conversation.usage,
        conversation.revision,
    )
    assert texts_of(await store.load("a", limit=3)) == ["hi", "bye", "see you"]
    assert texts_of(await store.load("a", limit=0)) == []
    assert [entry.parent_id for entry in await store.load_entries("a", limit=2)] == [
        (await store.load_entries("a"))[1].id,
        entries[0].id,
    ]
    assert await store.save(loaded) == []


@on_each
async def test_of_two_that_continue_one_conversation_the_second_conflicts(store: ConversationStore) -> None:
    await saved(store, "a", "hello")
    first, second = await store.load("a"), await store.load("a")
    first.messages += said("first")
    second.messages += said("second")
    await store.save(first)
    with pytest.raises(ConversationConflict):
        await store.save(second)
    with pytest.raises(ConversationConflict):
        await saved(store, "a", "new")
    assert texts_of(await store.load("a")) == ["hello", "first"]
    await store.delete("a")
    with pytest.raises(ConversationConflict):
        await store.save(first)
    assert await store.load("a") is None
    await saved(store, "a", "again")
    with pytest.raises(ConversationConflict):
        await store.save(first)


@on_each
async def test_branches_and_forks_share_what_they_have_in_common(store: ConversationStore) -> None:
    conversation = await saved(store, "a", "1", "2", "3", "4")
    left = (await store.load_entries("a"))[-1].id
    branch = await store.branch("a", at=2, expected_revision=conversation.revision)
    branch.messages += said("other", "way")
    await store.save(branch)
    assert texts_of(await store.load("a")) == ["1", "2", "other", "way"]
    (record,) = await store.list_conversations()
    assert record.branches == [left]
    fork = await store.fork("a", at=3, new_conversation_id="b")
    fork.messages += said("fork")
    await store.save(fork)
    assert texts_of(await store.load("b")) == ["1", "2", "other", "fork"]
    with pytest.raises(ConversationConflict):
        await store.fork("a", new_conversation_id="b")
    await store.delete("a")
    assert texts_of(await store.load("b")) == ["1", "2", "other", "fork"]
    with pytest.raises(LookupError):
        await store.read_entry(left)
    entries = await store.load_entries("b")
    await store.delete("b")
    for entry in entries:
        with pytest.raises(LookupError):
            await store.read_entry(entry.id)


@on_each
async def test_going_back_to_a_branch_and_rewriting_all(store: ConversationStore) -> None:
    conversation = await saved(store, "a", "1", "2", "3")
    last = (await store.load_entries("a"))[-1].id
    branch = await store.branch("a", at=0, expected_revision=conversation.revision)
    branch.messages += said("new")
    await store.save(branch)
    assert texts_of(await store.load("a")) == ["new"]
    back = await store.branch("a", from_entry=last, expected_revision=branch.revision)
    assert texts_of(back) == ["1", "2", "3"]
    back.messages[:] = said("rewritten")
    await store.save(back)
    assert texts_of(await store.load("a")) == ["rewritten"]
    assert len((await store.list_conversations())[0].branches) == 2
    with pytest.raises(UserError):
        await store.branch("a", from_entry="nowhere", expected_revision=back.revision)
    await store.delete("a")
    assert await store.list_conversations() == []


@on_each
async def test_a_conversation_of_another_scope_is_not_there(store: ConversationStore) -> None:
    await saved(store, "a", "of alice", scope="alice")
    await saved(store, "b", "of bob", scope="bob")
    await saved(store, "c", "of alice too", scope="alice")
    assert await store.load("a", scope="bob") is None
    with pytest.raises(ConversationConflict):
        await store.save(await store.load("a"), scope="bob")
    await store.delete("a", scope="bob")
    assert texts_of(await store.load("a", scope="alice")) == ["of alice"]
    assert [record.conversation_id for record in await store.list_conversations(scope="alice")] == ["c", "a"]
    assert [record.conversation_id for record in await store.list_conversations(limit=2)] == ["c", "b"]


@on_each
async def test_hostile_ids_are_of_conversations_of_their_own(store: ConversationStore) -> None:
    names = ["", "*", "a\nb", "a/../b", "a:entries", "~" + "0" * 64, "x" * 70_000, "x" * 70_001, "é"]
    for name in names:
        await saved(store, name, repr(name[:10] + str(len(name))))
    for name in names:
        assert texts_of(await store.load(name)) == [repr(name[:10] + str(len(name)))]
    assert len(await store.list_conversations()) == len(names)


@on_each
async def test_messages_come_back_as_they_were(store: ConversationStore) -> None:
    content = ["look", BinaryContent(b"\x00\xff", media_type="image/png")]
    message = ModelRequest(parts=[UserPromptPart(content)], instructions="é\u2028")
    await store.save(Conversation(conversation_id="a", messages=[message]))
    loaded = await store.load("a")
    assert ModelMessagesTypeAdapter.dump_json(loaded.messages) == ModelMessagesTypeAdapter.dump_json([message])
    assert loaded.messages[0].parts[0].content[1].data == b"\x00\xff"


@on_each
async def test_an_agents_runs_are_saved(store: ConversationStore) -> None:
    agent = Agent(TestModel(custom_output_text="answer"))
    conversation = Conversation(conversation_id="a")
    for _ in range(2):
        result = await agent.run("question", conversation=conversation)
        await store.save(result)
        conversation = await store.load("a")
    assert texts_of(conversation) == ["question", "answer"] * 2
    assert conversation.usage.requests == 2


@in_loop
async def test_a_long_history_takes_few_round_trips(server_url: str, user: str) -> None:
    async with connect_async(server_url, user=user) as data_store, RedisConversationStore(data_store) as store:
        conversation = await saved(store, "a", "first")
        for start in (0, LINE_ENTRIES):
            conversation.messages += said(*(str(start + number) for number in range(LINE_ENTRIES)))
            await store.save(conversation)
        whole = await store.load("a")
        assert texts_of(whole) == ["first", *map(str, range(2 * LINE_ENTRIES))]
        assert texts_of(await store.load("a", limit=LINE_ENTRIES + 1)) == texts_of(whole)[-LINE_ENTRIES - 1 :]
        with redis.Redis.from_url(server_url) as raw:
            before = raw.info("stats")["total_reads_processed"]
            await store.load("a", limit=300)
            assert raw.info("stats")["total_reads_processed"] - before - 1 == 4  # the record, and three for the history
        for part in ("", ":entries", ":lines"):
            assert await data_store.use_namespace(f"conversations{part}").list_keys()
        await store.delete("a")
        assert await data_store.list_namespaces() == []


@in_loop
async def test_of_many_concurrent_saves_of_a_family_none_is_lost(server_url: str, user: str) -> None:
    async with RedisConversationStore(server_url, user=user) as store:
        await saved(store, "a", "1", "2")
        forks = [await store.fork("a", new_conversation_id=f"fork {number}") for number in range(8)]
        for number, fork in enumerate(forks):
            fork.messages += said(f"of {number}")
        await asyncio.gather(*(store.save(fork) for fork in forks), store.delete("a"))
        for number in range(8):
            assert texts_of(await store.load(f"fork {number}")) == ["1", "2", f"of {number}"]


@in_loop
async def test_nothing_is_half_written_by_a_save_that_fails(server_url: str, user: str) -> None:
    """A save is one script: what is in the way of a part of it is in the way of all."""
    async with connect_async(server_url, user=user, max_batch_bytes=20_000) as data_store:
        store = RedisConversationStore(data_store)
        conversation = await saved(store, "a", "first")
        conversation.messages += said("x" * 15_000, "y" * 15_000)
        with pytest.raises(InvalidInput):
            await store.save(conversation)
        assert texts_of(await store.load("a")) == ["first"]
        assert len(await data_store.use_namespace("conversations:entries").list_keys()) == 1


WRITES = """
from pydantic_ai.messages import ModelRequest, UserPromptPart
from redis_store.integrations.pydantic_ai import RedisConversationStore

async def write(store, what):
    conversations = RedisConversationStore(store)
    if what == "save":
        conversation = await conversations.load("a")
        conversation.messages += [ModelRequest(parts=[UserPromptPart(text)]) for text in ("3", "4")]
        await conversations.save(conversation)
    elif what == "fork":
        await conversations.fork("a", at=1, new_conversation_id="b")
    elif what == "branch":
        record = await conversations.read_record("a")
        await conversations.branch("a", at=1, expected_revision=record.revision)
    else:
        await conversations.delete("a")
"""


@pytest.fixture(scope="module")
def writer(server_url: str) -> Iterator[SteppedWriter]:
    with stepped_writer(server_url, WRITES) as process:
        yield process


@pytest.mark.parametrize(
    ("what", "after"),
    [
        ("save", {"a": ["1", "2", "3", "4"]}),
        ("fork", {"a": ["1", "2"], "b": ["1"]}),
        ("branch", {"a": ["1"]}),
        ("delete", {}),
    ],
)
@in_loop
async def test_a_killed_process_leaves_no_half_conversation(
    server_url: str, user: str, writer: SteppedWriter, what: str, after: dict[str, list[str]]
) -> None:
    before = {"a": ["1", "2"]}
    seen = []
    killed = True
    async with RedisConversationStore(server_url, user=user) as store:
        while killed:
            for record in await store.list_conversations():
                await store.delete(record.conversation_id)
            await saved(store, "a", "1", "2")
            killed = await asyncio.to_thread(writer.is_killed, user, what, len(seen) + 1)
            ids = [record.conversation_id for record in await store.list_conversations()]
            seen.append({each: texts_of(await store.load(each)) for each in ids})
    assert len(seen) > 1
    assert all(each in (before, after) for each in seen)
    assert (seen[0], seen[-1]) == (before, after)


@in_loop
async def test_users_have_conversations_of_their_own(server_url: str, user: str) -> None:
    async with (
        RedisConversationStore(server_url, user=f"{user}-a") as first,
        RedisConversationStore(server_url, user=f"{user}-b") as second,
    ):
        await saved(first, "a", "mine")
        assert await second.load("a") is None
        await second.delete("a")
        assert texts_of(await first.load("a")) == ["mine"]


def test_a_store_of_nobody_is_refused(server_url: str, user: str) -> None:
    with pytest.raises(InvalidInput, match="pass user= with a url"):
        RedisConversationStore(server_url)
    with pytest.raises(InvalidInput, match="has its user already: leave it out"):
        RedisConversationStore(connect_async(server_url, user=user), user=user)


def test_the_example_of_the_page_runs(server_url: str) -> None:
    read_page("pydantic-ai.md", server_url)
