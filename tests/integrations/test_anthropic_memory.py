"""Anthropic's memory tool: what the tests of its tool for files ask, in our words, for both kinds, and what they do not ask."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
import redis
from anthropic import Anthropic
from anthropic.tools import ToolError

from redis_store import DataStore, InvalidType, StoreUnavailable, connect, connect_async
from redis_store.integrations.anthropic_memory import AsyncMemoryTool, MemoryTool
from tests.integrations.killed import SteppedWriter, stepped_writer
from tests.integrations.pages import read_page
from tests.integrations.requests import counted_requests

Use = Callable[..., Any]


@pytest.fixture(params=["blocking", "asyncio"])
def use(request: pytest.FixtureRequest, server_url: str, user: str) -> Iterator[Use]:
    """Call the tool as the SDK does, with a command of Claude's."""
    if request.param == "blocking":
        with MemoryTool(server_url, user=user) as tool:
            yield lambda command, path="/memories/a.txt", **more: tool.call({"command": command, "path": path, **more})
        return
    with asyncio.Runner() as runner:
        other = AsyncMemoryTool(server_url, user=user)

        def call(command: str, path: Any = "/memories/a.txt", **more: Any) -> Any:
            return runner.run(other.call({"command": command, "path": path, **more}))

        yield call
        runner.run(other.close())


@pytest.fixture
def files(store: DataStore) -> DataStore:
    """The namespace of the memory of the same user."""
    return store.use_namespace("memories")


def create(use: Use, *paths: str, text: str = "x") -> None:
    for path in paths:
        use("create", f"/memories/{path}", file_text=text)


def test_create(use: Use, files: DataStore) -> None:
    assert use("create", file_text="Hello, World!") == "File created successfully at: /memories/a.txt"
    assert (
        use("create", "/memories/deep/er/b.txt", file_text="")
        == "File created successfully at: /memories/deep/er/b.txt"
    )
    assert files.get_all() == {"a.txt": "Hello, World!", "deep/er/b.txt": ""}
    for path in ("/memories/a.txt", "/memories/deep", "/memories/deep/er/", "/memories"):
        with pytest.raises(ToolError, match=f"File {path} already exists"):
            use("create", path, file_text="New")
    with pytest.raises(ToolError, match="/memories/a\\.txt is a file, so that no file can be in it"):
        use("create", "/memories/a.txt/b", file_text="x")
    assert len(files) == 2


def test_view_a_file(use: Use) -> None:
    create(use, "a.txt", text="Line 1\nLine 2\nLine 3\nLine 4")
    begin = "Here's the content of /memories/a.txt with line numbers:\n"
    numbered = [f"     {number}\tLine {number}" for number in range(1, 5)]
    assert use("view") == begin + "\n".join(numbered)
    assert use("view", view_range=[2, 3]) == begin + "\n".join(numbered[1:3])
    assert use("view", view_range=[3, -1]) == begin + "\n".join(numbered[2:])
    assert use("view", view_range=[-5, 1]) == begin + numbered[0]
    assert use("view", view_range=[9, 12]) == begin
    for wrong in ([1], [1, 2, 3], ["a", "b"]):
        with pytest.raises(ToolError, match="view_range"):
            use("view", view_range=wrong)


def test_view_of_too_many_lines(use: Use) -> None:
    create(use, "a.txt", text="\n" * 999_999)
    with pytest.raises(ToolError, match=r"exceeds maximum line limit of 999,999 lines"):
        use("view")


def test_view_a_directory(use: Use) -> None:
    header = "Here're the files and directories up to 2 levels deep in {}, excluding hidden items:\n"
    assert use("view", "/memories") == header.format("/memories") + "0B\t/memories"
    create(use, "dir/sub/deep/c", "dir/b", ".hidden/x", "dir/.y", text="x" * 1536)
    create(use, "a", text="é")
    assert use("view", "/memories") == header.format("/memories") + "\n".join(
        [
            "3.0K\t/memories",
            "2B\t/memories/a",
            "3K\t/memories/dir/",
            "1.5K\t/memories/dir/b",
            "1.5K\t/memories/dir/sub/",
        ]
    )
    assert use("view", "/memories/dir/") == header.format("/memories/dir") + "\n".join(
        [
            "3K\t/memories/dir",
            "1.5K\t/memories/dir/b",
            "1.5K\t/memories/dir/sub/",
            "1.5K\t/memories/dir/sub/deep/",
        ]
    )


