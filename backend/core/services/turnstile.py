"""A lock whose waiting threads pass in order of importance."""

import heapq
import itertools
import threading

Ticket = tuple[int, int]


class Turnstile:
    """Lets one thread through at a time; a lower `priority` goes first, equal ones in order."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._tickets: list[Ticket] = []
        self._order = itertools.count()
        self._taken = False

    def ticket(self, priority: int) -> Ticket:
        """Take a place in line; `enter` uses it up, and so does `give_up`."""
        with self._changed:
            ticket = (priority, next(self._order))
            heapq.heappush(self._tickets, ticket)
            return ticket

    def enter(self, ticket: Ticket, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the ticket's turn; False where it did not come."""
        with self._changed:
            if not self._changed.wait_for(
                lambda: not self._taken and self._tickets[0] == ticket, timeout
            ):
                return False
            heapq.heappop(self._tickets)
            self._taken = True
            return True

    def leave(self, *, back: Ticket | None = None) -> None:
        """Let the next one in; with `back` this ticket stays in line where it was."""
        with self._changed:
            self._taken = False
            if back is not None:
                heapq.heappush(self._tickets, back)
            self._changed.notify_all()

    def give_up(self, ticket: Ticket) -> None:
        """Leave the line without having been let in."""
        with self._changed:
            self._tickets.remove(ticket)
            heapq.heapify(self._tickets)
            self._changed.notify_all()
