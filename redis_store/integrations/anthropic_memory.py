"""Anthropic's memory tool: the files of Claude's memory are the texts of a namespace, and their keys are their paths."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Self, TypeAlias

from anthropic.tools import ToolError
from anthropic.tools.memory import BetaAbstractMemoryTool, BetaAsyncAbstractMemoryTool

from redis_store import (
    MISSING,
    AsyncDataStore,
    Conflict,
    DataStore,
    InvalidInput,
    Json,
    KeyInfo,
)
from redis_store.integrations.sides import awaited, finish
from redis_store.integrations.stores import async_store, blocking_store

if TYPE_CHECKING:
    from anthropic.types.beta import (
        BetaCacheControlEphemeralParam,
        BetaMemoryTool20250818CreateCommand,
        BetaMemoryTool20250818DeleteCommand,
        BetaMemoryTool20250818InsertCommand,
        BetaMemoryTool20250818RenameCommand,
        BetaMemoryTool20250818StrReplaceCommand,
        BetaMemoryTool20250818ViewCommand,
    )

Found: TypeAlias = tuple[Json, KeyInfo]
"""What is stored under a key, and its info."""

_ROOT = "/memories"
_MOST_LINES = 999_999
_LEVELS = 2
"""Levels of a directory that a view shows."""
_MOST_SHOWN = 100
"""Maximum number of occurrences of a text that an error names."""
_RENAME_TRIES = 20
"""Maximum number of tries of a rename, while other writers change its files."""


class MemoryTool(BetaAbstractMemoryTool):
    """Claude's memory in a namespace of the user: ``client.beta.messages.tool_runner(tools=[MemoryTool(store)], ...)``.

    `store` is a `DataStore`, which stays open when this is closed, or a url, or None as for `connect`: then `user` is needed. The
    file ``/memories/notes/a.txt`` is the text under the key ``notes/a.txt``. A directory exists while it has files.

    Each command writes in one step: all or nothing, and nothing that another process writes at the same time is lost. The replies
    and errors are those of the tool for files. What Claude gets wrong raises `ToolError`, which it is told.
    """

    def __init__(
        self,
        store: DataStore | str | None = None,
        *,
        user: str | None = None,
        namespace: str = "memories",
        cache_control: BetaCacheControlEphemeralParam | None = None,
    ) -> None:
        super().__init__(cache_control=cache_control)
        self._store, self._own = blocking_store(store, user)
        self._files = awaited(self._store.use_namespace(namespace))

    def view(self, command: BetaMemoryTool20250818ViewCommand) -> str:
        """Return the lines of a file, or the list of a directory."""
        return finish(_view(self._files, command.path, command.view_range))

    def create(self, command: BetaMemoryTool20250818CreateCommand) -> str:
        """Store a new file."""
        return finish(_create(self._files, command.path, command.file_text))

    def str_replace(self, command: BetaMemoryTool20250818StrReplaceCommand) -> str:
        """Replace the only occurrence of a text in a file."""
        return finish(_str_replace(self._files, command.path, command.old_str, command.new_str))

    def insert(self, command: BetaMemoryTool20250818InsertCommand) -> str:
        """Insert text after a line of a file."""
        return finish(_insert(self._files, command.path, command.insert_line, command.insert_text))

    def delete(self, command: BetaMemoryTool20250818DeleteCommand) -> str:
        """Delete a file, or a directory with all of its files."""
        return finish(_delete(self._files, command.path))

    def rename(self, command: BetaMemoryTool20250818RenameCommand) -> str:
        """Move a file, or a directory of at most some 240 files."""
        return finish(_rename(self._files, command.old_path, command.new_path))

    def clear_all_memory(self) -> str:
        """Delete all files."""
        return finish(_clear(self._files))

    def close(self) -> None:
        """Close the store if it was opened here."""
        if self._own:
            self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncMemoryTool(BetaAsyncAbstractMemoryTool):
    """Claude's memory in a namespace of the user, for asyncio: as `MemoryTool`, on an `AsyncDataStore`, and awaited."""

    def __init__(
        self,
        store: AsyncDataStore | str | None = None,
        *,
        user: str | None = None,
        namespace: str = "memories",
        cache_control: BetaCacheControlEphemeralParam | None = None,
    ) -> None:
        super().__init__(cache_control=cache_control)
        self._store, self._own = async_store(store, user)
        self._files = self._store.use_namespace(namespace)

    async def view(self, command: BetaMemoryTool20250818ViewCommand) -> str:
        """Return the lines of a file, or the list of a directory."""
        return await _view(self._files, command.path, command.view_range)

    async def create(self, command: BetaMemoryTool20250818CreateCommand) -> str:
        """Store a new file."""
        return await _create(self._files, command.path, command.file_text)

    async def str_replace(self, command: BetaMemoryTool20250818StrReplaceCommand) -> str:
        """Replace the only occurrence of a text in a file."""
        return await _str_replace(self._files, command.path, command.old_str, command.new_str)

    async def insert(self, command: BetaMemoryTool20250818InsertCommand) -> str:
        """Insert text after a line of a file."""
        return await _insert(self._files, command.path, command.insert_line, command.insert_text)

    async def delete(self, command: BetaMemoryTool20250818DeleteCommand) -> str:
        """Delete a file, or a directory with all of its files."""
        return await _delete(self._files, command.path)

    async def rename(self, command: BetaMemoryTool20250818RenameCommand) -> str:
        """Move a file, or a directory of at most some 240 files."""
        return await _rename(self._files, command.old_path, command.new_path)

    async def clear_all_memory(self) -> str:
        """Delete all files."""
        return await _clear(self._files)

    async def close(self) -> None:
        """Close the store if it was opened here."""
        if self._own:
            await self._store.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def _write(
    store: AsyncDataStore, files: Mapping[str, str], absent: Iterable[str], moved: Mapping[str, Found]
) -> None:
    """Store files and delete the moved ones, in one step, if these are unchanged and others absent; else raise `Conflict`."""
    async with store.transaction() as transaction:
        for key, (value, info) in moved.items():
            if info.version is not None:
                transaction.check(key, info.version)
            elif await transaction.get(key) != value:  # an external write has no version, so its value is compared
                raise Conflict(f"The key {key!r} was changed meanwhile.")
            transaction.delete(key)
        for key in absent:
            transaction.check(key, 0)
        for key, text in files.items():
            transaction.set(key, text)


