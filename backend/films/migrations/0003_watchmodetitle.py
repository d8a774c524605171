"""Watchmode's public id map."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ("films", "0002_rendering"),
    ]

    operations = [
        migrations.CreateModel(
            name="WatchmodeTitle",
            fields=[
                (
                    "imdb_id",
                    models.CharField(max_length=20, primary_key=True, serialize=False),
                ),
                ("watchmode_id", models.BigIntegerField()),
            ],
        ),
    ]
