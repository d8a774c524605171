"""When films were last read, and a layout of the tables on PostgreSQL that suits many films."""

from datetime import date, datetime, timezone

from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

_TABLES = ("films_film", "films_filmrendering", "films_filmfetch", "films_watchmodetitle")


def today() -> date:
    return datetime.now(timezone.utc).date()


def suit_many_films(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    if schema_editor.connection.vendor != "postgresql":
        return
    with schema_editor.connection.cursor() as cursor:
        # Django adds them to text columns with an index, for LIKE, which no query here uses. Each
        # new version of a row would have to be entered in them.
        cursor.execute(
            "SELECT indexname FROM pg_indexes WHERE schemaname = current_schema()"
            " AND tablename = ANY(%s) AND indexdef LIKE '%%varchar_pattern_ops%%'",
            [list(_TABLES)],
        )
        names = [schema_editor.quote_name(name) for (name,) in cursor.fetchall()]
    for name in names:
        schema_editor.execute(f"DROP INDEX {name}")
    # Room for the next version of a row on its page: no index has to be changed if no indexed
    # column was. The columns of `films_film` that are indexed change with each fetch.
    for table, fillfactor in (("films_filmrendering", 80), ("films_filmfetch", 70)):
        schema_editor.execute(f"ALTER TABLE {table} SET (fillfactor = {fillfactor})")
    # By default, cleaning starts when a fifth of the rows are outdated: of a million films that is
    # 10 GB of dead payloads.
    for table in ("films_film", "films_filmrendering", "films_filmfetch"):
        schema_editor.execute(f"ALTER TABLE {table} SET (autovacuum_vacuum_scale_factor = 0.02)")
    for table in ("films_film", "films_filmrendering"):
        schema_editor.execute(
            f"ALTER TABLE {table} SET (toast.autovacuum_vacuum_scale_factor = 0.02)"
        )


class Migration(migrations.Migration):

    dependencies = [
        ("films", "0005_film_by_age"),
    ]

    operations = [
        # Films that are stored already count as read today: their reads were not noted.
        migrations.AddField(
            model_name="filmfetch",
            name="read_on",
            field=models.DateField(blank=True, default=today, null=True),
            preserve_default=False,
        ),
        migrations.AlterField(
            model_name="filmfetch",
            name="missing_until",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.RunPython(suit_many_films, migrations.RunPython.noop),
    ]
