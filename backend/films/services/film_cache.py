"""The stored films: the only place that reads and writes their rows; `pruning` deletes them."""

import gzip
import json
import logging
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, ClassVar

from django.db import (
    IntegrityError,
    connection,
    transaction,
)
from django.db.models import F, Q
from django.utils.timezone import now as utc_now

from core import metrics
from core.db import DATABASE_FAULTS, aware, fetch_row
from core.replica import Replica
from core.services.shapes import image_url_of
from core.utils.stored_json import json_or
from films.models import Film, FilmRendering
from films.payload import (
    CLOCK_SKEW,
    SECTION_NAMES,
    STREAMING,
    FilmBody,
    FilmPayload,
    Part,
    SectionState,
    extras_from_text,
    extras_to_text,
    parts_from_text,
    parts_to_text,
    render,
    version_of,
)
from films.validation import is_valid

logger = logging.getLogger(__name__)

_READ_BODY_TIME, _READ_FILM_TIME, _STORE_TIME = (
    metrics.DB_QUERY_DURATION.labels(name) for name in ("film_body", "film_row", "store")
)

_TITLE_LENGTH = 512
# Films that one statement looks at when old offers are removed.
_BATCH = 500
_RENDERED = tuple(f"rendering__{name}" for name in ("rendered_for", "version", "parts", "extras"))
_FIRST_FILM_YEAR = 1870
_YEARS_AHEAD = 10

_FILM = Film._meta.db_table
_RENDERING = FilmRendering._meta.db_table

# Written out, because Django takes longer to build these queries than the database to run them.
_READ_BODY = {
    is_gzipped: f"""
        SELECT film.cached_at, made.{version}, made.{body}, made.version, made.parts
        FROM {_FILM} film JOIN {_RENDERING} made ON made.imdb_id = film.imdb_id
        WHERE film.imdb_id = %s AND film.cached_at > %s AND film.cached_at <= %s
          AND made.rendered_for = film.updated_at
    """  # noqa: S608  (the names in it are those of the models)
    for is_gzipped, version, body in (
        (False, "version", "body"),
        (True, "gzipped_version", "gzipped"),
    )
}
_READ_BODIES = f"""
    SELECT film.imdb_id, film.cached_at, made.version, made.body, made.version, made.parts
    FROM {_FILM} film JOIN {_RENDERING} made ON made.imdb_id = film.imdb_id
    WHERE film.imdb_id IN (%s{{more}}) AND film.cached_at > %s AND film.cached_at <= %s
      AND made.rendered_for = film.updated_at
"""  # noqa: S608  (as above)
_READ_PAYLOAD = f"""
    SELECT film.full_json, film.cached_at, film.updated_at, made.version, made.parts,
           made.extras
    FROM {_FILM} film LEFT JOIN {_RENDERING} made
      ON made.imdb_id = film.imdb_id AND made.rendered_for = film.updated_at
    WHERE film.imdb_id = %s
"""  # noqa: S608  (as above)
_STORE_FILM = f"""
    INSERT INTO {_FILM} (id, imdb_id, title, year, poster_url, full_json, cached_at, created_at,
                         updated_at)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT (imdb_id) DO UPDATE SET title = excluded.title, year = excluded.year,
      poster_url = excluded.poster_url, full_json = excluded.full_json,
      cached_at = excluded.cached_at, updated_at = excluded.updated_at
"""  # noqa: S608  (as above)
_STORE_RENDERING = f"""
    INSERT INTO {_RENDERING} (imdb_id, rendered_for, version, body, gzipped_version, gzipped, parts,
                              extras)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT (imdb_id) DO UPDATE SET rendered_for = excluded.rendered_for,
      version = excluded.version, body = excluded.body,
      gzipped_version = excluded.gzipped_version, gzipped = excluded.gzipped,
      parts = excluded.parts, extras = excluded.extras
"""  # noqa: S608  (as above)


