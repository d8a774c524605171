"""State that all processes share: the film sources, and who cleans the tables."""

from django.db import models


class UpstreamState(models.Model):
    """One source: its circuit breaker, its token bucket, and how much of its quota is used.

    `open_until` is null while the breaker is closed; `code` and `trips` say why it is open, and how
    often in a row. `tokens` are the calls that the rate limit allowed at `tokens_at`. `quota_used`
    counts the calls of `quota_period`. `plan_regions`, comma-separated, are those that the plan
    included at `plan_read_at`.
    """

    source = models.CharField(max_length=32, primary_key=True)
    open_until = models.DateTimeField(null=True, blank=True, db_column="closed_until")
    code = models.CharField(max_length=32, blank=True)
    trips = models.PositiveIntegerField(default=0, db_column="strikes")
    tokens = models.FloatField(default=0)
    tokens_at = models.DateTimeField(null=True, blank=True)
    quota_period = models.CharField(max_length=64, blank=True)
    quota_used = models.PositiveBigIntegerField(default=0)
    quota_limit = models.PositiveBigIntegerField(null=True, blank=True)
    # With a default of the database, for processes of the version before.
    plan_regions = models.TextField(blank=True, db_default="")
    plan_read_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return self.source


class Chore(models.Model):
    """Work that one of all processes does from time to time, next at `due_at`."""

    name = models.CharField(max_length=32, primary_key=True)
    due_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.name} {self.due_at}"


class UpstreamUsage(models.Model):
    """The calls to a source on one day (UTC) that were made, or avoided for the reason `kind`."""

    source = models.CharField(max_length=32)
    day = models.DateField()
    kind = models.CharField(max_length=32)
    calls = models.PositiveBigIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["day", "source", "kind"], name="core_usage_of_day")
        ]

    def __str__(self) -> str:
        return f"{self.day} {self.source} {self.kind}: {self.calls}"
