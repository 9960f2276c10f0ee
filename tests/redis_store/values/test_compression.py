"""Values that are stored compressed: every store reads them in every way, and no size that a frame claims is trusted."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import sandbox
from redis_store import (
    MISSING,
    CorruptValue,
    DataStore,
    InvalidSettings,
    LimitExceeded,
    UnsupportedEncoding,
    connect,
    connect_async,
)
from redis_store.namespace.keys import UserKeys
from redis_store.operations import operations_of
from redis_store.values import compression
from redis_store.values.codec import JsonText, Values
from redis_store.values.compression import Compression
from tests.support.servers import Server
from tests.support.steps import Steps

BIG = {"lines": [f"line {number}" for number in range(400)]}
TEXT = Values().encode(BIG)
SMALL = [1, 2]

zstd = compression._zstd()


@pytest.fixture
def packing_store(server: Server, user: str, open_store: Callable[..., DataStore]) -> DataStore:
    """A store that compresses values longer than 100 bytes."""
    return open_store(server.url, user, agent="tester", compress_above=100)


@pytest.fixture
def plain_store(server: Server, user: str, open_store: Callable[..., DataStore]) -> DataStore:
    """Another store of the same user, without compression settings."""
    return open_store(server.url, user, agent="tester")


@pytest.fixture
def data(server: Server, user: str) -> Iterator[Callable[[str], bytes]]:
    """Return the bytes that the server holds under a key."""
    with server.client() as raw:
        yield lambda key: raw.hget(UserKeys.of(user).data(b"default"), key)


def frame_of(text: bytes, **options: Any) -> bytes:
    return b"\x01" + zstd.compress(text, **options)


WRITES: dict[str, Callable[[DataStore], Any]] = {
    "set": lambda store: store.set("key", BIG),
    "set with metadata": lambda store: store.set("key", BIG, metadata={"a": 1}),
    "set_many": lambda store: store.set_many({"key": BIG, "small": SMALL}),
    "set_many with metadata": lambda store: store.set_many({"key": BIG}, metadata={"a": 1}),
    "set_if_absent": lambda store: store.set_if_absent("key", BIG),
    "compare_and_set": lambda store: store.compare_and_set("key", MISSING, BIG),
    "update": lambda store: store.update("key", lambda value: BIG),
    "get_or_set": lambda store: store.get_or_set("key", lambda: BIG),
    "transact": lambda store: store.transact(lambda transaction: transaction.set("key", BIG)),
    "rename": lambda store: (store.set("old", BIG), store.rename("old", "key")),
    "Steps.replace": lambda store: Steps(store).replace("key", MISSING, BIG),
    "JSON text": lambda store: store.as_json_text().set("key", TEXT),
}


@pytest.mark.parametrize("name", WRITES)
def test_every_write_compresses_long_values(packing_store: DataStore, data: Callable[[str], bytes], name: str) -> None:
    WRITES[name](packing_store)
    stored = data("key")
    assert stored.startswith(b"\x01\x28\xb5\x2f\xfd")
    assert len(stored) < len(TEXT) / 2
    assert zstd.decompress(stored[1:]) == TEXT, "any zstd reads it"
    assert packing_store.get("key") == BIG


def test_short_or_incompressible_values_stay_plain(packing_store: DataStore, data: Callable[[str], bytes]) -> None:
    border = "x" * 98  # 100 bytes as JSON
    noise = "".join(chr(33 + (number * number * 7919 + number) % 89) for number in range(101)).translate(
        {34: 97, 92: 97}
    )
    packing_store.set_many({"short": SMALL, "border": border, "noise": noise, "over": border + "x"})
    assert data("short") == b"[1,2]"
    assert data("border") == b'"%b"' % border.encode()
    assert data("noise") == Values().encode(noise), "compressing it would make it longer"
    assert data("over")[:1] == b"\x01"


READS: dict[str, Callable[[DataStore], Any]] = {
    "get": lambda store: store.get("key"),
    "get_many": lambda store: store.get_many(["key"])["key"],
    "get_all": lambda store: store.get_all()["key"],
    "iter_items": lambda store: dict(store.iter_items())["key"],
    "scan_items_page": lambda store: store.scan_items_page()[1]["key"],
    "get_or_set": lambda store: store.get_or_set("key", lambda: "computed"),
    "wait_for": lambda store: store.wait_for("key", timeout=20),
    "transact": lambda store: store.transact(lambda transaction: transaction.get("key")),
    "update": lambda store: store.update("key", lambda value: value),
    "pop": lambda store: store.pop("key"),
    "mapping": lambda store: store["key"],
    "JSON text": lambda store: Values().decode(store.as_json_text().get("key"), "", ""),  # type: ignore[arg-type]
    "JSON texts": lambda store: Values().decode(store.as_json_text().get_all()["key"], "", ""),  # type: ignore[arg-type]
}


def test_every_read_needs_no_setting(packing_store: DataStore, plain_store: DataStore) -> None:
    for name, read in READS.items():
        packing_store.set("key", BIG)
        assert read(plain_store) == BIG, name


def test_updates_of_compressed_values(
    packing_store: DataStore, plain_store: DataStore, data: Callable[[str], bytes]
) -> None:
    packing_store.set("list", BIG["lines"])
    plain_store.append("list", "one more")
    assert packing_store.get("list") == [*BIG["lines"], "one more"]
    assert data("list")[:1] == b"[", "who was told nothing compresses nothing"
    packing_store.append("list", "and another", max_items=300)
    assert plain_store.get("list") == [*BIG["lines"][-298:], "one more", "and another"]
    assert data("list")[:1] == b"\x01"

    packing_store.set("number", 10**200)
    assert data("number")[:1] == b"\x01"
    assert plain_store.increment("number", 5) == 10**200 + 5

    packing_store.set("key", BIG)
    assert plain_store.compare_and_set("key", {"lines": []}, 1) is False
    assert plain_store.compare_and_set("key", BIG, 1) is True, "the value is compared, however it is written"
    packing_store.set("key", BIG)
    assert plain_store.info("key").size == len(data("key")) < len(TEXT)  # type: ignore[union-attr]


def test_brokers_compare_json_text_with_compressed_values(packing_store: DataStore, plain_store: DataStore) -> None:
    steps = Steps(plain_store.as_json_text())
    packing_store.set_many({"key": BIG, "other": BIG})
    reads = [("default", "key", TEXT), ("default", "other", TEXT)]
    assert steps.commit_transaction([(*reads[0][:2], b"1")], [], []) == ("default", "key")
    assert steps.commit_transaction(reads, [("default", "new", b"1", None)], []) is None  # type: ignore[arg-type]
    assert plain_store.get("new") == 1
    assert steps.replace("key", b"1", b"2") == (False, TEXT)  # type: ignore[arg-type]
    assert steps.replace("key", TEXT, b"2") == (True, b"2")  # type: ignore[arg-type]


def test_asyncio(server: Server, user: str, data: Callable[[str], bytes]) -> None:
    async def main() -> None:
        async with connect_async(server.url, user=user, compress_above=100) as store:
            await store.set("key", BIG)
            assert data("key")[:1] == b"\x01"
            assert await store.get("key") == BIG
            assert await store.as_json_text().get("key") == TEXT

    asyncio.run(main())


def test_agents_get_plain_values(server_url: str, user: str, open_store: Callable[..., DataStore]) -> None:
    store = open_store(server_url, user, compress_above=100)
    store.set_many({"a": BIG, "b": BIG})
    source = textwrap.dedent("""
        def run(input_dict, tools):
            a = data_store.get("a")
            assert data_store.get_all() == data_store.get_many(["a", "b"]) == dict(data_store.iter_items())
            return a
    """)
    result = sandbox.run(source, {}, user=user, url=server_url)
    assert result.error is None
    assert result.output == BIG


def test_watchers_get_values(real_server: Server, user: str, open_store: Callable[..., DataStore]) -> None:
    packing_store = open_store(real_server.url, user, compress_above=100)
    with open_store(real_server.url, user).watch() as watch:
        packing_store.set("key", BIG)
        packing_store.set("huge", [BIG] * 40)
        changes = [watch.next_change(20), watch.next_change(20)]
    assert [change and change.value for change in changes] == [BIG, [BIG] * 40]


BROKEN: dict[str, bytes] = {
    "truncated": frame_of(TEXT)[:-20],
    "only a magic number": b"\x01\x28\xb5\x2f\xfd",
    "flipped": frame_of(TEXT, options={zstd.CompressionParameter.checksum_flag: 1})[:-1] + b"!",
    "without its checksum": frame_of(TEXT, options={zstd.CompressionParameter.checksum_flag: 1})[:-4],
    "more behind it": frame_of(TEXT) + b"x",
    "two frames": frame_of(TEXT) + zstd.compress(TEXT),
    "no JSON inside": frame_of(b"?" * 200),
    "packed twice": frame_of(frame_of(TEXT)),
    "nothing inside": frame_of(b""),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_frame_is_corrupt(plain_store: DataStore, server: Server, user: str, name: str) -> None:
    with server.client() as raw:
        raw.hset(UserKeys.of(user).data(b"default"), "key", BROKEN[name])
    for read in (plain_store.get, lambda key: plain_store.get_many([key]), lambda key: plain_store.get_all()):
        with pytest.raises(CorruptValue, match="'key' in namespace 'default'") as caught:
            read("key")
        assert (caught.value.namespace, caught.value.key) == ("default", "key")
    assert plain_store.compare_and_set("key", BIG, 1) is False
    assert plain_store.delete("key") is True


def test_a_bomb_is_refused_within_bounded_memory() -> None:
    program = """