@dataclass(frozen=True, slots=True)
class Hit:
    """The stored bytes of a fresh film in one coding.

    `version` is that of the plain body; `parts` are the places of the sections in it.
    """

    version: str
    body: bytes
    is_gzipped: bool
    cached_at: datetime
    parts: Mapping[str, Part]
    # As that of a `FilmPayload`.
    cache_outcome: ClassVar[str] = "row"

    def retries(
        self, sections: Collection[str] = SECTION_NAMES
    ) -> tuple[tuple[str, float | None], ...]:
        """Return the code of each warning of `sections`, as `FilmPayload.retries` does."""
        return tuple(
            (part.code, part.retry_at)
            for name, part in self.parts.items()
            if part.code and name in sections
        )


class FilmCacheService:
    """Keeps merged payloads in the database, each fresh for `ttl` after its metadata was fetched.

    Offers that were fetched longer ago than `offers_max_age` are not returned (None: no limit).
    A row whose content is no payload of its film is treated as absent, and replaced by the next
    fetch; damaged bytes of a good payload are rendered again.
    With a `replica`, the bytes of fresh films are read from there; all else is in the primary.
    If `sections_outlive_film`, the ages of sections are lost with the rendering.
    """

    def __init__(
        self,
        *,
        ttl: timedelta,
        offers_max_age: timedelta | None = None,
        sections_outlive_film: bool = False,
        replica: Replica | None = None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self.ttl = ttl
        self._offers_max_age = offers_max_age
        self._sections_outlive_film = sections_outlive_film
        self._replica = replica
        self._now = now
        # The same in all threads. To find the connection of a thread takes longer than to use it.
        self._as_param = connection.ops.adapt_datetimefield_value

    def read_body(self, imdb_id: str, *, is_gzipped: bool) -> Hit | None:
        """Return the bytes of a fresh film, None if they are not stored.

        One query, and a second one to the primary if the replica, which may be behind, does not
        have the film. A replica that is too far behind is used only if the primary fails.
        """
        replica = self._replica
        if replica is None:
            return self._read_from_primary(imdb_id, is_gzipped=is_gzipped)
        if replica.is_current:
            hit = self._read_from(replica, imdb_id, is_gzipped=is_gzipped)
            return hit or self._read_from_primary(imdb_id, is_gzipped=is_gzipped)
        try:
            return self._read_from_primary(imdb_id, is_gzipped=is_gzipped)
        except DATABASE_FAULTS:
            replica.trust()
            hit = self._read_from(replica, imdb_id, is_gzipped=is_gzipped)
            if hit is None:
                raise
            return hit

    def _read_from(self, replica: Replica, imdb_id: str, *, is_gzipped: bool) -> Hit | None:
        _, hit = self._fetch_body(replica.fetch_row, imdb_id, is_gzipped=is_gzipped)
        return None if hit is None or self.has_old_offers(hit) else hit

    def _read_from_primary(self, imdb_id: str, *, is_gzipped: bool) -> Hit | None:
        row, hit = self._fetch_body(fetch_row, imdb_id, is_gzipped=is_gzipped)
        if row and hit is None:
            _remove_damaged_rendering(imdb_id)
        # `get_cached` removes old offers.
        return None if hit is None or self.has_old_offers(hit) else hit

    def read_bodies(self, imdb_ids: Sequence[str]) -> dict[str, Hit]:
        """Return the plain bytes of those films that are fresh, with one query to the primary."""
        now = self._now()
        query = _READ_BODIES.format(more=", %s" * (len(imdb_ids) - 1))
        with _READ_BODY_TIME.time(), connection.cursor() as cursor:
            cursor.execute(query, [*imdb_ids, *self._fresh_between(now)])
            rows = cursor.fetchall()
        hits = {}
        for imdb_id, *row in rows:
            hit = _hit(imdb_id, row, now, is_gzipped=False)
            if hit is None:
                _remove_damaged_rendering(imdb_id)
            elif not self.has_old_offers(hit):
                hits[imdb_id] = hit
        return hits

    def _fetch_body(
        self, fetch: Callable[[str, list[Any]], Any], imdb_id: str, *, is_gzipped: bool
    ) -> tuple[Any, Hit | None]:
        """Return the row of a fresh film, and the hit in it unless it is damaged."""
        now = self._now()
        with _READ_BODY_TIME.time():
            row = fetch(_READ_BODY[is_gzipped], [imdb_id, *self._fresh_between(now)])
        return row, row and _hit(imdb_id, row, now, is_gzipped=is_gzipped)

    def _fresh_between(self, now: datetime) -> list[Any]:
        return [self._as_param(now - self.ttl), self._as_param(now + CLOCK_SKEW)]

    def has_old_offers(self, hit: Hit) -> bool:
        """Whether the film has offers that are too old to be returned."""
        offers = hit.parts[STREAMING.name]
        return offers.end - offers.start > len(b"[]") and self._is_too_old(offers)

    def _is_too_old(self, offers: Part) -> bool:
        if self._offers_max_age is None:
            return False
        oldest = (self._now() - self._offers_max_age).timestamp()
        return offers.fetched_at is None or offers.fetched_at <= oldest

    def as_stale(self, hit: Hit) -> FilmPayload:
        """Return the film of these bytes as one that is not known to be the newest."""
        body = gzip.decompress(hit.body) if hit.is_gzipped else hit.body
        payload = FilmPayload(
            json.loads(body), cached_at=hit.cached_at, states=_states(hit.parts), is_fresh=False
        )
        return payload.without_old_offers(self._now(), self._offers_max_age).as_stale(None)

    def get_cached(self, imdb_id: str) -> FilmPayload | None:
        """Return the stored payload, fresh or not; None if no valid one is stored."""
        film = self._stored(imdb_id)
        return film and film.without_old_offers(self._now(), self._offers_max_age)

    def _stored(self, imdb_id: str) -> FilmPayload | None:
        with _READ_FILM_TIME.time():
            row = fetch_row(_READ_PAYLOAD, [imdb_id])
        if row is None or row[0] is None:
            return None
        text, cached_at, updated_at, version, parts_text, extras_text = row
        value = _json_or_none(text)
        if not is_valid(imdb_id, value):
            _log_damaged(imdb_id)
            return None
        cached_at = self._believed(cached_at and aware(cached_at))
        parts = _parts(imdb_id, version, parts_text, self._now())
        extras = {} if parts is None else _extras(imdb_id, version, extras_text)
        payload = FilmPayload(
            value,
            cached_at=cached_at,
            states=self._as_old_as_film(value, cached_at) if parts is None else _states(parts),
            extras=extras,
            # Only the sources have the extras that are damaged.
            is_fresh=self._is_fresh(cached_at) and extras is not None,
        )
        if parts is None and payload.is_fresh:
            self._store_missing_rendering(imdb_id, payload, aware(updated_at))
        return payload

    def _as_old_as_film(
        self, payload: Mapping[str, Any], cached_at: datetime
    ) -> dict[str, SectionState]:
        """Return the states of the sections that were fetched with the film, as far as is known."""
        if self._sections_outlive_film or cached_at > self._now():
            return {}
        failed = {warning["section"] for warning in payload["warnings"]}
        return {
            name: SectionState(fetched_at=cached_at) for name in SECTION_NAMES if name not in failed
        }

    @_READ_FILM_TIME.time()
    def is_fresh(self, imdb_id: str) -> bool:
        """Whether a payload is stored whose time to live is not over."""
        cached_at = (
            Film.objects.filter(imdb_id=imdb_id, full_json__isnull=False)
            .values_list("cached_at", flat=True)
            .first()
        )
        return cached_at is not None and self._is_fresh(cached_at)

    def save_cache(self, imdb_id: str, payload: dict[str, Any]) -> None:
        """Store `payload` as the film's newest.

        A `FilmPayload` keeps its `cached_at`, any other dictionary is as old as this moment. Title,
        year and poster of the row come from the payload's metadata, clipped or null if the column
        cannot hold them; the payload itself is stored as it is.
        """
        now = self._now()
        film = FilmPayload.of(payload, now)
        film.body = body = film.body or render(film)
        metadata = film.get("metadata") or {}
        moment = connection.ops.adapt_datetimefield_value
        updated_at = moment(now)
        store = transaction.atomic(savepoint=False)
        with _STORE_TIME.time(), store, connection.cursor() as cursor:
            # One statement each: 40 writers of a film at once leave one row and no error.
            cursor.execute(
                _STORE_FILM,
                [
                    Film._meta.pk.get_db_prep_value(uuid.uuid4(), connection),
                    imdb_id,
                    str(film.get("title") or "")[:_TITLE_LENGTH],
                    _year(metadata.get("startYear"), now.year),
                    image_url_of(metadata),
                    body.plain.decode(),
                    moment(film.cached_at),
                    updated_at,
                    updated_at,
                ],
            )
            cursor.execute(_STORE_RENDERING, _rendering_row(imdb_id, film, body, now))

    def _store_missing_rendering(
        self, imdb_id: str, payload: FilmPayload, updated_at: datetime
    ) -> None:
        # If another process stored the film meanwhile, `updated_at` shows that this is out of date.
        payload.body = render(payload)
        row = _rendering_row(imdb_id, payload, payload.body, updated_at)
        try:
            with _STORE_TIME.time(), transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(_STORE_RENDERING, row)
        except (*DATABASE_FAULTS, IntegrityError) as exc:
            # The payload is there, and the row may be gone by now.
            logger.warning("write failed", extra={"outcome": "not_stored"}, exc_info=exc)

    def saved_before(
        self, moment: datetime, *, without: Any = (), limit: int | None = None
    ) -> list[str]:
        """Return the ids of up to `limit` films saved before `moment`, oldest first.

        Those with a time in the future come last. Ids in `without`, a collection or a query, are
        left out.
        """
        is_ahead = Q(cached_at__gt=self._now() + CLOCK_SKEW)
        found = (
            Film.objects.filter(Q(cached_at__isnull=True) | Q(cached_at__lt=moment) | is_ahead)
            .exclude(imdb_id__in=without)
            .order_by(F("cached_at").asc(nulls_first=True), "imdb_id")
            .values_list("imdb_id", flat=True)
        )
        return list(found[:limit])

    def remove_old_offers(self) -> int:
        """Remove the offers that are too old from the rows; return the number of changed films.

        `get_cached` does not return them, but the row of a film that is not read keeps them. No
        transaction takes long.
        """
        if self._offers_max_age is None:
            return 0
        in_order = (
            # Offers are not older than the row.
            Film.objects.filter(created_at__lte=self._now() - self._offers_max_age)
            .filter(full_json__isnull=False)
            .order_by("imdb_id")
            .values_list("imdb_id", "updated_at", *_RENDERED)
        )
        total, last = 0, ""
        while rows := list(in_order.filter(imdb_id__gt=last)[:_BATCH]):
            for imdb_id, updated_at, *rendering in rows:
                if self._is_suspect(imdb_id, updated_at, rendering):
                    total += self._remove_old_offers(imdb_id)
            last = rows[-1][0]
        return total

    def _is_suspect(self, imdb_id: str, updated_at: datetime, rendering: Sequence[Any]) -> bool:
        """Whether a row may have offers that are too old; `rendering` has `_RENDERED`."""
        rendered_for, version, parts_text, extras_text = rendering
        parts = _parts(imdb_id, version, parts_text, self._now())
        extras = None if parts is None else _extras(imdb_id, version, extras_text)
        if parts is None or extras is None or rendered_for != updated_at:
            return True
        offers, extra = parts[STREAMING.name], extras.get(STREAMING.name) or {}
        has_any = offers.end - offers.start > len(b"[]") or extra.get("offers")
        return bool(has_any) and self._is_too_old(offers)

    def _remove_old_offers(self, imdb_id: str) -> bool:
        with transaction.atomic():
            row = Film.objects.filter(imdb_id=imdb_id).select_for_update(skip_locked=True)
            # A row that is locked gets other offers anyway.
            film = self._stored(imdb_id) if row.values_list("pk").first() else None
            if film is None:
                return False
            without = film.without_old_offers(self._now(), self._offers_max_age)
            # Also unchanged, so that it has the ages of its sections next time.
            self.save_cache(imdb_id, without)
        return without is not film

    def stored_ids(self) -> Any:
        """Return a query of the ids for which there is a row."""
        return Film.objects.values("imdb_id")

    def fresh_seconds(self, cached_at: datetime) -> float:
        """Return for how many more seconds a payload is fresh, negative if it is expired."""
        return (cached_at + self.ttl - self._now()).total_seconds()

    def _believed(self, cached_at: datetime | None) -> datetime:
        """Return the time, one that is long past if there is none or it is in the future."""
        if cached_at is None or cached_at > self._now() + CLOCK_SKEW:
            return datetime.fromtimestamp(0, tz=timezone.utc)
        return cached_at

    def _is_fresh(self, cached_at: datetime) -> bool:
        now = self._now()
        # Times in the future come from a wrong clock.
        return now - self.ttl < cached_at <= now + CLOCK_SKEW


def _hit(imdb_id: str, row: Any, now: datetime, *, is_gzipped: bool) -> Hit | None:
    """Return what a row of `_READ_BODY` holds, None if it is damaged."""
    cached_at, version_of_coding, stored, version, parts_text = row
    body = bytes(stored)
    parts = _parts(imdb_id, version, parts_text, now)
    if parts is None or version_of(body) != version_of_coding:
        return None
    return Hit(version, body, is_gzipped, aware(cached_at), parts)


def _json_or_none(text: Any) -> Any:
    return json_or(text, None) if isinstance(text, str) else text


def _log_damaged(imdb_id: str) -> None:
    logger.error("damaged row", extra={"outcome": "damaged_row", "film": imdb_id})


def _remove_damaged_rendering(imdb_id: str) -> None:
    _log_damaged(imdb_id)
    # Without it, the film is read from its payload, and its bytes are rendered again.
    FilmRendering.objects.filter(film=imdb_id).delete()


def _rendering_row(
    imdb_id: str, payload: FilmPayload, body: FilmBody, rendered_for: datetime
) -> list[Any]:
    return [
        imdb_id,
        connection.ops.adapt_datetimefield_value(rendered_for),
        body.version,
        body.plain,
        version_of(body.gzipped),
        body.gzipped,
        parts_to_text(imdb_id, body),
        extras_to_text(imdb_id, payload, body.version),
    ]


def _extras(imdb_id: str, version: str, text: str) -> dict[str, Any] | None:
    """Return the extras, None if they are damaged."""
    try:
        return extras_from_text(text, imdb_id=imdb_id, version=version)
    except ValueError:
        _log_damaged(imdb_id)
        return None


def _parts(
    imdb_id: str, version: str | None, text: str | None, now: datetime
) -> Mapping[str, Part] | None:
    """Return the parts, None if they are missing or damaged."""
    try:
        return parts_from_text(text or "", imdb_id=imdb_id, version=version or "", now=now)
    except ValueError:
        return None


def _states(parts: Mapping[str, Part]) -> dict[str, SectionState]:
    def moment(seconds: float | None) -> datetime | None:
        return None if seconds is None else datetime.fromtimestamp(seconds, tz=timezone.utc)

    return {
        name: SectionState(moment(part.fetched_at), part.failures, moment(part.retry_at))
        for name, part in parts.items()
    }


def _year(value: Any, this_year: int) -> int | None:
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if _FIRST_FILM_YEAR <= value <= this_year + _YEARS_AHEAD else None
