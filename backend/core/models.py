"""What all processes must agree on about the film sources."""

from django.db import models


class UpstreamState(models.Model):
    """One source: whether it may be called, at what pace, and how much of its quota is used.

    `closed_until` is null while it is open. `tokens` are the calls that its pace allowed at
    `tokens_at`. `quota_used` counts the calls of `quota_period` (a day or a month).
    """

    source = models.CharField(max_length=32, primary_key=True)
    closed_until = models.DateTimeField(null=True, blank=True)
    code = models.CharField(max_length=32, blank=True)
    strikes = models.PositiveIntegerField(default=0)
    tokens = models.FloatField(default=0)
    tokens_at = models.DateTimeField(null=True, blank=True)
    quota_period = models.CharField(max_length=10, blank=True)
    quota_used = models.PositiveBigIntegerField(default=0)
    quota_limit = models.PositiveBigIntegerField(null=True, blank=True)

    def __str__(self) -> str:
        return self.source
