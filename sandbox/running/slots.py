"""So many at once and no more; who has to wait is served in turn, one of each owner, however many one owner asks for."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable


class Slots:
    """A number of places; None for as many as are asked for."""

    def __init__(self, count: int | None) -> None:
        self._free = count
        self._lock = threading.Lock()
        self._waiting: OrderedDict[Hashable, deque[Ticket]] = OrderedDict()

    def enter(self, owner: Hashable, begin: Callable[[], None]) -> Ticket:
        """Call `begin` once there is a place: now, or later in the thread that frees it; it should return at once."""
        ticket = Ticket(self, owner, begin)
        with self._lock:
            if self._free == 0:
                self._waiting.setdefault(owner, deque()).append(ticket)
                return ticket
            if self._free is not None:
                self._free -= 1
        begin()
        return ticket

    def leave(self) -> None:
        """Give a place back, and let the next one in."""
        with self._lock:
            ticket = self._next()
            if ticket is None:
                if self._free is not None:
                    self._free += 1
                return
        ticket.begin()

    def _next(self) -> Ticket | None:
        if not self._waiting:
            return None
        owner, tickets = self._waiting.popitem(last=False)
        ticket = tickets.popleft()
        if tickets:
            self._waiting[owner] = tickets  # at the end: the other owners come first
        return ticket

    def _withdraw(self, ticket: Ticket) -> bool:
        with self._lock:
            tickets = self._waiting.get(ticket.owner)
            if tickets is None or ticket not in tickets:
                return False
            tickets.remove(ticket)
            if not tickets:
                del self._waiting[ticket.owner]
            return True


class Ticket:
    """A place, or the wish for one."""

    def __init__(self, slots: Slots, owner: Hashable, begin: Callable[[], None]) -> None:
        self.owner = owner
        self.begin = begin
        self._slots = slots

    def withdraw(self) -> bool:
        """Stop waiting and return True; False where it has begun."""
        return self._slots._withdraw(self)
