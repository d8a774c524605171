"""What the sources sent beyond the twelve keys."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ("films", "0003_watchmodetitle"),
    ]

    operations = [
        migrations.AddField(
            model_name="filmrendering",
            name="extras",
            field=models.TextField(default="{}"),
        ),
    ]
