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


class FilmRendering(models.Model):
    """The payload of a film as bytes, plain and compressed, so that a hit renders nothing.

    It belongs to the film's row as of `rendered_for`, the row's `updated_at`; otherwise it is out
    of date. `version` is the hash of `body`, `gzipped_version` that of `gzipped`; `parts` says
    where each section is in the body and in which state (`films.payload.parts_to_text`).
    """

    film = models.OneToOneField(
        Film,
        on_delete=models.CASCADE,
        primary_key=True,
        to_field="imdb_id",
        db_column="imdb_id",
        related_name="rendering",
    )
    rendered_for = models.DateTimeField()
    version = models.CharField(max_length=32)
    body = models.BinaryField()
    gzipped_version = models.CharField(max_length=32)
    gzipped = models.BinaryField()
    parts = models.TextField()
    # `films.payload.extras_to_text`.
    extras = models.TextField(default="{}")

    def __str__(self) -> str:
        return f"{self.film_id} {self.version}"


class FilmFetch(models.Model):
    """What is known about fetching a film, besides what was fetched.

    `token` and `leased_until` name the process that fetches it now, so that only one does. After a
    fetch without metadata, `failure` is the code of the error and no other fetch is due before
    `retry_at`. `missing_since` is when IMDb first reported that there is no such title, and that is
    believed until `missing_until`. `watchmode_id` was looked up at `watchmode_at`; it is null if
    Watchmode does not know the film. `seen_at` is when the id was last in a search result, and
    `read_on` the last day (UTC) on which the stored film was read.
    """

    imdb_id = models.CharField(max_length=20, primary_key=True)
    token = models.CharField(max_length=32, blank=True)
    leased_until = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    failure = models.CharField(max_length=32, blank=True)
    retry_at = models.DateTimeField(null=True, blank=True)
    missing_since = models.DateTimeField(null=True, blank=True)
    missing_until = models.DateTimeField(null=True, blank=True)
    watchmode_id = models.BigIntegerField(null=True, blank=True)
    watchmode_at = models.DateTimeField(null=True, blank=True)
    seen_at = models.DateTimeField(null=True, blank=True)
    read_on = models.DateField(null=True, blank=True)
    # Not a column. The queries that also read the id map set it.
    mapped_id: int | None = None

    def __str__(self) -> str:
        return self.imdb_id


class WatchmodeTitle(models.Model):
    """A title of Watchmode's public id map, as `import_watchmode_ids` loads it."""

    imdb_id = models.CharField(max_length=20, primary_key=True)
    watchmode_id = models.BigIntegerField()

    def __str__(self) -> str:
        return f"{self.imdb_id} {self.watchmode_id}"
