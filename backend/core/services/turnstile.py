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
        """Take a place in line, to be kept until `give_up`."""
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
            self._taken = True
            return True

    def leave(self) -> None:
        """Let in whoever is first in line now; that may be the same ticket again."""
        with self._changed:
            self._taken = False
            self._changed.notify_all()

    def give_up(self, ticket: Ticket) -> None:
        """Give the place in line back, wanted no more or used up."""
        with self._changed:
            self._tickets.remove(ticket)
            heapq.heapify(self._tickets)
            self._changed.notify_all()
