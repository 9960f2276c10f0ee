"""A fair semaphore without I/O: owners take turns, one waiter of each owner at a time, however many an owner has."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable


class Slots:
    """A number of slots; None for no bound."""

    def __init__(self, count: int | None) -> None:
        self._free = count
        self._lock = threading.RLock()
        self._waiting: OrderedDict[Hashable, deque[Ticket]] = OrderedDict()

    def enter(self, owner: Hashable, begin: Callable[[], None]) -> Ticket:
        """Call `begin` once a slot is free: now, or later in the thread that frees one. `begin` should return quickly."""
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
        """Free a slot and give it to the next waiter."""
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
            self._waiting[owner] = tickets  # at the end of the queue: the other owners come first
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
    """A slot, or the wait for one."""

    def __init__(self, slots: Slots, owner: Hashable, begin: Callable[[], None]) -> None:
        self.owner = owner
        self.begin = begin
        self._slots = slots

    def withdraw(self) -> bool:
        """Stop waiting and return True, or return False if the slot was already given."""
        return self._slots._withdraw(self)
