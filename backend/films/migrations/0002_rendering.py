"""The bytes of a film with the place and state of each section; the old ones are rendered again."""

import django.db.models.deletion
from django.db import migrations, models


def store_compressed_bytes_as_they_are(apps, schema_editor):
    """PostgreSQL would try to compress what is compressed, and unpack it on each read."""
    if schema_editor.connection.vendor == "postgresql":
        for column in ("body", "gzipped"):
            schema_editor.execute(
                f"ALTER TABLE films_filmrendering ALTER COLUMN {column} SET STORAGE EXTERNAL"
            )


class Migration(migrations.Migration):

    dependencies = [
        ("films", "0001_initial"),
    ]

    operations = [
        migrations.DeleteModel("FilmBody"),
        migrations.CreateModel(
            name="FilmRendering",
            fields=[
                (
                    "film",
                    models.OneToOneField(
                        db_column="imdb_id",
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="rendering",
                        serialize=False,
                        to="films.film",
                        to_field="imdb_id",
                    ),
                ),
                ("rendered_for", models.DateTimeField()),
                ("version", models.CharField(max_length=32)),
                ("body", models.BinaryField()),
                ("gzipped_version", models.CharField(max_length=32)),
                ("gzipped", models.BinaryField()),
                ("parts", models.TextField()),
            ],
        ),
        migrations.AddField(
            model_name="filmfetch",
            name="seen_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.RunPython(
            store_compressed_bytes_as_they_are, migrations.RunPython.noop, elidable=False
        ),
    ]
