"""What is stored about films."""

import uuid

from django.db import models


class Film(models.Model):
    """A film and the payload that clients get for it, merged from all sources."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    imdb_id = models.CharField(max_length=20, unique=True, db_index=True)
    title = models.CharField(max_length=512, db_index=True)
    year = models.IntegerField(null=True, blank=True)
    poster_url = models.URLField(max_length=2000, null=True, blank=True)  # noqa: DJ001  (no poster)
    full_json = models.JSONField(null=True, blank=True)
    cached_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        indexes = [models.Index(fields=["imdb_id"]), models.Index(fields=["title"])]

    def __str__(self) -> str:
        return f"{self.imdb_id} {self.title}"


class FilmBody(models.Model):
    """The payload of a film as clients get it, plain and compressed, so that a hit renders nothing.

    It is that of the film's row as of `rendered_for`, the row's `updated_at`; else it is out of
    date.
    """

    film = models.OneToOneField(
        Film,
        on_delete=models.CASCADE,
        primary_key=True,
        to_field="imdb_id",
        db_column="imdb_id",
        related_name="rendered",
    )
    rendered_for = models.DateTimeField()
    version = models.CharField(max_length=32)
    body = models.BinaryField()
    gzipped = models.BinaryField()
    has_warnings = models.BooleanField()
    needs_repair = models.BooleanField()

    def __str__(self) -> str:
        return f"{self.film_id} {self.version}"


class FilmFetch(models.Model):
    """What is known about fetching a film, beside what was fetched.

    `token` and `leased_until` say who fetches it now, so that only one process does. After a fetch
    that failed, `failure` is its warning code, and no other fetch is due before `retry_at`.
    `missing_since` is when IMDb first said that there is no such title, and `missing_until` how
    long that is believed. `watchmode_id` was looked up at `watchmode_at`, null where Watchmode does
    not know the film.
    """

    imdb_id = models.CharField(max_length=20, primary_key=True)
    token = models.CharField(max_length=32, blank=True)
    leased_until = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    failure = models.CharField(max_length=32, blank=True)
    retry_at = models.DateTimeField(null=True, blank=True)
    missing_since = models.DateTimeField(null=True, blank=True)
    missing_until = models.DateTimeField(null=True, blank=True, db_index=True)
    watchmode_id = models.BigIntegerField(null=True, blank=True)
    watchmode_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return self.imdb_id
