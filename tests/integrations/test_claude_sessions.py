"""The Claude Agent SDK: its own suite for session stores, and what that does not ask."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from claude_agent_sdk import (
    ClaudeAgentOptions,
    Transport,
    delete_session_via_store,
    fork_session_via_store,
    get_session_messages_from_store,
    list_sessions_from_store,
    project_key_for_directory,
    query,
    rename_session_via_store,
)
from claude_agent_sdk.testing import run_session_store_conformance

from redis_store import (
    AsyncClient,
    DataStore,
    InvalidName,
    InvalidType,
    InvalidValue,
    StoreClosed,
    StoredDataError,
    connect_async,
)
from redis_store.integrations.claude_sessions import TranscriptStore
from tests.integrations.killed import SteppedWriter, stepped_writer
from tests.integrations.loops import in_loop
from tests.integrations.pages import read_page

SESSION = {"project_key": "project", "session_id": "session"}
SUB = {**SESSION, "subpath": "subagents/agent-1"}


def entries(*numbers: int, **more: Any) -> list[Any]:
    return [{"type": "x", "uuid": f"u{number}", "n": number, **more} for number in numbers]


def numbers(loaded: Any) -> list[int]:
    return [entry["n"] for entry in loaded or []]


@asynccontextmanager
async def opened(url: str, user: str) -> AsyncIterator[Any]:
    async with connect_async(url, user=user) as store:
        yield TranscriptStore(store)


@in_loop
async def test_passes_the_suite_of_the_sdk(server_url: str, user: str) -> None:
    async with AsyncClient(server_url) as client:
        await run_session_store_conformance(lambda: TranscriptStore(client.store(user=f"{user}-{uuid.uuid4().hex}")))


@in_loop
async def test_an_entry_that_comes_again_is_left_out(server_url: str, user: str) -> None:
    async with opened(server_url, user) as store:
        title = {"type": "custom-title", "customTitle": "t"}
        await store.append(SESSION, [*entries(1, 2, customTitle="old"), title])
        await store.append(SESSION, entries(2, 3, 3, customTitle="new"))
        await store.append(SESSION, entries(1, 2, customTitle="old"))
        await store.append(SESSION, [title])
        await store.append(SUB, entries(1))
        loaded = await store.load(SESSION)
        assert [entry.get("n") for entry in loaded] == [1, 2, None, 3, None]
        assert numbers(await store.load(SUB)) == [1]
        (summary,) = await store.list_session_summaries("project")
        assert summary["data"]["custom_title"] == "t"


@in_loop
async def test_a_repeated_append_changes_nothing(server_url: str, user: str, store: DataStore) -> None:
    async with opened(server_url, user) as sessions:
        await sessions.append(SESSION, entries(1, 2))
        before = await sessions.list_sessions("project")
        await sessions.append(SESSION, entries(1, 2))
        assert await sessions.list_sessions("project") == before
        (transcript,) = [name for name in store.list_namespaces("claude/project/") if not name.endswith("#uuids")]
        assert store.use_namespace(transcript).list_keys() == ["0" * 16]


@in_loop
async def test_long_appends_are_whole(server_url: str, user: str) -> None:
    async with opened(server_url, user) as store:
        await store.append(SESSION, entries(*range(500)))
        await store.append(SESSION, entries(*range(500, 5000)))
        await store.append(SESSION, entries(*range(400, 5001)))
        assert numbers(await store.load(SESSION)) == list(range(5001))


@in_loop
async def test_concurrent_writers_lose_nothing_and_keep_their_order(server_url: str, user: str) -> None:
    async with opened(server_url, user) as one, opened(server_url, user) as two:

        async def write(store: Any, first: int) -> None:
            for number in range(first, first + 10):
                await store.append(SESSION, entries(number))
                await store.append({**SESSION, "subpath": str(first)}, entries(number))

        await asyncio.gather(write(one, 0), write(two, 100), write(one, 200))
        found = numbers(await one.load(SESSION))
        assert sorted(found) == [*range(10), *range(100, 110), *range(200, 210)]
        for first in (0, 100, 200):
            mine = [number for number in found if first <= number < first + 10]
            assert mine == sorted(mine) == numbers(await two.load({**SESSION, "subpath": str(first)}))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"project_key": "a/b"}, {"project_key": "a"}),
        ({"project_key": "a", "session_id": "b/c"}, {"project_key": "a/b", "session_id": "c"}),
        ({"session_id": "s#uuids"}, {"session_id": "s"}),
        ({"session_id": "*"}, {"session_id": "s"}),
        ({"session_id": ""}, {"session_id": "\n"}),
        ({"session_id": "x" * 2048}, {"session_id": "x" * 2049}),
        ({"project_key": "x" * 2048}, {"project_key": "x" * 2049}),
        ({"subpath": "../session"}, {"subpath": ".."}),
        ({"subpath": "x" * 2048}, {"subpath": "x" * 2049}),
    ],
    ids=ascii,
)
@in_loop
async def test_hostile_names_share_nothing(
    server_url: str, user: str, one: dict[str, str], other: dict[str, str]
) -> None:
    first, second = ({**SESSION, **changed} for changed in (one, other))
    async with opened(server_url, user) as store, opened(server_url, f"{user}-2") as of_another_user:
        await store.append(first, entries(1))
        assert await store.load(second) is None
        await store.append(second, entries(2))
        assert numbers(await store.load(first)) == [1]
        if "subpath" in first:
            assert sorted(await store.list_subkeys(SESSION)) == sorted([first["subpath"], second["subpath"]])
        else:
            listed = [entry["session_id"] for entry in await store.list_sessions(first["project_key"])]
            assert first["session_id"] in listed
        assert await of_another_user.load(first) is None
        assert await of_another_user.list_sessions(first["project_key"]) == []
        await of_another_user.delete(first)
        await store.delete(first)
        assert await store.load(first) is None
        assert numbers(await store.load(second)) == [2]


@in_loop
async def test_nothing_is_left_of_a_deleted_session_nor_comes_back(
    server_url: str, user: str, store: DataStore
) -> None:
    async with opened(server_url, user) as sessions:
        await sessions.append(SUB, entries(1))
        assert await sessions.list_sessions("project") == []
        await sessions.delete(SUB)
        assert store.list_namespaces() == []
        await sessions.append(SESSION, entries(1))
        await sessions.append(SUB, entries(2))
        await sessions.delete(SESSION)
        assert store.list_namespaces() == []
        await sessions.append(SESSION, entries(1))
        assert numbers(await sessions.load(SESSION)) == [1]
        assert await sessions.load(SUB) is None


WRITES = """
from redis_store.integrations.claude_sessions import TranscriptStore

