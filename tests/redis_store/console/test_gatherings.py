"""What pages show of a whole server: new if it is quickly gathered, and else what is known, with its age."""

from __future__ import annotations

import asyncio

import pytest

from redis_store.console import gatherings
from redis_store.console.gatherings import MOST_GATHERINGS, Gatherings


class Source:
    """Something that takes as long as a test wants."""

    def __init__(self) -> None:
        self.count = 0
        self.may_end = asyncio.Event()
        self.error: Exception | None = None

    async def gather(self) -> int:
        self.count += 1
        await self.may_end.wait()
        if self.error is not None:
            raise self.error
        return self.count


def test_what_is_quickly_gathered_is_always_new() -> None:
    async def check() -> None:
        source, kept = Source(), Gatherings()
        source.may_end.set()
        for count in (1, 2, 3):
            gathered = await kept.latest("locks", None, source.gather)
            assert (gathered.found, gathered.at) == (count, None)
        assert (await kept.latest("locks", "alice", source.gather)).found == 4
        await kept.close()

    asyncio.run(check())


def test_what_takes_long_is_shown_when_it_is_there_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gatherings, "GATHERING_WAITED_S", 0.001)

    async def check() -> None:
        source, kept = Source(), Gatherings()
        assert (await kept.latest("locks", None, source.gather)).found is None
        assert (await kept.latest("locks", None, source.gather)).found is None
        await asyncio.sleep(0.01)
        source.may_end.set()
        await asyncio.sleep(0)
        gathered = await kept.latest("locks", None, source.gather)
        assert source.count == 1  # several pages wait for one gathering
        assert gathered.found == 1
        again = await kept.latest("locks", None, source.gather)
        assert (again.found, again.at is not None, source.count) == (1, True, 1)
        await kept.forget("locks")
        assert (await kept.latest("locks", None, source.gather)).found != 1
        await kept.close()

    asyncio.run(check())


def test_an_error_is_told_and_the_next_page_tries_again() -> None:
    async def check() -> None:
        source, kept = Source(), Gatherings()
        source.may_end.set()
        source.error = OSError("gone")
        with pytest.raises(OSError, match="gone"):
            await kept.latest("locks", None, source.gather)
        source.error = None
        assert (await kept.latest("locks", None, source.gather)).found == 2
        await kept.close()

    asyncio.run(check())


def test_gatherings_are_bounded_and_end_with_the_console() -> None:
    async def check() -> None:
        kept, sources = Gatherings(), [Source() for _ in range(MOST_GATHERINGS + 1)]
        looks = [kept.latest("locks", str(at), source.gather) for at, source in enumerate(sources)]
        assert {one.found for one in await asyncio.gather(*looks)} == {None}
        await kept.close()
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(check())