def test_str_replace(use: Use, files: DataStore) -> None:
    create(use, "a.txt", text="Line 1\nOld Text\nLine 3\n4\n5\n6")
    assert use("str_replace", old_str="Old Text", new_str="New\nText") == (
        "The memory file has been edited. Here is the snippet showing the change (with line numbers):\n"
        "     1\tLine 1\n     2\tNew\n     3\tText\n     4\tLine 3"
    )
    assert files.get("a.txt") == "Line 1\nNew\nText\nLine 3\n4\n5\n6"
    unfound = "No replacement was performed, old_str `Nothing` did not appear verbatim in /memories/a.txt."
    with pytest.raises(ToolError, match=re.escape(unfound)):
        use("str_replace", old_str="Nothing", new_str="x")
    twice = "No replacement was performed. Multiple occurrences of old_str `Line` in lines: 1, 4. Please ensure it is unique"
    with pytest.raises(ToolError, match=re.escape(twice)):
        use("str_replace", old_str="Line", new_str="x")
    assert files.get("a.txt") == "Line 1\nNew\nText\nLine 3\n4\n5\n6"


@pytest.mark.parametrize(
    ("before", "line", "after"),
    [
        ("1\n2", 0, "new\n1\n2\n"),
        ("1\n2", 1, "1\nnew\n2\n"),
        ("1\n2\n", 2, "1\n2\nnew\n"),
        ("", 0, "new\n"),
        ("1\r\n", 1, "1\r\nnew\n"),
        ("\n", 1, "\nnew\n"),
    ],
)
def test_insert(use: Use, files: DataStore, before: str, line: int, after: str) -> None:
    create(use, "a.txt", text=before)
    assert use("insert", insert_line=line, insert_text="new\n") == "The file /memories/a.txt has been edited."
    assert files.get("a.txt") == after


def test_insert_at_a_line_that_is_not_there(use: Use, files: DataStore) -> None:
    create(use, "a.txt", text="1\n2")
    for line in (-1, 3):
        wanted = f"Invalid `insert_line` parameter: {line}. It should be within the range [0, 2]"
        with pytest.raises(ToolError, match=re.escape(wanted)):
            use("insert", insert_line=line, insert_text="x")
    assert files.get("a.txt") == "1\n2"


def test_delete(use: Use, files: DataStore) -> None:
    create(use, "a.txt", "dir/b", "dir/c/d", "dire")
    assert use("delete") == "Successfully deleted /memories/a.txt"
    assert use("delete", "/memories/dir") == "Successfully deleted /memories/dir"
    assert files.list_keys() == ["dire"]
    with pytest.raises(ToolError, match="The path /memories/dir does not exist"):
        use("delete", "/memories/dir")
    with pytest.raises(ToolError, match="Cannot delete the /memories directory itself"):
        use("delete", "/memories/x/..")


