"""What is stored for Cinemix: nothing but the count of its calls."""

from django.db import models


class OmdbDay(models.Model):
    """The calls to OMDb in one UTC day with one key."""

    day = models.DateField()
    # Tells one key from another and does not tell the key.
    account = models.CharField(max_length=32)
    calls = models.PositiveIntegerField(default=0)
    # OMDb itself said that no call is left.
    is_used_up = models.BooleanField(default=False)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["day", "account"], name="cinemix_omdbday_day_account")
        ]

    def __str__(self) -> str:
        return f"{self.day}: {self.calls}"