async def _view(files: AsyncDataStore, path: str, lines: list[int] | None) -> str:
    key = _key(path)
    with _told():
        if key and (text := await files.get(key, MISSING)) is not MISSING:
            return _numbered(path, _as_text(path, text), lines)
        found = await files.get_all(f"{key}/" if key else "")
    if not found and key:
        raise _missing(path)
    return _listing(f"{_ROOT}/{key}" if key else _ROOT, len(key) + 1 if key else 0, found)


async def _create(files: AsyncDataStore, path: str, text: str) -> str:
    key = _key(path)
    _check_text(text, "file_text")
    with _told():
        if not key or await files.list_keys(f"{key}/"):
            raise ToolError(f"File {path} already exists")
        try:
            await _write(files, {key: text}, [key, *_parents(key)], {})
        except Conflict:
            await _check_parents(files, key)
            raise ToolError(f"File {path} already exists") from None
    return f"File created successfully at: {path}"


async def _str_replace(files: AsyncDataStore, path: str, old: str, new: str) -> str:
    _check_text(old, "old_str")
    _check_text(new, "new_str")
    at, text = 0, ""

    def edit(content: str) -> str:
        nonlocal at, text
        count = content.count(old)
        if count == 0:
            raise ToolError(f"No replacement was performed, old_str `{old}` did not appear verbatim in {path}.")
        if count > 1:
            raise ToolError(
                f"No replacement was performed. Multiple occurrences of old_str `{old}` in lines:"
                f" {', '.join(map(str, islice(_lines_with(content, old), _MOST_SHOWN)))}. Please ensure it is unique"
            )
        at = content.index(old)
        text = content[:at] + new + content[at + len(old) :]
        return text

    await _edit(files, path, edit)
    number, lines = text.count("\n", 0, at), text.split("\n")
    first = max(0, number - 2)
    snippet = _with_numbers(lines[first : number + 3], first + 1)
    return f"The memory file has been edited. Here is the snippet showing the change (with line numbers):\n{snippet}"


async def _insert(files: AsyncDataStore, path: str, line: int, text: str) -> str:
    _check_text(text, "insert_text")

    def edit(content: str) -> str:
        lines = content.removesuffix("\n").split("\n") if content else []
        if not isinstance(line, int) or not 0 <= line <= len(lines):
            raise ToolError(
                f"Invalid `insert_line` parameter: {line}. It should be within the range [0, {len(lines)}]."
            )
        lines.insert(line, text.rstrip("\n"))
        return "\n".join(lines) + "\n"

    await _edit(files, path, edit)
    return f"The file {path} has been edited."


async def _delete(files: AsyncDataStore, path: str) -> str:
    key = _key(path)
    if not key:
        raise ToolError(f"Cannot delete the {_ROOT} directory itself")
    with _told():
        if not await files.delete_many([key]) and not await files.delete_many(await files.list_keys(f"{key}/")):
            raise ToolError(f"The path {path} does not exist")
    return f"Successfully deleted {path}"


async def _rename(files: AsyncDataStore, old_path: str, new_path: str) -> str:
    old, new = _key(old_path), _key(new_path)
    if not old:
        raise ToolError(f"Cannot rename the {_ROOT} directory itself")
    if new.startswith(f"{old}/"):
        raise ToolError(f"Cannot move {old_path} into itself")
    with _told():
        for _ in range(_RENAME_TRIES):
            if not new or await files.get(new, MISSING) is not MISSING or await files.list_keys(f"{new}/"):
                raise ToolError(f"The destination {new_path} already exists")
            found = await files.get_many([old], info=True) or await files.get_all(f"{old}/", info=True)
            if not found:
                raise ToolError(f"The path {old_path} does not exist")
            after = {f"{new}{key[len(old) :]}": _as_text(f"{_ROOT}/{key}", value) for key, (value, _) in found.items()}
            try:
                await _write(files, after, {*after, *_parents(new)} - {*found}, found)
            except Conflict:
                await _check_parents(files, new)
            else:
                return f"Successfully renamed {old_path} to {new_path}"
    raise ToolError(f"Others kept changing {old_path}, and nothing was renamed. Try again")


