"""One film source of this process: its queue, its threads and its circuit breaker."""

import itertools
import threading
import time
import traceback
from bisect import insort
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from core.deadline import Deadline, deadline_of, time_left
from core.errors import (
    DeadlineExceeded,
    UpstreamError,
    UpstreamQuotaExhausted,
    UpstreamRateLimited,
)
from core.services.circuit_breaker import CircuitBreaker
from core.services.limits import Quota, Rate, is_in_reserve
from core.services.usage import Avoided, tally
from core.utils.decorators import in_callers_context

if TYPE_CHECKING:
    from core.services.coordinator import Coordinator

T = TypeVar("T")


class Priority(IntEnum):
    """Who waits for a call; lower values go first."""

    READER = 0
    BACKGROUND = 1
    BATCH = 2
    # For a title that nothing vouches for: after all other calls.
    UNVOUCHED = 3


@dataclass(frozen=True, slots=True)
class Combined:
    """A way to make up to `most` calls of one kind as one: `call` maps items to their results.

    An item that is missing from the result is called by itself.
    """

    call: Callable[[Sequence[str]], dict[str, Any]]
    most: int


# Priority, whether it is a further call of a film, round, order of arrival.
_Rank = tuple[int, bool, int, int]


@dataclass(slots=True, eq=False)
class _Call:
    rank: _Rank
    call: Callable[[], Any]
    # Runs what it is given with the context variables of the caller.
    run: Callable[[Callable[[], Any]], Any]
    future: "Future[Any]"
    leave_reserve: bool
    item: str
    combined: Combined | None
    is_single: bool
    is_queued: bool = True
    is_started: bool = False
    # A call of the quota is reserved for it.
    has_quota: bool = False

    def start(self) -> bool:
        """Mark the future as running; return False if it was cancelled."""
        if not self.is_started:
            self.is_started = self.future.set_running_or_notify_cancel()
        return self.is_started

    def fail(self, error: BaseException) -> None:
        if self.start():
            self.future.set_exception(error)


