"""Standard names for the columns of the circuit breaker; the table keeps its column names."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ("core", "0001_initial"),
    ]

    operations = [
        migrations.AlterField(
            model_name="upstreamstate",
            name="closed_until",
            field=models.DateTimeField(blank=True, db_column="closed_until", null=True),
        ),
        migrations.AlterField(
            model_name="upstreamstate",
            name="strikes",
            field=models.PositiveIntegerField(db_column="strikes", default=0),
        ),
        migrations.RenameField("upstreamstate", "closed_until", "open_until"),
        migrations.RenameField("upstreamstate", "strikes", "trips"),
        migrations.AlterField(
            model_name="upstreamstate",
            name="quota_period",
            field=models.CharField(blank=True, max_length=64),
        ),
    ]