key = {"project_key": "project", "session_id": "session"}
entry = {"type": "x", "uuid": "new", "n": 9, "customTitle": "new"}

async def write(store, what):
    sessions = TranscriptStore(store)
    await (sessions.delete(key) if what == "delete" else sessions.append(key, [entry]))
"""


@pytest.fixture(scope="module")
def writer(server_url: str) -> Iterator[SteppedWriter]:
    with stepped_writer(server_url, WRITES) as process:
        yield process


@pytest.mark.parametrize("what", ["append", "delete"])
@in_loop
async def test_a_killed_process_leaves_no_half_session(
    server_url: str, user: str, writer: SteppedWriter, what: str
) -> None:
    before = ([1], [2], ["old"], ["subagents/agent-1"])
    after = ([], [], [], []) if what == "delete" else ([1, 9], [2], ["new"], ["subagents/agent-1"])
    seen = []
    async with opened(server_url, user) as store:
        for step in range(1, 10):
            await store.append(SESSION, entries(1, customTitle="old"))
            await store.append(SUB, entries(2))
            killed = await asyncio.to_thread(writer.is_killed, user, what, step)
            main, sub = numbers(await store.load(SESSION)), numbers(await store.load(SUB))
            titles = [one["data"]["custom_title"] for one in await store.list_session_summaries("project")]
            seen.append((main, sub, titles, await store.list_subkeys(SESSION)))
            await store.append(SESSION, entries(3))
            assert numbers(await store.load(SESSION)) == [*main, 3]
            assert numbers(await store.load(SUB)) == sub
            await store.delete(SESSION)
            if not killed:
                break
    assert len(seen) > 2
    assert all(one in (before, after) for one in seen)
    assert (seen[0], seen[-1]) == (before, after)


@in_loop
async def test_times_are_those_of_the_server(server_url: str, user: str, store: DataStore) -> None:
    async with opened(server_url, user) as sessions:
        await sessions.append(SESSION, entries(1))
        (listed,) = await sessions.list_sessions("project")
        (summary,) = await sessions.list_session_summaries("project")
        info = store.use_namespace("claude/project").info("session")
        assert listed["mtime"] == summary["mtime"] == int(info.updated_at.timestamp() * 1000)
        await sessions.append(SESSION, entries(2))
        assert (await sessions.list_sessions("project"))[0]["mtime"] >= listed["mtime"]


@in_loop
async def test_a_record_of_another_program_is_no_session(server_url: str, user: str, store: DataStore) -> None:
    async with opened(server_url, user) as sessions:
        store.use_namespace("claude/project").set("session", {"mine": 1})
        with pytest.raises(StoredDataError, match="does not hold a session: another program has written it"):
            await sessions.load(SESSION)
        with pytest.raises(StoredDataError, match="another prefix"):
            await sessions.list_sessions("project")
        with pytest.raises(StoredDataError):
            await sessions.append(SESSION, entries(1))
        with pytest.raises(InvalidValue):
            await sessions.append({**SESSION, "session_id": "other"}, [{"type": "x", "uuid": "u", "bytes": b""}])
        assert await sessions.load({**SESSION, "session_id": "other"}) is None


@in_loop
async def test_says_what_it_needs_and_closes_what_it_has_opened(server_url: str, user: str) -> None:
    for wrong in ({}, {"store": 1, "user": user}, {"store": server_url}):
        with pytest.raises(InvalidType, match="AsyncDataStore"):
            TranscriptStore(**wrong)
    async with TranscriptStore(server_url, user=user) as own:
        await own.append(SESSION, entries(1))
    with pytest.raises(StoreClosed):
        await own.load(SESSION)
    async with connect_async(server_url, user=user) as store:
        with pytest.raises(InvalidType, match="has its user already"):
            TranscriptStore(store, user=user)
        for prefix in ("a/b", "", cast("Any", 1)):
            with pytest.raises(InvalidName, match="prefix"):
                TranscriptStore(store, prefix=prefix)
        async with TranscriptStore(store) as sessions:
            assert numbers(await sessions.load(SESSION)) == [1]
        with pytest.raises(InvalidType, match="must be str"):
            await sessions.load(cast("Any", {"project_key": 1, "session_id": "s"}))


@in_loop
async def test_the_functions_of_the_sdk_work_on_it(server_url: str, user: str) -> None:
    directory, session_id = "/srv/project", str(uuid.uuid4())
    key = {"project_key": project_key_for_directory(directory), "session_id": session_id}
    first, second = str(uuid.uuid4()), str(uuid.uuid4())
    common = {"sessionId": session_id, "cwd": directory, "timestamp": "2026-01-01T00:00:00.000Z"}
    user_entry = {"type": "user", "uuid": first, "parentUuid": None, "message": {"role": "user", "content": "Hello"}}
    answer = {"role": "assistant", "content": [{"type": "text", "text": "Hi"}]}
    answer_entry = {"type": "assistant", "uuid": second, "parentUuid": first, "message": answer}
    async with opened(server_url, user) as store:
        await store.append(key, [{**user_entry, **common}, {**answer_entry, **common}])
        await rename_session_via_store(store, session_id, "Greeting", directory=directory)
        (info,) = await list_sessions_from_store(store, directory=directory)
        assert (info.session_id, info.custom_title, info.first_prompt) == (session_id, "Greeting", "Hello")
        messages = await get_session_messages_from_store(store, session_id, directory=directory)
        assert [message.type for message in messages] == ["user", "assistant"]
        fork = await fork_session_via_store(store, session_id, directory=directory)
        copied = await get_session_messages_from_store(store, fork.session_id, directory=directory)
        assert [message.message for message in copied] == [message.message for message in messages]
        await delete_session_via_store(store, session_id, directory=directory)
        assert [one.session_id for one in await list_sessions_from_store(store, directory=directory)] == [
            fork.session_id
        ]


class ScriptedClaude(Transport):
    """Claude Code as the SDK sees it: it answers one question, and sends what it has written to its transcript."""

    def __init__(self, directory: str, session_id: str) -> None:
        config = os.environ.get("CLAUDE_CONFIG_DIR") or str(Path.home() / ".claude")
        self._file = f"{config}/projects/{project_key_for_directory(directory)}/{session_id}.jsonl"
        self._session_id = session_id
        self._frames: asyncio.Queue[Any] = asyncio.Queue()

    async def connect(self) -> None:
        pass

    async def write(self, data: str) -> None:
        sent = json.loads(data)
        if sent["type"] == "control_request":
            done = {"subtype": "success", "request_id": sent["request_id"], "response": {}}
            self._frames.put_nowait({"type": "control_response", "response": done})
            return
        mirrored = [
            {"type": "user", "uuid": str(uuid.uuid4()), "message": sent["message"], "sessionId": self._session_id},
            {"type": "assistant", "uuid": str(uuid.uuid4()), "message": {"role": "assistant", "content": "Hi"}},
        ]
        self._frames.put_nowait({"type": "transcript_mirror", "filePath": self._file, "entries": mirrored})
        ended = {"duration_ms": 1, "duration_api_ms": 1, "is_error": False, "num_turns": 1, "result": "Hi"}
        self._frames.put_nowait({"type": "result", "subtype": "success", "session_id": self._session_id, **ended})
        self._frames.put_nowait(None)

    async def read_messages(self) -> AsyncIterator[dict[str, Any]]:  # type: ignore[override]
        while (frame := await self._frames.get()) is not None:
            yield frame

    async def close(self) -> None:
        pass

    def is_ready(self) -> bool:
        return True

    async def end_input(self) -> None:
        pass


@in_loop
async def test_a_session_of_the_sdk_is_mirrored_to_it(server_url: str, user: str, tmp_path: Path) -> None:
    session_id = str(uuid.uuid4())
    async with TranscriptStore(server_url, user=user) as sessions:
        options = ClaudeAgentOptions(session_store=sessions, cwd=str(tmp_path))
        claude = ScriptedClaude(str(tmp_path), session_id)
        kinds = [type(one).__name__ async for one in query(prompt="Hello", options=options, transport=claude)]
        assert kinds == ["ResultMessage"]
        (info,) = await list_sessions_from_store(sessions, directory=str(tmp_path))
        assert (info.session_id, info.first_prompt) == (session_id, "Hello")
        loaded = await sessions.load(
            {"project_key": project_key_for_directory(str(tmp_path)), "session_id": session_id}
        )
        assert [entry["type"] for entry in loaded] == ["user", "assistant"]


def test_the_page(server_url: str) -> None:
    read_page("claude-agent-sdk.md", server_url)