def test_rename(use: Use, files: DataStore) -> None:
    def rename(old: str, new: str) -> Any:
        return use("rename", old_path=f"/memories{old}", new_path=f"/memories{new}")

    create(use, "a.txt", text="content")
    create(use, "dir/b", "dir/c/d")
    assert rename("/a.txt", "/new/er/a.txt") == "Successfully renamed /memories/a.txt to /memories/new/er/a.txt"
    assert rename("/dir", "/new/dir") == "Successfully renamed /memories/dir to /memories/new/dir"
    assert files.get_all() == {"new/er/a.txt": "content", "new/dir/b": "x", "new/dir/c/d": "x"}
    for old, new, error in [
        ("/none", "/x", "The path /memories/none does not exist"),
        ("/new/dir/b", "/new/er/a.txt", "The destination /memories/new/er/a.txt already exists"),
        ("/new/dir/b", "/new/er", "The destination /memories/new/er already exists"),
        ("/new/dir/b", "/new/dir/b", "already exists"),
        ("/new/dir/b", "", "The destination /memories already exists"),
        ("/new", "/new/dir/new", "Cannot move /memories/new into itself"),
        ("/new/dir/b", "/new/er/a.txt/b", "/memories/new/er/a.txt is a file, so that no file can be in it"),
        ("", "/x", "Cannot rename the /memories directory itself"),
    ]:
        with pytest.raises(ToolError, match=error):
            rename(old, new)
    assert len(files) == 3


def test_a_path_of_no_file(use: Use) -> None:
    create(use, "dir/a")
    missing = "The path /memories/none does not exist. Please provide a valid path."
    for path, error in [("/memories/none", missing), ("/memories/dir", "The path /memories/dir is not a file.")]:
        with pytest.raises(ToolError, match=error):
            use("str_replace", path, old_str="a", new_str="b")
        with pytest.raises(ToolError, match=error):
            use("insert", path, insert_line=0, insert_text="x")
    with pytest.raises(ToolError, match=missing):
        use("view", "/memories/none")


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/invalid/path.txt", "Path must start with /memories"),
        ("/memoriesx", "Path must start with /memories"),
        ("memories/a", "Path must start with /memories"),
        ("", "Path must start with /memories"),
        (None, "Path must start with /memories"),
        (["/memories"], "Path must start with /memories"),
        ("/memories/../../../etc/passwd", "Path /memories/../../../etc/passwd would escape /memories directory"),
        ("/memories/a/../../memories/b", "would escape /memories directory"),
        ("/memories/" + "x" * 70_000, "65,536 are allowed"),
        ("/memories/\ud800", "surrogate"),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_a_path_that_is_none(use: Use, files: DataStore, path: Any, error: str) -> None:
    with pytest.raises(ToolError, match=re.escape(error)):
        use("create", path, file_text="x")
    with pytest.raises(ToolError, match=re.escape(error)):
        use("delete", path)
    assert len(files) == 0


@pytest.mark.parametrize(
    "name", ["*", "a*?[b]", "line\nbreak", "..x", "%2e%2e", "\\..\\x", "a b", "x" * 2048, "日本"], ids=ascii
)
def test_any_name_is_that_of_a_file(use: Use, files: DataStore, server_url: str, user: str, name: str) -> None:
    create(use, "other", f"{name}/in it")
    with MemoryTool(server_url, user=f"{user}-2") as of_another_user, pytest.raises(ToolError, match="does not exist"):
        of_another_user.call({"command": "view", "path": f"/memories/{name}"})
    assert f"{name}/in it" in use("view", f"/memories/./{name}/")
    use("delete", f"/memories/{name}")
    assert files.list_keys() == ["other"]


def test_what_claude_gets_wrong_it_is_told(use: Use, files: DataStore) -> None:
    for wrong in ({"command": "create", "file_text": 1}, {"command": "create", "file_text": "\ud800"}):
        with pytest.raises(ToolError):
            use(**wrong)
    create(use, "a.txt")
    for wrong in (
        {"command": "str_replace", "old_str": 1, "new_str": "x"},
        {"command": "str_replace", "old_str": "x", "new_str": None},
        {"command": "insert", "insert_line": "x", "insert_text": "x"},
        {"command": "insert", "insert_line": 0, "insert_text": 1},
    ):
        with pytest.raises(ToolError, match=r"must be a string|insert_line"):
            use(**wrong)
    files.set("value", {"n": 1})
    with pytest.raises(ToolError, match="holds a value of another program, of the type dict"):
        use("view", "/memories/value")
    with pytest.raises(ToolError, match="of the type dict"):
        use("str_replace", "/memories/value", old_str="n", new_str="m")
    assert (files.get("a.txt"), files.get("value")) == ("x", {"n": 1})


