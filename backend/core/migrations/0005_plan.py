"""Columns for the regions of a plan, which all processes share."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ("core", "0004_chore"),
    ]

    operations = [
        migrations.AddField(
            model_name="upstreamstate",
            name="plan_read_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="upstreamstate",
            name="plan_regions",
            field=models.TextField(blank=True, db_default=""),
        ),
    ]
