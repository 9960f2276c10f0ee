"""Order of the changes of a consumer: changes of one key never overtake each other, and the cursor passes none undone."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from redis_store import Change
from sandbox.consumers.backlog import BATCH_BYTES, MOST_OPEN, Backlog, Item


def change(number: int, key: str | None, value: bytes | None = b"1") -> Change:
    return Change("ns", key, "clear" if key is None else "set", value, str(number), "log")


@given(
    keys=st.lists(st.sampled_from(["a", "b", "c", None]), max_size=30),
    skipped=st.sets(st.integers(0, 29)),
    most=st.integers(1, 5),
    data=st.data(),
)
def test_order_and_cursor(keys: list[str | None], skipped: set[int], most: int, data: Any) -> None:
    backlog = Backlog()
    for number, key in enumerate(keys):
        backlog.add(change(number, key), skip=number in skipped)
    running: list[list[Item]] = []
    begun: list[Change] = []
    done = set(skipped)
    cursor = backlog.settle()
    while True:
        batch = backlog.next_batch(most)
        assert len(batch) <= most
        busy = {item.change.key for each in running for item in each}
        if batch:
            touched = {item.change.key for item in batch}
            assert not busy & touched
            assert not (running and None in touched | busy)
            begun += [item.change for item in batch]
            running.append(batch)
        elif not running:
            break
        if running and data.draw(st.booleans() if batch else st.just(True)):
            finished = running.pop(data.draw(st.integers(0, len(running) - 1)))
            done |= {int(item.change.cursor) for item in finished}
            cursor = backlog.finish(finished) or cursor
            assert cursor is None or set(range(int(cursor.cursor) + 1)) <= done
    assert sorted(int(each.cursor) for each in begun) == sorted(set(range(len(keys))) - skipped)
    for key in {"a", "b", "c"}:
        about_it = [int(each.cursor) for each in begun if each.key in (key, None)]
        assert about_it == sorted(about_it)
    assert (None if cursor is None else int(cursor.cursor)) == (len(keys) - 1 if keys else None)


def test_backlog_is_bounded() -> None:
    backlog = Backlog()
    for number in range(MOST_OPEN):
        backlog.add(change(number, "k"))
    assert backlog.room == 0
    backlog.finish(backlog.next_batch(10))
    assert backlog.room == 10


def test_batch_bytes_are_bounded() -> None:
    backlog = Backlog()
    for number in range(3):
        backlog.add(change(number, f"k{number}", b" " * (BATCH_BYTES // 2 + 1)))
    assert [len(backlog.next_batch(10)) for _ in range(4)] == [1, 1, 1, 0]


def test_cursor_does_not_pass_an_abandoned_change() -> None:
    backlog = Backlog()
    backlog.add(change(0, "a"))
    backlog.add(change(1, "b"))
    first, second = backlog.next_batch(1), backlog.next_batch(1)
    backlog.give_up(first)
    assert backlog.finish(second) is None
