"""A line in which the important go first."""

import threading
from concurrent.futures import ThreadPoolExecutor

from core.services.turnstile import Ticket, Turnstile

PATIENCE = 5


def test_who_is_alone_passes_at_once() -> None:
    line = Turnstile()

    assert line.enter(line.ticket(1), 0)


def test_nobody_else_passes_while_somebody_is_in() -> None:
    line = Turnstile()
    line.enter(line.ticket(1), 0)

    assert not line.enter(line.ticket(0), 0.01)


def test_the_lower_number_goes_first_and_equals_in_order_of_arrival() -> None:
    line, passed = Turnstile(), []
    first = line.ticket(9)
    line.enter(first, 0)
    tickets = {name: line.ticket(n) for name, n in [("a", 1), ("b", 2), ("c", 1), ("d", 0)]}

    def wait_for_turn(name: str, ticket: Ticket) -> None:
        assert line.enter(ticket, PATIENCE)
        passed.append(name)
        line.give_up(ticket)
        line.leave()

    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(wait_for_turn, *item) for item in tickets.items()]
        line.give_up(first)
        line.leave()
        for future in waiting:
            future.result(PATIENCE)

    assert passed == ["d", "a", "c", "b"]


def test_who_leaves_unserved_keeps_the_place_in_line() -> None:
    line = Turnstile()
    mine, other = line.ticket(1), line.ticket(1)
    line.enter(mine, 0)

    line.leave()

    assert not line.enter(other, 0.01)
    assert line.enter(mine, 0)


def test_who_leaves_unserved_lets_the_more_important_pass() -> None:
    line = Turnstile()
    mine = line.ticket(1)
    line.enter(mine, 0)
    urgent = line.ticket(0)

    line.leave()

    assert not line.enter(mine, 0.01)
    assert line.enter(urgent, 0)


def test_who_gives_up_holds_up_nobody() -> None:
    line = Turnstile()
    gone, waits = line.ticket(0), line.ticket(1)
    passed = threading.Event()

    def wait_for_turn() -> None:
        assert line.enter(waits, PATIENCE)
        passed.set()

    thread = threading.Thread(target=wait_for_turn, daemon=True)
    thread.start()
    line.give_up(gone)

    assert passed.wait(PATIENCE)
    thread.join()