class Source:
    """A source that is called by at most `concurrency` daemon threads, in order of priority.

    The threads do HTTP only and never open a database connection. They start with the first call,
    so that a process that forks shares no socket with its children. A call may take `call_seconds`
    once it has left the queue, which holds at most `capacity` calls. `rate` and `quota` are granted
    by the `Coordinator`; without one the calls of the source are not limited.
    """

    def __init__(
        self,
        name: str,
        *,
        concurrency: int,
        breaker: CircuitBreaker | None = None,
        call_seconds: float = 15.0,
        capacity: int = 1000,
        rate: Rate | None = None,
        quota: Quota | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        self.name = name
        self.breaker = breaker or CircuitBreaker(name)
        self.rate = rate
        self.quota = quota
        self.coordinator: Coordinator | None = None
        self._concurrency = concurrency
        self._call_seconds = call_seconds
        self._capacity = capacity
        self._clock = clock
        self._now = now
        # Guards everything below. No callback of a future runs while it is held.
        self._changed = threading.Condition(threading.Lock())
        # In order of rank.
        self._queue: list[_Call] = []
        self._arrivals = itertools.count()
        self._round = 0
        # A single call was made, and since then no further call of a film.
        self._owes_film = False
        self._threads = 0
        self._running = 0
        self._busy_since = 0.0
        # Negative if more attempts were made than tokens taken.
        self._tokens = 0
        self._next_token_at = float("-inf")
        # By how much the attempts exceed the calls taken from the quota; may be negative.
        self._quota_debt = 0

    def submit(
        self,
        call: Callable[[], T],
        *,
        priority: Priority = Priority.READER,
        turn: int | None = None,
        leave_reserve: bool = False,
        item: str = "",
        combined: Combined | None = None,
    ) -> "Future[T]":
        """Queue a call and return its future; cancelling the future removes it from the queue.

        `turn` numbers the calls that one film makes to this source: within a priority all calls of
        turn 0 go first, then the films take turns. A single call, such as a search, has no turn: it
        is made in order of arrival with those of turn 0, but there is a further call of a film
        between two single calls if one waits. `leave_reserve` keeps the call from the last
        tenth of the quota. Queued calls of turn 0 with an equal `combined` may be made as one call
        for their `item`s. The call sees the context variables of the caller.

        The future raises what the call raises, the error of an open circuit breaker or of a used-up
        quota, `UpstreamRateLimited` if the queue is full and all others in it go first, or the
        database error that kept the limits from being read.
        """
        future: Future[T] = Future()
        run = in_callers_context(self._run)
        dropped: _Call | None = None
        must_wait = False
        with self._changed:
            if not self._queue and not self._running:
                self._busy_since = self._clock()
            error = self.breaker.error() if self.is_synced else None
            if error is None:
                place = turn or 0
                rank = (priority, place > 0, self._round + place, next(self._arrivals))
                queued = _Call(
                    rank, call, run, future, leave_reserve, item, combined, is_single=turn is None
                )
                self._push(queued)
                dropped = self._drop_last_if_full()
                must_wait = not self._is_allowed(queued)
                if not must_wait:
                    self._changed.notify()
        if error is not None:
            future.set_exception(error)
            return future
        if dropped is not None:
            wait = self._capacity / self.rate.per_second if self.rate else self._call_seconds
            dropped.fail(UpstreamRateLimited(self.name, "queue_full", retry_after=wait))
        if self.coordinator is not None:
            self.coordinator.note_call(must_wait=must_wait)
        return future

    def work(self) -> bool:
        """Make the next call in this thread; return False if none may be made now."""
        with self._changed:
            calls = self._take()
        if calls:
            self._make(calls)
        return bool(calls)

    def queue_seconds(self, future: "Future[Any]") -> float:
        """Return how long the rate limit keeps a queued call waiting, as far as is known."""
        if self.rate is None:
            return 0.0
        with self._changed:
            token = next((n for n, call in self._numbered() if call.future is future), 0)
            if token <= self._tokens:
                return 0.0
            now = self._clock()
            # A bucket that was not used for long is full.
            full = now - (self.rate.burst - 1) / self.rate.per_second
            first = max(self._next_token_at, full)
            return max(0.0, first + (token - self._tokens - 1) / self.rate.per_second - now)

    @property
    def queue_length(self) -> int:
        """The number of queued calls."""
        with self._changed:
            self._drop_cancelled()
            return len(self._queue)

    def queued(self, priority: Priority) -> int:
        """Return the number of queued calls with this priority."""
        with self._changed:
            return sum(
                call.rank[0] == priority and not call.future.cancelled() for call in self._queue
            )

    @property
    def threads_busy(self) -> int:
        """The number of threads that make a call."""
        return self._running

    @property
    def is_waiting(self) -> bool:
        """Whether a call is queued, or waits for the circuit breaker."""
        return self.queue_length > 0 or self.breaker.is_waited_for

    @property
    def is_busy(self) -> bool:
        """Whether a call is queued or under way, or something is to be stored."""
        with self._changed:
            is_settled = not self._tokens and not self._quota_debt
            return bool(
                self._running or self._queue or not is_settled or self.breaker.is_unpublished
            )

    # --- For the coordinator

    @property
    def is_synced(self) -> bool:
        """Whether the shared state was read recently, and since calls were queued after a pause."""
        coordinator = self.coordinator
        if coordinator is None:
            return True
        return coordinator.is_synced and coordinator.synced_at >= self._busy_since

    @property
    def is_quota_low(self) -> bool:
        """Whether the source just reported that only the reserve of its quota is left."""
        account = self.breaker.usage.account
        return account is not None and is_in_reserve(*account)

    def recheck(self) -> None:
        """Fail the queued calls if the breaker is open, else make those that may be made."""
        error = self.breaker.error()
        if error is not None:
            self.fail_queued(error)
            return
        with self._changed:
            self._changed.notify()

    def tokens_wanted(self) -> int:
        """Return how many tokens the queued calls need beyond those that are there."""
        with self._changed:
            return max(0, self._tokens_needed() - self._tokens)

    def add_tokens(self, count: int, seconds_to_next: float) -> None:
        """Allow `count` more calls; the next token is due in `seconds_to_next`."""
        with self._changed:
            self._tokens += count
            self._next_token_at = self._clock() + seconds_to_next
            self._changed.notify()

    def calls_without_quota(self, *, leave_reserve: bool) -> list[_Call]:
        """Return the queued calls that need a call of the quota, first call first."""
        with self._changed:
            return [
                call
                for call in self._queue
                if not call.has_quota and call.leave_reserve is leave_reserve
            ]

    def give_quota(self, calls: Collection[_Call]) -> None:
        """Allow calls for which the quota has room."""
        with self._changed:
            for call in calls:
                if call.is_queued:
                    call.has_quota = True
                else:
                    self._quota_debt -= 1
            self._changed.notify()

    def refuse(self, calls: Collection[_Call], error: BaseException) -> None:
        """Fail some of the queued calls."""
        refused = {id(call) for call in calls}
        self._fail(lambda call: id(call) in refused, error)

    def fail_queued(self, error: BaseException) -> None:
        """Fail all queued calls."""
        self._fail(lambda _: True, error)

    def _fail(self, is_failed: Callable[[_Call], bool], error: BaseException) -> None:
        with self._changed:
            failed = self._remove(is_failed)
        for call in failed:
            call.fail(error)

    @property
    def owes_quota(self) -> bool:
        """Whether more attempts were made than calls taken from the quota."""
        return self._quota_debt > 0

    def take_spare_tokens(self) -> int:
        """Return the tokens for which no call is queued; negative if there are too few."""
        with self._changed:
            spare = min(self._tokens, max(0, self._tokens - self._tokens_needed()))
            self._tokens -= spare
            return spare

    def put_back_tokens(self, count: int) -> None:
        """Undo a `take_spare_tokens` whose result could not be stored."""
        with self._changed:
            self._tokens += count

    def take_quota_debt(self) -> int:
        """Return by how much the attempts exceed the calls taken from the quota, and forget it."""
        with self._changed:
            self._drop_cancelled()
            debt, self._quota_debt = self._quota_debt, 0
            return debt

    def put_back_quota_debt(self, count: int) -> None:
        """Undo a `take_quota_debt` whose result could not be stored."""
        with self._changed:
            self._quota_debt += count

    # --- Queue, with the lock held

    def _push(self, call: _Call) -> None:
        insort(self._queue, call, key=lambda each: each.rank)
        call.is_queued = True
        if self._threads < min(self._concurrency, self._running + len(self._queue)):
            name = f"{self.name}-{self._threads + 1}"
            threading.Thread(target=self._work_forever, name=name, daemon=True).start()
            self._threads += 1

    def _remove(self, is_removed: Callable[[_Call], bool]) -> list[_Call]:
        """Remove calls from the queue, give their quota back, and return them."""
        removed = [call for call in self._queue if is_removed(call)]
        if removed:
            for call in removed:
                call.is_queued = False
                self._quota_debt -= call.has_quota
            self._keep_queued()
        return removed

    def _keep_queued(self) -> None:
        self._queue = [call for call in self._queue if call.is_queued]

    def _drop_cancelled(self) -> None:
        self._remove(lambda call: call.future.cancelled())

    def _drop_last_if_full(self) -> _Call | None:
        if len(self._queue) <= self._capacity:
            return None
        self._drop_cancelled()
        if len(self._queue) <= self._capacity:
            return None
        last = self._queue[-1]
        self._remove(lambda call: call is last)
        return last

    def _tokens_needed(self) -> int:
        if not self._queue:
            return 0
        return max((token for token, _ in self._numbered()), default=0)

    def _in_order(self) -> Iterator[_Call]:
        """Yield the queued calls in the order in which they are made if no other ones come."""
        queue = (call for call in self._queue if not call.future.cancelled())
        owes_film = self._owes_film
        for _, calls in itertools.groupby(queue, key=lambda call: call.rank[0]):
            of_priority = list(calls)
            further = [call for call in of_priority if call.rank[1]]
            later = deque[_Call]()
            for call in of_priority[: len(of_priority) - len(further)]:
                if call.is_single and owes_film and further:
                    later.append(call)
                    continue
                owes_film = owes_film or call.is_single
                yield call
            for call in further:
                yield call
                owes_film = bool(later)
                if later:
                    yield later.popleft()
            yield from later

    def _numbered(self) -> Iterator[tuple[int, _Call]]:
        """Yield the queued calls in order, each with the number of the token that it uses."""
        used = 0
        groups: dict[Combined, tuple[int, int]] = {}
        for call in self._in_order():
            token, room = groups.get(call.combined, (0, 0)) if call.combined else (0, 0)
            if not room:
                used += 1
                token, room = used, call.combined.most if call.combined else 1
            if call.combined:
                groups[call.combined] = token, room - 1
            yield token, call

    def _is_allowed(self, call: _Call) -> bool:
        """Whether the circuit breaker and the limits allow a queued call now."""
        if not self.breaker.may_call:
            return False
        if self.coordinator is None:
            return True
        has_token = self.rate is None or self._tokens > 0
        has_quota = self.quota is None or call.has_quota
        return has_token and has_quota and self.is_synced

    def _take(self) -> list[_Call]:
        """Take the next call from the queue, with those that it is combined with."""
        self._drop_cancelled()
        first = next(self._in_order(), None)
        if first is None or not self._is_allowed(first):
            return []
        calls = [first]
        _, is_further, number, _ = first.rank
        if is_further:
            self._round = max(self._round, number)
        if is_further or first.is_single:
            self._owes_film = first.is_single
        if first.combined:
            same = [call for call in self._queue if call.combined == first.combined]
            calls += [call for call in same if call is not first][: first.combined.most - 1]
        for call in calls:
            call.is_queued = False
        self._keep_queued()
        self._tokens -= bool(self.rate and self.coordinator)
        self._running += 1
        following = next(self._in_order(), None)
        if following is not None and self._is_allowed(following):
            # Each thread that takes a call notifies the next one, so that no notification is lost.
            self._changed.notify()
        return calls

    # --- Threads

    def _work_forever(self) -> None:
        while True:
            with self._changed:
                while not (calls := self._take()):
                    self._changed.wait()
            self._make(calls)

    def _make(self, calls: Sequence[_Call]) -> None:
        started = [call for call in calls if call.start()]
        results: dict[str, Any] = {}
        error: BaseException | None = None
        alone: list[_Call] = []
        try:
            results = self._results(started)
            alone = [call for call in started if call.item not in results]
        # The future raises it again where the result is read.
        except BaseException as exc:  # noqa: BLE001
            _drop_locals(exc)
            error = exc
            if isinstance(exc, UpstreamError):
                self._complete(exc)
        self._settle(calls, alone)
        for call in started:
            if error is not None:
                call.future.set_exception(error)
            elif call.item in results:
                call.future.set_result(results[call.item])

    def _results(self, calls: Sequence[_Call]) -> dict[str, Any]:
        if not calls:
            return {}
        first = calls[0]
        if first.combined is None or len(calls) == 1:
            return {first.item: first.run(first.call)}
        items = list(dict.fromkeys(call.item for call in calls))
        results: dict[str, Any] = first.run(partial(first.combined.call, items))
        tally.avoided(Avoided.COMBINED, [self.name] * (len(results) - 1))
        return results

    def _run(self, call: Callable[[], T]) -> T:
        with deadline_of(Deadline(self._call_seconds)):
            return call()

    def _complete(self, error: UpstreamError) -> None:
        """Set in an error when the next call will be made, and note that a quota is used up."""
        if isinstance(error, UpstreamQuotaExhausted) and self.quota and self.quota.limit:
            # The source's own count replaces ours.
            self.breaker.usage.note_account(self.quota.limit, self.quota.limit)
            error.retry_after = self.quota.seconds_left(self._now())
            return
        if isinstance(error, UpstreamQuotaExhausted):
            # No calls are counted here, so only the breaker can prevent further ones.
            self.breaker.record_failure(error)
        open_error = self.breaker.error()
        if open_error is not None:
            # The source may have named another time.
            error.retry_after = open_error.retry_after

    def _settle(self, calls: Sequence[_Call], alone: Sequence[_Call]) -> None:
        """Count the attempts made for `calls`, and queue the calls of `alone` again."""
        attempts = self.breaker.usage.take_attempts()
        tally.made(self.name, attempts)
        # Other calls must not wait for a probe that ended without a result.
        self.breaker.abandon()
        with self._changed:
            self._running -= 1
            if self.coordinator is not None and self.rate is not None:
                self._tokens -= attempts - 1
            if self.coordinator is not None and self.quota is not None:
                self._quota_debt += attempts - sum(
                    call.has_quota for call in calls if call not in alone
                )
            for call in alone:
                call.combined = None
                self._push(call)
        error = self.breaker.error()
        if error is not None:
            self.fail_queued(error)
        must_publish = self.breaker.is_unpublished or self.is_quota_low
        if self.coordinator is not None and (alone or must_publish):
            self.coordinator.wake()


def _drop_locals(exc: BaseException | None) -> None:
    """Release the local variables of failed calls, up to megabytes; the traceback is kept."""
    while exc is not None:
        traceback.clear_frames(exc.__traceback__)
        exc = exc.__cause__ or exc.__context__


def outcome_of(future: "Future[T]", source: str) -> T:
    """Return the result of a call, waiting no longer than the current deadline.

    Raises what the call raised, or `DeadlineExceeded`; a call that is still queued then is
    cancelled.
    """
    try:
        # Not `result`, because the call may raise a TimeoutError of its own.
        future.exception(time_left(threading.TIMEOUT_MAX))
    except FutureTimeout:
        future.cancel()
        raise DeadlineExceeded(source, "deadline") from None
    return future.result()
