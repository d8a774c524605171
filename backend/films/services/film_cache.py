"""The stored films: the only place that touches their rows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import URLValidator
from django.db import InterfaceError, OperationalError, connection, transaction
from django.db.models import F, Q
from django.utils.timezone import now as utc_now

from films.models import Film, FilmBody
from films.services.film_answer import FilmAnswer, FilmCopy, Origin
from films.services.rendering import Rendering, render

_TITLE_LENGTH = 512
_URL_LENGTH = 2000
_FIRST_FILM_YEAR = 1870
_YEARS_AHEAD = 10

# The one query of a hit, by whether gzip is wanted. To build it from the models each time would
# take longer than to run it.
_HIT = {
    gzipped: f"""
        SELECT film.cached_at, film.updated_at = made.rendered_for, made.version, made.{coding},
               made.has_warnings, made.needs_repair
        FROM {Film._meta.db_table} film
        LEFT JOIN {FilmBody._meta.db_table} made ON made.imdb_id = film.imdb_id
        WHERE film.imdb_id = %s AND film.cached_at > %s AND film.full_json IS NOT NULL
    """  # noqa: S608  (all names in it are the models')
    for gzipped, coding in ((False, "body"), (True, "gzipped"))
}

_valid_url = URLValidator(schemes=["http", "https"])


@dataclass(frozen=True, slots=True)
class StoredFilm:
    """A stored payload, when it was saved, and whether that is within its time to live.

    `age` is the part of the time to live that is over: 0.0 when just saved, from 1.0 on expired.
    """

    payload: dict[str, Any]
    cached_at: datetime
    age: float

    @property
    def is_fresh(self) -> bool:
        """Whether it may be shown without asking the sources again."""
        return self.age < 1.0


@dataclass(frozen=True, slots=True)
class Hit:
    """The answer for a film that is fresh, and what upkeep must know; `age` as in `StoredFilm`."""

    answer: FilmAnswer
    age: float
    needs_repair: bool


class FilmCacheService:
    """Keeps merged payloads in the database, each fresh for `ttl` after it was saved."""

    def __init__(self, *, ttl: timedelta, now: Callable[[], datetime] = utc_now) -> None:
        self.ttl = ttl
        self._now = now

    def hit(self, imdb_id: str, *, gzipped: bool = False) -> Hit | None:
        """Return the film's bytes where it is stored and fresh, in one query; else None."""
        was_connected = connection.connection is not None
        try:
            return self._read_hit(imdb_id, gzipped=gzipped)
        except (OperationalError, InterfaceError):
            if not was_connected or connection.is_usable():
                raise
            # The server may have been restarted since this thread last spoke to it.
            self.release_connection()
            return self._read_hit(imdb_id, gzipped=gzipped)

    def _read_hit(self, imdb_id: str, *, gzipped: bool) -> Hit | None:
        # This query shows by itself whether the connection is sound: no need for one that asks.
        connection.health_check_done = True  # type: ignore[attr-defined]  # set in its __init__
        oldest = connection.ops.adapt_datetimefield_value(self._now() - self.ttl)
        with connection.cursor() as cursor:
            cursor.execute(_HIT[gzipped], [imdb_id, oldest])
            row = cursor.fetchone()
        if row is None:
            return None
        cached_at, is_current, version, body, has_warnings, needs_repair = row
        if not is_current:
            return self._rendered_hit(imdb_id, gzipped=gzipped)
        if cached_at.tzinfo is None:
            # SQLite keeps no time zone; Django writes UTC there.
            cached_at = cached_at.replace(tzinfo=timezone.utc)
        age = self._now() - cached_at
        answer = FilmAnswer(
            version=version,
            body=bytes(body),
            is_gzipped=gzipped,
            has_warnings=bool(has_warnings),
            origin=Origin.HIT,
            age=max(0, int(age.total_seconds())),
            fresh_for=int((self.ttl - age).total_seconds()),
        )
        return Hit(answer, age / self.ttl, bool(needs_repair))

    def _rendered_hit(self, imdb_id: str, *, gzipped: bool) -> Hit | None:
        """Do as `hit` for a row that somebody wrote without its bytes."""
        stored = self.load(imdb_id)
        if stored is None:
            return None
        copy = FilmCopy(render(stored.payload), stored.cached_at, Origin.HIT)
        answer = copy.answer(gzipped=gzipped, now=self._now(), ttl=self.ttl)
        return Hit(answer, stored.age, copy.rendering.needs_repair)

    def fresh_copy(self, imdb_id: str) -> FilmCopy | None:
        """Return the very bytes that are stored, in both codings; None unless they are fresh."""
        plain, packed = self.hit(imdb_id), self.hit(imdb_id, gzipped=True)
        if plain is None or packed is None or plain.answer.version != packed.answer.version:
            return None
        rendering = Rendering(
            version=plain.answer.version,
            body=plain.answer.body,
            gzipped=packed.answer.body,
            has_warnings=plain.answer.has_warnings,
            needs_repair=plain.needs_repair,
        )
        return FilmCopy(rendering, self._now() - timedelta(seconds=plain.answer.age), Origin.HIT)

    def load(self, imdb_id: str) -> StoredFilm | None:
        """Return the stored film, fresh or not; None where nothing is stored."""
        row = Film.objects.filter(imdb_id=imdb_id).values_list("full_json", "cached_at").first()
        if row is None or not isinstance(row[0], dict):
            return None
        # A row that was never cached is as old as can be.
        cached_at = row[1] or datetime.fromtimestamp(0, tz=timezone.utc)
        return StoredFilm(payload=row[0], cached_at=cached_at, age=self._age(cached_at))

    def get_cached(self, imdb_id: str) -> dict[str, Any] | None:
        """Return the stored payload, fresh or not; None where nothing is stored."""
        stored = self.load(imdb_id)
        return stored.payload if stored else None

    def is_fresh(self, imdb_id: str) -> bool:
        """Whether a payload is stored that was saved less than the time to live ago."""
        cached_at = (
            Film.objects.filter(imdb_id=imdb_id, full_json__isnull=False)
            .values_list("cached_at", flat=True)
            .first()
        )
        return cached_at is not None and self._age(cached_at) < 1.0

    def save_cache(self, imdb_id: str, payload: dict[str, Any]) -> None:
        """Store `payload` as the film's newest, from now on fresh for the time to live.

        Title, year and poster of the row come from the payload's metadata, clipped or null where
        the column cannot hold them; the payload itself is stored as it is.
        """
        self.store(imdb_id, payload, cached_at=self._now())

    def store(
        self,
        imdb_id: str,
        payload: dict[str, Any],
        *,
        cached_at: datetime,
        rendering: Rendering | None = None,
    ) -> None:
        """Store `payload` as `save_cache` does, with the age, and the bytes, that it has."""
        made = rendering or render(payload)
        metadata = payload.get("metadata") or {}
        film = Film(
            imdb_id=imdb_id,
            title=str(payload.get("title") or "")[:_TITLE_LENGTH],
            year=_year(metadata.get("startYear"), self._now().year),
            poster_url=_poster_url(metadata),
            full_json=payload,
            cached_at=cached_at,
        )
        with transaction.atomic(savepoint=False):
            # One statement each: 40 writers of a film at once leave one row and no error.
            Film.objects.bulk_create(
                [film],
                update_conflicts=True,
                unique_fields=["imdb_id"],
                update_fields=[
                    *("title", "year", "poster_url", "full_json", "cached_at", "updated_at")
                ],
            )
            FilmBody.objects.bulk_create(
                [_body(film, made)],
                update_conflicts=True,
                unique_fields=["film"],
                update_fields=[
                    *("rendered_for", "version", "body", "gzipped", "has_warnings", "needs_repair")
                ],
            )

    def saved_before(self, moment: datetime, *, without: Any = ()) -> list[str]:
        """Return the ids of the films saved before `moment`, oldest first.

        Ids in `without`, a collection or a query, are left out.
        """
        return list(
            Film.objects.filter(Q(cached_at__isnull=True) | Q(cached_at__lt=moment))
            .exclude(imdb_id__in=without)
            .order_by(F("cached_at").asc(nulls_first=True), "imdb_id")
            .values_list("imdb_id", flat=True)
        )

    def stored_ids(self) -> Any:
        """Return a query of the ids for which there is a row."""
        return Film.objects.values("imdb_id")

    def release_connection(self) -> None:
        """Give the thread's database connection back before a wait for the network."""
        if not connection.in_atomic_block:
            connection.close()

    def _age(self, cached_at: datetime) -> float:
        return (self._now() - cached_at) / self.ttl


def _body(film: Film, made: Rendering) -> FilmBody:
    return FilmBody(
        film_id=film.imdb_id,
        rendered_for=film.updated_at,
        version=made.version,
        body=made.body,
        gzipped=made.gzipped,
        has_warnings=made.has_warnings,
        needs_repair=made.needs_repair,
    )


def _year(value: Any, this_year: int) -> int | None:
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if _FIRST_FILM_YEAR <= value <= this_year + _YEARS_AHEAD else None


def _poster_url(metadata: Mapping[str, Any]) -> str | None:
    image = metadata.get("primaryImage")
    url = image.get("url") if isinstance(image, dict) else None
    if not isinstance(url, str) or len(url) > _URL_LENGTH:
        return None
    try:
        _valid_url(url)
    except ValidationError:
        return None
    return url
