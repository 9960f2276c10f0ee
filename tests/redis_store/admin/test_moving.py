"""Exports and imports: the same bytes again, one moment, broken files, and what goes on after an interruption."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import redis

from redis_store import Client
from redis_store.admin import Admin, AsyncAdmin, exporting, moving, spool, walks
from redis_store.admin.importing import Imported
from redis_store.admin.spool import Spool
from redis_store.admin.walks import Walk
from redis_store.connections.sync import HeldConnection
from redis_store.errors import Conflict, InvalidInput, StoreUnavailable, UnsupportedEncoding
from redis_store.values import compression
from tests.conftest import missing
from tests.redis_store.admin.conftest import HARD_NAMES, HARD_USERS, Ended
from tests.support.servers import MissingServer, Server, Servers

BY_HAND = {
    b"not json": b"hello\n",
    b"no text": b"\xff\x00\n\t",
    b"spaces": b" 20 ",
    b"lines": b'{"a":\n1}',
    b"empty": b"",
    b"two": b"1,2",
    b"field \xfe\n\t": b"1",
    b"lone": b'"\\ud800"',
}
"""Fields and values that no store writes."""


def text_of(admin: Admin, user: str | None = None, namespace: str | None = None) -> bytes:
    """Return an export."""
    file = io.BytesIO()
    admin.export(file, user, namespace)
    return file.getvalue()


def lines_of(text: bytes) -> list[Any]:
    """Return the keys of an export."""
    return [json.loads(line) for line in text.splitlines()[1:-1]]


def fill(client: Client, raw: redis.Redis) -> None:
    """Store a little of everything."""
    for user in HARD_USERS:
        for name in HARD_NAMES:
            client.store(user=user, namespace=name, agent='a "quoted" \\ one').set_many({"k": 1, "b\n\t\\": "v\n"})
    store = client.store(user="alice", agent="one", run='a "run" \\')
    store.set("told", 1, metadata={"tags": {"x": 1}, "z": [1, "é"]}, ttl=86_400)
    client.store(user="alice", agent="two").set("told", {"a": [None, 1.5, 2**70]}, ttl=86_400)
    store.get_or_set("tagged", lambda: "x", tags=['t"1', "}2\\"])
    client.store(user="alice", namespace="big").set_many({f"key:{number}": {"n": number} for number in range(700)})
    client.store(user="alice", namespace="bulky").set_many({str(number): "x" * 100_000 for number in range(5)})
    raw.hset("user:alice:ns:by hand", mapping=BY_HAND)
    raw.sadd("user:alice:namespaces", "by hand", "old")
    raw.hset("user:alice:ns:old", "k", "1")  # as the first version wrote it
    old = '{"created":1795451319752,"by":"a","updated":1795451319761,"updated_by":null,"metadata":{"m":1}}'
    raw.hset("user:alice:info:old", "k", old)
    raw.hset("user:alice:info:by hand", "spaces", '{"by": "hand"}')


def test_an_import_makes_the_same_export_again(client: Client, admin: Admin, raw: redis.Redis, tmp_path: Path) -> None:
    fill(client, raw)
    first = text_of(admin)
    assert first == text_of(admin)
    before = {key: _all_of(raw, key) for key in raw.scan_iter("user:*") if b":info:by hand" not in key}
    raw.flushdb()
    assert admin.import_(io.BytesIO(first)).written == len(first.splitlines()) - 2
    assert text_of(admin) == first
    after = {key: _all_of(raw, key) for key in raw.scan_iter("user:*")}
    after.pop(b"user::audit")
    before.pop(b"user::audit", None)
    # Change logs are there for a minute after an export, and counts of computations belong to the server.
    others = {key for key in (*before, *after) if b":log:" in key or b":computed:" in key}
    assert after.keys() - others == before.keys() - others
    assert all(after[key] == before[key] for key in after.keys() - others if b":tag" not in key)
    again = admin.import_(io.BytesIO(first))
    assert (again.written, again.already) == (0, again.keys)
    # A tag still reaches its values.
    assert client.store(user="alice").invalidate_tag("}2\\") == 1


def _all_of(raw: redis.Redis, key: bytes) -> Any:
    kind = raw.type(key)
    if kind == b"hash":
        found = raw.hgetall(key)
        lives = raw.execute_command("HPEXPIRETIME", key, "FIELDS", len(found), *found)
        return {field: (found[field], life) for field, life in zip(found, lives, strict=True)}
    return raw.smembers(key) if kind == b"set" else kind


def test_values_by_hand_are_kept_exactly(admin: Admin, raw: redis.Redis) -> None:
    raw.hset("user:alice:ns:by hand", mapping=BY_HAND)
    text = text_of(admin)
    assert all("value" not in line for line in lines_of(text) if line.get("key") in ("not json", "spaces", "empty"))
    raw.flushdb()
    admin.import_(io.BytesIO(text))
    assert raw.hgetall("user:alice:ns:by hand") == BY_HAND


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_files_are_compressed_by_name(suffix: str, client: Client, admin: Admin, tmp_path: Path) -> None:
    client.store(user="alice").set_many({str(number): "text" * 50 for number in range(300)})
    file = tmp_path / f"all.jsonl{suffix}"
    done = admin.export(file)
    assert done.keys == 300
    assert list(tmp_path.iterdir()) == [file]
    assert (len(file.read_bytes()) < 20_000) == bool(suffix)
    first = file.read_bytes()
    client.store(user="alice").clear()
    assert admin.import_(file).written == 300
    admin.export(file)
    assert file.read_bytes() == first


def test_compressed_values_are_readable_in_the_file_and_compressed_again(
    url: str, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Client(url, compress_above=1000) as client:
        client.store(user="alice").set("k", "x" * 50_000)
        stored = raw.hget("user:alice:ns:default", "k")
        text = text_of(Admin(client))
        assert lines_of(text)[0]["value"] == "x" * 50_000
        raw.flushdb()
        Admin(url).import_(io.BytesIO(text))
        assert raw.hget("user:alice:ns:default", "k") == stored

        def no_zstd() -> NoReturn:
            raise ImportError

        monkeypatch.setattr(compression, "_zstd", no_zstd)
        with pytest.raises(InvalidInput, match=r"Line 2 of the export cannot be used: .* zstd is not installed here"):
            Admin(url).import_(io.BytesIO(text))


def test_one_user_and_one_namespace(client: Client, admin: Admin) -> None:
    for user in HARD_USERS:
        for name in ("*", "other"):
            client.store(user=user, namespace=name).set("k", user)
    assert {line["user"] for line in lines_of(text_of(admin, "*"))} == {"*"}
    assert [(line["user"], line["namespace"]) for line in lines_of(text_of(admin, "{alice}", "*"))] == [
        ("{alice}", "*")
    ]
    everything = text_of(admin)
    for user in HARD_USERS:
        admin.delete_user(user)
    admin.import_(io.BytesIO(everything), "a\nb", "other")
    assert [(one.user, one.namespace) for one in admin.list_namespaces()] == [("a\nb", "other")]


def test_keys_with_a_prefix(client: Client, admin: Admin, raw: redis.Redis, run: Callable[..., Ended]) -> None:
    store = client.store(user="alice", namespace="n")
    store.set_many({"é/1": 1, "é/2": 2, "é": 3, "f": 4})
    raw.hset("user:alice:ns:n", "é/".encode() + b"\xff", "5")
    file = io.BytesIO()
    assert admin.export(file, "alice", "n", prefix="é/").keys == 3
    assert [one.get("key") for one in lines_of(file.getvalue())] == ["é/1", "é/2", None]
    store.clear()
    file.seek(0)
    assert admin.import_(file).written == 3
    assert store.list_keys()[:2] == ["é/1", "é/2"]
    shown = run("export", "--user", "alice", "--namespace", "n", "--prefix", "é/2")
    assert [one["key"] for one in shown.records[1:-1]] == ["é/2"]
    with pytest.raises(InvalidInput, match="name the namespace too"):
        admin.export(io.BytesIO(), "alice", prefix="é")


def test_keys_that_hold_something_else_stay(client: Client, admin: Admin) -> None:
    store = client.store(user="alice")
    store.set_many({"a": 1, "b": 2})
    text = text_of(admin)
    store.set("b", "newer")
    store.delete("a")
    done = admin.import_(io.BytesIO(text))
    assert (done.written, done.kept, done.first_kept) == (1, 1, [("alice", "default", "b")])
    assert store.get_all() == {"a": 1, "b": "newer"}
    assert admin.import_(io.BytesIO(text), replace=True).written == 1
    assert store.get("b") == 2
    assert text_of(admin) == text


def test_between_both_forms_of_keys(url: str, client: Client, admin: Admin, raw: redis.Redis) -> None:
    store = client.store(user="alice")
    store.get_or_set("k", lambda: 1, tags=["t"])
    store.set("short", 1, ttl=86_400)
    text = text_of(admin)
    raw.flushdb()
    with Client(url, hash_tags=True) as tagged:
        Admin(tagged).import_(io.BytesIO(text))
        assert raw.exists("user:{alice}:ns:default", "user:{alice}:tag:t") == 2
        assert text_of(Admin(tagged)) == text
        assert tagged.store(user="alice").invalidate_tag("t") == 1


def test_an_export_of_a_busy_namespace_is_one_moment(client: Client, admin: Admin) -> None:
    """A writer sets five keys and a counter at once; in each export exactly those of the last step have its number."""
    store = client.store(user="alice", namespace="busy")
    store.set_many({f"k{number}": 0 for number in range(1500)})
    stop, step = threading.Event(), 0

    def write() -> None:
        nonlocal step
        while not stop.is_set():
            step += 1
            start = step * 7 % 1490
            store.set_many({"step": step, **{f"k{number}": step for number in range(start, start + 5)}})
            store.delete(f"gone{step - 1}")
            store.set(f"gone{step}", 0)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(5):
            found = {line["key"]: line["value"] for line in lines_of(text_of(admin, "alice", "busy"))}
            last = found["step"]
            assert max(found.values()) == last
            assert sum(value == last for key, value in found.items() if key.startswith("k")) == 5
            assert sum(key.startswith("gone") for key in found) <= 1
    finally:
        stop.set()
        writer.join()


@pytest.mark.parametrize("what", ["values", "metadata"])
def test_a_step_of_an_export_copies_half_a_mebibyte(
    what: str, client: Client, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    value, metadata = ("x" * 4000, None) if what == "values" else ("x", {"m": "x" * 4000})
    client.store(user="alice").set_many({str(number): value for number in range(600)}, metadata=metadata)
    sizes = []
    exchange = HeldConnection.exchange

    def measured(self: HeldConnection, *call: Any) -> Any:
        reply = exchange(self, *call)
        sizes.append(_size_of(reply))
        return reply

    monkeypatch.setattr(HeldConnection, "exchange", measured)
    assert len(lines_of(text_of(admin))) == 600
    assert max(sizes) < 3 * 1024 * 1024 // 4
    assert sum(size > 4000 for size in sizes) < 10  # and yet a step reads many keys


def _size_of(reply: Any) -> int:
    return sum(map(_size_of, reply)) if isinstance(reply, list) else len(reply) if isinstance(reply, bytes) else 0


def test_a_log_that_is_cut_off_during_an_export(client: Client, admin: Admin, raw: redis.Redis) -> None:
    store = client.store(user="alice", namespace="busy")
    store.set_many({f"k{number}": 0 for number in range(1500)})
    often, steps = 1, 0

    def cut(found: int) -> None:
        nonlocal steps
        steps += 1
        if steps <= often:
            store.set("k0", steps)
            raw.xtrim("user:alice:log:busy", 1)
            store.set("k1", steps)
            raw.xtrim("user:alice:log:busy", 1)

    admin.on_step = cut
    values = {line["key"]: line["value"] for line in lines_of(text_of(admin, "alice", "busy"))}
    assert (len(values), values["k0"], values["k1"]) == (1500, 1, 1)
    often = 10**6
    with pytest.raises(Conflict, match="change log of namespace 'busy'"):
        text_of(admin, "alice", "busy")


def test_a_clear_during_an_export(client: Client, admin: Admin) -> None:
    store = client.store(user="alice", namespace="busy")
    store.set_many({f"k{number}": 0 for number in range(1500)})
    steps = 0

    def clear_once(found: int) -> None:
        nonlocal steps
        steps += 1
        if steps == 2:
            store.clear()
            store.set("new", 1)

    admin.on_step = clear_once
    assert [line["key"] for line in lines_of(text_of(admin, "alice", "busy"))] == ["new"]


def test_watchers_see_what_is_imported(client: Client, admin: Admin) -> None:
    store = client.store(user="alice")
    store.set("a", 1)
    store.set("b", 2, ttl=86_400)
    text = text_of(admin)
    store.clear()
    with store.watch() as changes:
        assert changes.next_change(timeout=0) is None
        admin.import_(io.BytesIO(text))
        seen = [changes.next_change(timeout=10) for _ in range(2)]
    assert {(change.key, change.value, change.source) for change in seen if change} == {
        ("a", 1, "log"),
        ("b", 2, "log"),
    }


def _changed(text: bytes, old: bytes, new: bytes) -> bytes:
    assert old in text
    return text.replace(old, new)


def _without_line(text: bytes, number: int) -> bytes:
    lines = text.splitlines(keepends=True)
    del lines[number]
    return b"".join(lines)


OTHERS_TAGS = b'{"x":[{"a":1,"tags":{"user:bob:tag:t":1}}],'

BROKEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut between lines": (lambda text: _without_line(text, -1), "Line 12 "),
    "cut in a line": (lambda text: text[:-150], "Line 11 "),
    "a changed value": (lambda text: _changed(text, b'"value":3', b'"value":4'), "Line 12 "),
    "a missing line": (lambda text: _without_line(text, 3), "Line 11 "),
    "no JSON": (lambda text: _changed(text, b'"value":3', b'"value":,'), "Line 5 "),
    "another field": (lambda text: _changed(text, b'"value":3', b'"value":3,"x":1'), "Line 5 "),
    "no key": (lambda text: _changed(text, b'"key":"k3",', b""), "Line 5 "),
    "no user": (lambda text: _changed(text, b'"alice"', b'""'), "Line 2 "),
    "a foreign file": (lambda text: b'{"a":1}\n', "Line 1 "),
    "a newer version": (lambda text: _changed(text, b'"version":1', b'"version":2'), "Line 1 "),
    "nothing": (lambda text: b"", "Line 1 "),
    "more behind it": (lambda text: text + text, "Line 13 "),
    "infos with others' tags": (lambda text: _changed(text, b'"info":{', b'"info":' + OTHERS_TAGS), "Line 2 "),
}  # fmt: skip


@pytest.mark.parametrize("how", BROKEN)
def test_broken_files_are_refused_as_a_whole(how: str, client: Client, admin: Admin, tmp_path: Path) -> None:
    store = client.store(user="alice")
    store.set_many({f"k{number}": number for number in range(10)})
    text = text_of(admin)
    store.clear()
    broken, where = BROKEN[how]
    file = tmp_path / "broken"
    file.write_bytes(broken(text))
    with pytest.raises(InvalidInput, match=f"{where}.*Nothing was imported"):
        admin.import_(file)
    assert len(store) == 0
    # What comes through a pipe is written up to there, and it is said how much.
    done = Imported()
    with pytest.raises(InvalidInput, match=rf"{where}.*{len(store)} keys were written"):
        admin.import_(io.BufferedReader(_Pipe(broken(text))), done=done)  # type: ignore[arg-type]
    assert done.written == len(store)


class _Pipe(io.RawIOBase):
    """Bytes that can be read once."""

    def __init__(self, text: bytes) -> None:
        self._file = io.BytesIO(text)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(buffer)


def test_a_compressed_file_that_is_cut_off(client: Client, admin: Admin, tmp_path: Path) -> None:
    store = client.store(user="alice")
    store.set_many({str(number): number for number in range(1000)})
    file = tmp_path / "all.gz"
    admin.export(file)
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(InvalidInput, match=r"Line [\d,]+ .*cut off"):
        admin.import_(file)


def test_an_import_that_stopped_goes_on(client: Client, admin: Admin) -> None:
    store = client.store(user="alice")
    store.set_many({f"k{number}": "x" * 2000 for number in range(2000)})
    text = text_of(admin)
    store.clear()

    def stop(found: int) -> None:
        raise KeyboardInterrupt

    admin.on_step = stop
    done = Imported()
    with pytest.raises(KeyboardInterrupt):
        admin.import_(io.BytesIO(text), done=done)
    assert 0 < done.written == len(store) < 2000
    admin.on_step = None
    rest = admin.import_(io.BytesIO(text))
    assert (rest.written, rest.already) == (2000 - done.written, done.written)
    assert text_of(admin) == text


def test_a_server_that_goes_away(start: Callable[..., Server], tmp_path: Path) -> None:
    """In the middle of an export there is no file; in the middle of an import, the same import again completes it."""
    server, file = start("valkey9"), tmp_path / "all"
    with Client(server.url) as client:
        admin = Admin(client)
        for number in range(40):
            client.store(user="alice", namespace=f"n{number}").set_many({f"k{key}": "x" * 2000 for key in range(50)})
        expected = text_of(admin)
        file.write_bytes(expected)
        admin.on_step = lambda found: server.kill()
        with pytest.raises(StoreUnavailable):
            admin.export(tmp_path / "new")
        assert list(tmp_path.iterdir()) == [file]
        server.restart()  # empty
        done = Imported()
        with pytest.raises(StoreUnavailable):
            admin.import_(file, done=done)
        assert 0 < done.written < 2000
        server.restart()
        admin.on_step = None
        assert admin.import_(file).written == 2000
        assert text_of(admin) == expected


def test_a_failed_export_leaves_the_old_file(client: Client, admin: Admin, tmp_path: Path) -> None:
    client.store(user="alice").set("k", 1)
    file = tmp_path / "all"
    file.write_text("old")

    def stop(found: int) -> None:
        raise StoreUnavailable("gone")

    admin.on_step = stop
    with pytest.raises(StoreUnavailable):
        admin.export(file)
    assert [each.read_text() for each in tmp_path.iterdir()] == ["old"]


def test_asyncio(url: str, client: Client, admin: Admin, raw: redis.Redis, tmp_path: Path) -> None:
    fill(client, raw)
    text = text_of(admin)

    async def main() -> None:
        async with AsyncAdmin(url) as both:
            await both.export(tmp_path / "all.gz")
            raw.flushdb()
            assert (await both.import_(tmp_path / "all.gz")).kept == 0
            await both.export(tmp_path / "again")

    asyncio.run(main())
    assert gzip.decompress((tmp_path / "all.gz").read_bytes()) == (tmp_path / "again").read_bytes() == text


@pytest.fixture
def old_server_url(servers: Servers) -> str:
    """The url of a database of a server on which single keys cannot expire."""
    try:
        url = f"{servers.get('redis7').url}?db=7"
    except MissingServer as error:
        missing(error)
    with redis.Redis.from_url(url) as raw:
        raw.flushdb()
    return url


def test_a_server_without_expiry_of_fields(admin: Admin, client: Client, old_server_url: str) -> None:
    store = client.store(user="alice")
    store.set("k", 1)
    plain = text_of(admin)
    store.set("k", 1, ttl=1000)
    with Client(old_server_url) as old:
        assert Admin(old).import_(io.BytesIO(plain)).written == 1
        assert text_of(Admin(old)) == plain
        with pytest.raises(Exception, match="cannot let single keys expire"):
            Admin(old).import_(io.BytesIO(text_of(admin)), replace=True)


def test_the_digest_is_that_of_the_lines_before_it(client: Client, admin: Admin) -> None:
    client.store(user="alice").set("k", 1)
    *before, last = text_of(admin).splitlines(keepends=True)
    assert json.loads(last) == {"end": {"keys": 1, "sha256": hashlib.sha256(b"".join(before)).hexdigest()}}


def test_a_spool_sorts_more_than_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "MOST_RUNS", 3)
    monkeypatch.setattr(spool, "BIG_BYTES", 100)
    records = Spool(memory_bytes=2000)
    wanted = {b"%d" % (number * 7919 % 1000): b"%d\n" % number for number in range(1000)}
    records.add([b"old"], [b"cleared\n"])
    records.clear()
    for name, rest in wanted.items():
        records.add([name, b"big"], [b"earlier\n", b"x" * 500 + b"\n"])
        records.add([name], [rest])
    records.add([b"999"], [b""])
    del wanted[b"999"]
    assert list(records.sorted()) == sorted([*wanted.items(), (b"big", b"x" * 500 + b"\n")])
    records.close()


def test_an_export_that_does_not_fit_in_memory(client: Client, admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    store = client.store(user="alice")
    store.set_many({f"key {number * 7919 % 2003}": [number, "x" * 200] for number in range(2003)})
    store.set("big", "x" * 300_000)
    text = text_of(admin)
    spools: list[Spool] = []

    class Small(Spool):
        def __init__(self) -> None:
            super().__init__(memory_bytes=30_000)
            spools.append(self)
            self.most = 0

        def add(self, names: Iterable[bytes], rests: Iterable[bytes]) -> None:
            super().add(names, rests)
            self.most = max(self.most, len(self._records))

    monkeypatch.setattr(exporting, "Spool", Small)
    assert text_of(admin) == text
    assert spools[0].most < 500  # type: ignore[attr-defined]


def test_a_scan_that_finds_names_twice(client: Client, admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        client.store(user=f"u{number}", namespace="n").set("k", number)
    text = text_of(admin)

    async def twice(*given: Any, **options: Any) -> Walk[Any]:
        async for page in walks.readable_keys(*given, **options):
            yield page
            yield page

    monkeypatch.setattr(moving, "readable_keys", twice)
    assert text_of(admin) == text


def test_an_export_forgets_whose_format_it_knows(
    client: Client, admin: Admin, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(60):
        client.store(user=f"u{number}").set("k", number)
    text = text_of(admin)
    monkeypatch.setattr(walks, "MOST_KNOWN", 3)
    monkeypatch.setattr(walks, "SCAN_COUNT", 10)
    assert text_of(admin) == text
    raw.set("user:u41:format", '{"format":7,"read_since":"3.2.1"}')
    with pytest.raises(UnsupportedEncoding, match="u41"):
        text_of(admin)


# The commands


def test_the_commands(
    client: Client, run: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = client.store(user="alice", namespace="n\n*")
    store.set_many({"a": 1, "b": 2})
    text = run("export", "--user", "alice").out
    assert [line["key"] for line in lines_of(text.encode())] == ["a", "b"]
    file = tmp_path / "all.zst"
    assert run("export", str(file)).out == ""
    assert "2 keys exported" in run("export", str(file)).err
    run("export", "--user", "nobody", code=3)
    store.set("b", "other")
    kept = run("import", str(file), code=4)
    assert "1 key held something else" in kept.err
    assert run("import", str(file), "--replace", "--yes").err.startswith("1 key imported, 1 were there already")
    _feed(monkeypatch, text.encode()[:-20])
    assert "Line 4 of the export" in run("import", code=2).err
    _feed(monkeypatch, text.encode())
    assert run("import", "--json").records[0]["already"] == 2
    run("import", str(tmp_path / "missing"), code=2)


def _feed(monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(_Pipe(text))))  # type: ignore[arg-type]


def test_ctrl_c_says_how_to_go_on(
    client: Client, run: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.store(user="alice").set_many({f"k{number}": "x" * 2000 for number in range(1500)})
    file = tmp_path / "all"
    run("export", str(file))
    client.store(user="alice").clear()
    monkeypatch.setattr("redis_store.admin.importing.Imported.add", _interrupted(Imported.add))
    assert "To go on, run the same command again" in run("import", str(file), code=130).err
    assert 0 < len(client.store(user="alice")) < 1500


def _interrupted(add: Callable[[Imported, Imported], None]) -> Callable[[Imported, Imported], None]:
    calls = 0

    def once(self: Imported, other: Imported) -> None:
        nonlocal calls
        calls += 1
        add(self, other)
        if calls == 10:
            raise KeyboardInterrupt

    return once


@pytest.mark.parametrize("place", ["missing/all.jsonl", ".", "/dev/full"])
def test_a_file_that_cannot_be_written_is_named(place: str, tmp_path: Path, run: Callable[..., Ended]) -> None:
    path = tmp_path / place
    ended = run("export", str(path), code=2)
    assert f"The file '{path}' cannot be written: " in ended.err
    assert list(tmp_path.iterdir()) == []
