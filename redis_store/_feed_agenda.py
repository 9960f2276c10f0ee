"""Which of a hub's namespaces need what, so that it need not look through all of them. No I/O."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redis_store.hub.watched_namespace import Feed


class Agenda:
    """Which of a hub's namespaces need what; ordered, so that each gets its turn."""

    def __init__(self) -> None:
        self.unopened: dict[Feed, None] = {}
        self.dirty: dict[Feed, None] = {}
        """Something was heard of them, so that their logs have to be read."""
        self.doubtful: dict[Feed, None] = {}
        """They have to be learned or compared."""
        self.expiring: dict[Feed, None] = {}
        """Keys of theirs will expire."""
        self.left: dict[Feed, None] = {}
        """Nobody watches them any more; they end when it is known what they are like, for those who come later."""

    @staticmethod
    def first(feeds: dict[Feed, None], most: int) -> list[Feed]:
        return list(islice(feeds, most))

    def strike(self, feed: Feed) -> None:
        """It needs nothing any more."""
        for feeds in (self.unopened, self.dirty, self.doubtful, self.expiring, self.left):
            feeds.pop(feed, None)
