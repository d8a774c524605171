"""The calls to OMDb are counted with those to the other sources (`core.models.UpstreamState`)."""

from django.db import migrations


class Migration(migrations.Migration):

    dependencies = [
        ("cinemix", "0001_initial"),
    ]

    operations = [
        migrations.DeleteModel("OmdbDay"),
    ]
