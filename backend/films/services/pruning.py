"""Deletes stored films that are no longer wanted, a few at a time, beside readers and fetches."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timezone
from itertools import islice
from typing import Any

from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q, Subquery
from django.db.models.functions import Coalesce, TruncDate
from django.utils.timezone import now as utc_now

from films.models import Film, FilmFetch

# Films in one transaction: some 50 ms.
_BATCH = 200


@dataclass(frozen=True, slots=True)
class Pruned:
    """How many films were deleted, and how many chosen ones were used meanwhile and are kept."""

    deleted: int = 0
    kept: int = 0

    def __add__(self, other: "Pruned") -> "Pruned":
        return Pruned(self.deleted + other.deleted, self.kept + other.kept)


class FilmPruner:
    """Chooses films by their use, age or number, and deletes them with what is known of them."""

    def __init__(self, *, now: Callable[[], datetime] = utc_now) -> None:
        self._now = now

    def unread_since(self, day: date) -> Any:
        """Return a query of the films that were neither read nor first stored from `day` (UTC) on.

        A film of which no read was ever noted counts from when it was stored first.
        """
        start = datetime.combine(day, time(), tzinfo=timezone.utc)
        # No film is read before it is stored. PostgreSQL joins this faster than a comparison with
        # `read_on` of each film.
        read = FilmFetch.objects.filter(imdb_id=OuterRef("imdb_id"), read_on__gte=day)
        return _films().filter(~Exists(read), created_at__lt=start)

    def saved_before(self, moment: datetime) -> Any:
        """Return a query of the films whose payload is from before `moment`."""
        return _films().filter(Q(cached_at__isnull=True) | Q(cached_at__lt=moment))

    def beyond(self, rows: int) -> Any:
        """Return a query of the films but the `rows` that were read last."""
        used_on = Coalesce("read_on", TruncDate("created_at", tzinfo=timezone.utc))
        newest_first = (used_on.desc(), F("cached_at").desc(nulls_last=True), "imdb_id")
        return _films().order_by(*newest_first)[rows:]

    def stored(self) -> int:
        """Return the number of stored films."""
        return int(Film.objects.count())

    def delete(self, chosen: Any) -> Iterator[Pruned]:
        """Delete `chosen` films, and yield the counts of each transaction.

        A film that is being fetched, or was read or stored since it was chosen, is kept. No reader
        waits for it, and a fetch at most for one transaction.
        """
        rows = chosen.values_list("imdb_id", "updated_at", "read_on").iterator(chunk_size=_BATCH)
        while batch := list(islice(rows, _BATCH)):
            deleted = self._delete({imdb_id: (at, read_on) for imdb_id, at, read_on in batch})
            yield Pruned(deleted, len(batch) - deleted)

    def _delete(self, batch: dict[str, tuple[datetime, date | None]]) -> int:
        records = FilmFetch.objects.filter(imdb_id__in=batch)
        with transaction.atomic():
            # The record first, then the film, as a fetch does it that ends.
            free = {
                record.imdb_id: record.read_on
                for record in records.select_for_update(skip_locked=True)
                if record.leased_until is None or record.leased_until <= self._now()
            }
            recorded = set(records.values_list("imdb_id", flat=True))
            free |= dict.fromkeys(batch.keys() - recorded)
            films = Film.objects.filter(imdb_id__in=free).select_for_update()
            unused = [
                imdb_id
                for imdb_id, updated_at in films.values_list("imdb_id", "updated_at")
                if batch[imdb_id] == (updated_at, free[imdb_id])
            ]
            # Without the payloads, which Django would read otherwise.
            Film.objects.filter(imdb_id__in=unused).only("imdb_id").delete()
            FilmFetch.objects.filter(imdb_id__in=unused).delete()
        return len(unused)


def _films() -> Any:
    record: Any = FilmFetch.objects.filter(imdb_id=OuterRef("imdb_id"))
    return Film.objects.annotate(read_on=Subquery(record.values("read_on")))