def test_a_directory_that_is_too_big_to_be_moved_is_left_as_it_is(use: Use, files: DataStore) -> None:
    files.set_many({f"dir/{number}": "x" for number in range(300)})
    with pytest.raises(ToolError, match="at most 1,000 are allowed"):
        use("rename", old_path="/memories/dir", new_path="/memories/new")
    assert len(files.list_keys("dir/")) == len(files) == 300
    files.delete_many([f"dir/{number}" for number in range(240, 300)])
    use("rename", old_path="/memories/dir", new_path="/memories/new")
    assert len(files.list_keys("new/")) == len(files) == 240


def test_a_file_of_an_external_write_is_moved(use: Use, files: DataStore, server_url: str, user: str) -> None:
    create(use, "a.txt")
    with redis.Redis.from_url(server_url) as raw:
        raw.hset(f"user:{user}:ns:memories", "a.txt", '"by hand"')
        raw.hdel(f"user:{user}:info:memories", "a.txt")
    assert use("rename", old_path="/memories/a.txt", new_path="/memories/b.txt")
    assert files.get_all() == {"b.txt": "by hand"}


def test_concurrent_edits_lose_nothing(server_url: str, user: str, files: DataStore) -> None:
    files.set("a.txt", "")
    with MemoryTool(server_url, user=user) as tool, ThreadPoolExecutor(4) as pool:

        def insert(number: int) -> Any:
            command = {"command": "insert", "path": "/memories/a.txt", "insert_line": 0, "insert_text": str(number)}
            return tool.call(command)

        list(pool.map(insert, range(40)))
    assert sorted(map(int, files.get("a.txt").split())) == list(range(40))


def test_only_one_of_two_creates(server_url: str, user: str) -> None:
    with MemoryTool(server_url, user=user) as tool, ThreadPoolExecutor(4) as pool:

        def created(number: int) -> bool:
            try:
                tool.call({"command": "create", "path": "/memories/a.txt", "file_text": str(number)})
            except ToolError:
                return False
            return True

        assert sum(pool.map(created, range(8))) == 1


def test_each_command_writes_in_one_step(server_url: str, user: str) -> None:
    commands = [
        ({"command": "create", "path": "/memories/d/a", "file_text": "1"}, 2),
        ({"command": "str_replace", "path": "/memories/d/a", "old_str": "1", "new_str": "2"}, 2),
        ({"command": "insert", "path": "/memories/d/a", "insert_line": 0, "insert_text": "0"}, 2),
        ({"command": "rename", "old_path": "/memories/d", "new_path": "/memories/e"}, 5),
        ({"command": "view", "path": "/memories/e/a"}, 1),
        ({"command": "delete", "path": "/memories/e"}, 3),
    ]
    with MemoryTool(server_url, user=user) as tool:
        for command, _ in commands:
            tool.call(command)
        for command, most in commands:
            with counted_requests(server_url) as requests:
                tool.call(command)
                assert requests() <= most, command


def test_clear_all_memory(use: Use, files: DataStore, store: DataStore, server_url: str, user: str) -> None:
    create(use, "a", "b/c")
    store.set("else", 1)
    with connect(server_url, user=user) as shared:
        assert MemoryTool(shared).clear_all_memory() == "All memory cleared"
        assert (files.get_all(), shared.get_all()) == ({}, {"else": 1})

    async def main() -> None:
        async with connect_async(server_url, user=user) as other:
            await other.use_namespace("mine").set("a", "x")
            async with AsyncMemoryTool(other, namespace="mine") as tool:
                assert await tool.clear_all_memory() == "All memory cleared"
            assert await other.get_all() == {"else": 1}

    asyncio.run(main())