import resource
from redis_store.values.compression import Compression, _zstd
from redis_store.values.codec import JsonText, Values
from redis_store.errors import CorruptValue

zstd = _zstd()
MIB = 1 << 20
compressor = zstd.ZstdCompressor()
piece = b"a" * MIB
unsized = b"".join(compressor.compress(piece) for _ in range(512)) + compressor.flush()
options = {zstd.CompressionParameter.window_log: 27, zstd.CompressionParameter.enable_long_distance_matching: 1}
wide = zstd.ZstdCompressor(options=options)
wide_window = b"".join(wide.compress(piece) for _ in range(16)) + wide.flush()
sized = zstd.ZstdCompressor()
sized.set_pledged_input_size(512 * MIB)
claiming = b"".join(sized.compress(piece) for _ in range(512)) + sized.flush()
packing = Compression(max_bytes=8 * MIB)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for bomb in (unsized, claiming, wide_window):
    for codec in (Values(packing), JsonText(packing)):
        try:
            codec.decode(b"\\x01" + bomb, "ns", "key")
        except CorruptValue as error:
            print(error)
        else:
            raise SystemExit("it was read")
grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
assert grown_mib < 40, grown_mib
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(said) == 6
    assert all("takes more than 8,388,608 bytes as JSON: raise max_value_bytes" in line for line in said[:4])
    assert all("broken" in line for line in said[4:]), "a window beyond the limit is not allocated"


