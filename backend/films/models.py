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


class WatchmodeTitle(models.Model):
    """Watchmode's number for a film, kept because each look-up costs a credit.

    `watchmode_id` is null where Watchmode does not know the film.
    """

    imdb_id = models.CharField(max_length=20, primary_key=True)
    watchmode_id = models.BigIntegerField(null=True, blank=True)
    looked_up_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.imdb_id} = {self.watchmode_id}"