WRITES = """
from redis_store.integrations.anthropic_memory import AsyncMemoryTool

commands = {
    "create": {"path": "/memories/new", "file_text": "new"},
    "str_replace": {"path": "/memories/a/1", "old_str": "x", "new_str": "y"},
    "insert": {"path": "/memories/a/1", "insert_line": 1, "insert_text": "z"},
    "rename": {"old_path": "/memories/a", "new_path": "/memories/b"},
    "delete": {"path": "/memories/a"},
}

async def write(store, what):
    await AsyncMemoryTool(store).call({"command": what, **commands[what]})
"""


@pytest.fixture(scope="module")
def writer(server_url: str) -> Iterator[SteppedWriter]:
    with stepped_writer(server_url, WRITES) as process:
        yield process


@pytest.mark.parametrize(
    ("what", "after"),
    [
        ("create", {"a/1": "x", "a/2": "x", "new": "new"}),
        ("str_replace", {"a/1": "y", "a/2": "x"}),
        ("insert", {"a/1": "x\nz\n", "a/2": "x"}),
        ("rename", {"b/1": "x", "b/2": "x"}),
        ("delete", {}),
    ],
)
def test_a_killed_process_leaves_no_half_of_a_command(
    user: str, files: DataStore, writer: SteppedWriter, what: str, after: dict[str, str]
) -> None:
    before = {"a/1": "x", "a/2": "x"}
    seen = []
    killed = True
    while killed:
        files.clear()
        files.set_many(before)
        killed = writer.is_killed(user, what, len(seen) + 1)
        seen.append(files.get_all())
    assert len(seen) > 1
    assert all(each in (before, after) for each in seen)
    assert (seen[0], seen[-1]) == (before, after)


def test_says_what_it_needs_and_an_outage_is_not_claudes_fault() -> None:
    for wrong in ({}, {"store": 1, "user": "alice"}, {"store": "redis://x"}):
        for kind in (MemoryTool, AsyncMemoryTool):
            with pytest.raises(InvalidType, match="DataStore"):
                kind(**wrong)
    with MemoryTool("redis://127.0.0.1:1", user="alice") as tool, pytest.raises(StoreUnavailable):
        tool.call({"command": "view", "path": "/memories"})


def test_both_kinds_have_the_same_commands() -> None:
    for name in ("view", "create", "str_replace", "insert", "delete", "rename", "clear_all_memory"):
        one, other = (getattr(kind, name) for kind in (MemoryTool, AsyncMemoryTool))
        assert inspect.signature(one) == inspect.signature(other)
        assert one.__doc__ == other.__doc__


def test_claude_uses_it_through_the_runner_of_the_sdk(server_url: str, user: str, files: DataStore) -> None:
    command = {"command": "create", "path": "/memories/likes.txt", "file_text": "coffee"}
    contents = [
        [{"type": "tool_use", "id": "t1", "name": "memory", "input": command}],
        [{"type": "tool_use", "id": "t2", "name": "memory", "input": command}],
        [{"type": "text", "text": "I know."}],
    ]
    requests = []

    def answer(request: Any) -> Any:
        requests.append(json.loads(request.content))
        content = contents[len(requests) - 1]
        reason = "tool_use" if content[0]["type"] == "tool_use" else "end_turn"
        usage = {"input_tokens": 1, "output_tokens": 1}
        body = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": content, "usage": usage}
        return httpx2.Response(200, json={**body, "stop_reason": reason, "stop_sequence": None})

    with (
        MemoryTool(server_url, user=user) as tool,
        Anthropic(api_key="x", http_client=httpx2.Client(transport=httpx2.MockTransport(answer))) as client,
    ):
        messages: Any = [{"role": "user", "content": "I like coffee"}]
        runner = client.beta.messages.tool_runner(model="m", max_tokens=9, messages=messages, tools=[tool])
        assert runner.until_done().content[0].text == "I know."
    assert files.get_all() == {"likes.txt": "coffee"}
    assert requests[0]["tools"] == [{"type": "memory_20250818", "name": "memory"}]
    assert "already exists" in str(requests[2]["messages"][-1])


def test_the_page(server_url: str) -> None:
    read_page("anthropic-memory.md", server_url)