def test_the_limit_is_that_of_the_text(server_url: str, user: str, open_store: Callable[..., DataStore]) -> None:
    writer = open_store(server_url, user, compress_above=0)
    small = open_store(server_url, user, compress_above=0, max_value_bytes=1000, max_batch_bytes=1500)
    writer.set("key", "x" * 998)
    assert small.get("key") == "x" * 998
    writer.set("key", "x" * 999)
    with pytest.raises(CorruptValue, match=r"more than 1,000 bytes as JSON: raise max_value_bytes"):
        small.get("key")
    with pytest.raises(LimitExceeded, match="takes 1,001 bytes as JSON"):
        small.set("key", "x" * 999)
    with pytest.raises(LimitExceeded, match="The batch takes 1,60"):
        small.set_many({"a": "x" * 798, "b": "x" * 798})


def test_without_the_library_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise ImportError("No module named 'backports.zstd'")

    monkeypatch.setattr(compression, "_zstd", missing)
    for codec in (Values(), JsonText()):
        with pytest.raises(UnsupportedEncoding, match=r"pip install backports\.zstd"):
            codec.decode(frame_of(TEXT), "ns", "key")
        with pytest.raises(UnsupportedEncoding, match="upgrade agent-data-store"):
            codec.decode(b"\x01\x02", "ns", "key")
    with pytest.raises(InvalidSettings, match=r"pip install backports\.zstd"):
        connect("redis://localhost", user="alice", compress_above=1)


@pytest.mark.parametrize("above", [-1, 1.5, True, "1000"])
def test_invalid_threshold(above: Any) -> None:
    for opener in (connect, connect_async):
        with pytest.raises(InvalidSettings, match="compress_above must be a whole number of bytes"):
            opener("redis://localhost", user="alice", compress_above=above)


def test_other_namespaces_and_lent_stores_keep_the_threshold(packing_store: DataStore) -> None:
    for store in (packing_store.use_namespace("other").read_only(), packing_store.as_json_text()):
        assert operations_of(store).scope.codec.packing == Compression(100)


def test_oversized_batch_is_not_fully_unpacked() -> None:
    packing = Compression(above_bytes=0)
    stored = [packing.pack(b'"%s"' % (b"x" * 998)) for _ in range(3)]
    assert sum(map(len, stored)) < 300
    bounded = JsonText(packing, 2500)
    assert set(bounded.decode_found("ab", stored[:2], "ns")) == {"a", "b"}
    unpacked: list[bytes] = []

    def texts() -> Iterator[bytes]:
        for text in [*stored, *stored]:
            unpacked.append(text)
            yield text

    with pytest.raises(LimitExceeded, match="more than 2,500 bytes"):
        bounded.decode_found("abcdef", texts(), "ns")
    assert len(unpacked) == 3
