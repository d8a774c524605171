from datetime import datetime, timedelta, timezone


class Clock:
    """A monotonic clock that advances only when a test sets `now`."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class WallClock:
    """The time of day, which advances only when a test calls `pass_by`, with a monotonic clock."""

    def __init__(self, time: datetime = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)) -> None:
        self.time = time
        self._seconds = 0.0

    def __call__(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self._seconds

    def pass_by(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)
        self._seconds += seconds
