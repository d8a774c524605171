"""On which day each stored film was last read, noted without a write per request."""

import threading
from collections.abc import Callable
from datetime import datetime

from django.db import transaction
from django.utils import timezone

from films.models import FilmFetch

_BATCH = 500


class FilmReads:
    """Remembers which films this process gave to readers until `store` notes them.

    Of more than `capacity` films between two calls of `store`, the rest is left out; what is in use
    is read again.
    """

    def __init__(
        self, *, capacity: int = 50_000, now: Callable[[], datetime] = timezone.now
    ) -> None:
        self._capacity = capacity
        self._now = now
        self._lock = threading.Lock()
        self._ids: set[str] = set()

    def note(self, imdb_id: str) -> None:
        """Take note of a read; does no I/O."""
        if imdb_id in self._ids or len(self._ids) >= self._capacity:
            return
        with self._lock:
            self._ids.add(imdb_id)

    def store(self) -> int:
        """Note in the database that the films were read today, one write per film and day.

        Returns the number of films for which that was new.
        """
        with self._lock:
            ids, self._ids = sorted(self._ids), set()
        noted = 0
        while ids:
            try:
                noted += self._store(ids[:_BATCH])
            except BaseException:
                with self._lock:
                    self._ids.update(ids)
                raise
            del ids[:_BATCH]
        return noted

    def _store(self, imdb_ids: list[str]) -> int:
        today = self._now().date()
        due = FilmFetch.objects.filter(imdb_id__in=imdb_ids).exclude(read_on=today)
        with transaction.atomic():
            # Locked in one order, so that no two processes wait for each other.
            locked = due.order_by("imdb_id").select_for_update().values_list("imdb_id", flat=True)
            return int(FilmFetch.objects.filter(imdb_id__in=list(locked)).update(read_on=today))
