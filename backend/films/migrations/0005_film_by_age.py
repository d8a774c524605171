"""An index of films by age, in the order in which `refresh_films` takes them.

It is not in the model, whose fields and indexes are specified.
"""

from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps


def create(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    # SQLite puts nulls first, and has no word for it in an index.
    nulls = " NULLS FIRST" if schema_editor.connection.vendor == "postgresql" else ""
    schema_editor.execute(
        f"CREATE INDEX films_film_by_age ON films_film (cached_at{nulls}, imdb_id)"
    )


def drop(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    schema_editor.execute("DROP INDEX films_film_by_age")


class Migration(migrations.Migration):

    dependencies = [
        ("films", "0004_filmrendering_extras"),
    ]

    operations = [migrations.RunPython(create, drop)]