async def _clear(files: AsyncDataStore) -> str:
    with _told():
        await files.clear()
    return "All memory cleared"


async def _edit(files: AsyncDataStore, path: str, edit: Callable[[str], str]) -> None:
    key = _key(path)

    def edit_text(content: Json) -> str:
        if content is None:
            raise _NoFile
        return edit(_as_text(path, content))

    with _told():
        try:
            if not key:
                raise _NoFile
            await files.update(key, edit_text)
        except _NoFile:
            if not key or await files.list_keys(f"{key}/"):
                raise ToolError(f"The path {path} is not a file.") from None
            raise _missing(path) from None


class _NoFile(Exception):
    """There is no file under a key."""


@contextmanager
def _told() -> Iterator[None]:
    """Tell Claude what was wrong with a command; an outage is not its fault, and stays what it is."""
    try:
        yield
    except InvalidInput as error:
        raise ToolError(str(error)) from error
    except Conflict as error:
        raise ToolError(f"Others kept changing the file, and nothing was written. Try again: {error}") from error


def _key(path: str) -> str:
    """Return the key of a path, '' for the root, or raise `ToolError`."""
    if not isinstance(path, str) or not (path == _ROOT or path.startswith(f"{_ROOT}/")):
        raise ToolError(f"Path must start with {_ROOT}, got: {path}")
    parts: list[str] = []
    for part in path[len(_ROOT) :].split("/"):
        if part == "..":
            if not parts:
                raise ToolError(f"Path {path} would escape {_ROOT} directory")
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def _parents(key: str) -> list[str]:
    parts = key.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


async def _check_parents(files: AsyncDataStore, key: str) -> None:
    for parent in _parents(key):
        if await files.get(parent, MISSING) is not MISSING:
            raise ToolError(f"The path {_ROOT}/{parent} is a file, so that no file can be in it. Use another directory")


def _as_text(path: str, value: Json) -> str:
    if isinstance(value, str):
        return value
    raise ToolError(
        f"The path {path} holds a value of another program, of the type {type(value).__name__}, and no text."
    )


def _check_text(text: object, name: str) -> None:
    if not isinstance(text, str):
        raise ToolError(f"`{name}` must be a string, not {type(text).__name__}.")


def _missing(path: str) -> ToolError:
    return ToolError(f"The path {path} does not exist. Please provide a valid path.")


def _numbered(path: str, text: str, wanted: list[int] | None) -> str:
    lines = text.split("\n")
    if len(lines) > _MOST_LINES:
        raise ToolError(f"File {path} exceeds maximum line limit of {_MOST_LINES:,} lines.")
    first = 0
    if wanted:
        if len(wanted) != 2 or not all(isinstance(number, int) for number in wanted):
            raise ToolError(f"Invalid `view_range` parameter: {wanted}. It should be two line numbers.")
        first, last = max(1, wanted[0]) - 1, len(lines) if wanted[1] == -1 else max(0, wanted[1])
        lines = lines[first:last]
    return f"Here's the content of {path} with line numbers:\n{_with_numbers(lines, first + 1)}"


def _with_numbers(lines: list[str], first: int) -> str:
    return "\n".join(f"{number:6}\t{line}" for number, line in enumerate(lines, first))


def _lines_with(content: str, text: str) -> Iterator[int]:
    at = content.find(text)
    while at >= 0 and text:
        yield content.count("\n", 0, at) + 1
        at = content.find(text, at + 1)


def _listing(directory: str, skipped: int, found: Mapping[str, Json]) -> str:
    """Return the list of a directory; `skipped` characters of each key are its path."""
    total, sizes = 0, dict[str, int]()
    for key, text in found.items():
        parts = key[skipped:].split("/")
        if any(part.startswith(".") for part in parts):
            continue
        size = len(text.encode()) if isinstance(text, str) else 0
        total += size
        for level in range(1, min(len(parts), _LEVELS) + 1):
            name = "/".join(parts[:level]) + ("/" if level < len(parts) else "")
            sizes[name] = sizes.get(name, 0) + size
    lines = [f"{_size(total)}\t{directory}"]
    lines += [f"{_size(sizes[name])}\t{directory}/{name}" for name in sorted(sizes)]
    header = f"Here're the files and directories up to {_LEVELS} levels deep in {directory}, excluding hidden items:"
    return "\n".join([header, *lines])


def _size(size_bytes: float) -> str:
    units = iter("BKMG")
    unit = next(units)
    while size_bytes >= 1024 and unit != "G":
        size_bytes, unit = size_bytes / 1024, next(units)
    return f"{size_bytes:.0f}{unit}" if size_bytes == int(size_bytes) else f"{size_bytes:.1f}{unit}"
