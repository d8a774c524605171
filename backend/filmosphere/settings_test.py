"""Settings of the tests: the same on every machine, whatever `.env` and the environment say.

Only `DATABASE_URL` and `REDIS_URL` are taken over, to run the tests on those servers.
"""

import os

from filmosphere.settings_table import SETTINGS

for _setting in SETTINGS:
    if _setting.name not in {"DATABASE_URL", "REDIS_URL"}:
        os.environ.pop(_setting.name, None)

os.environ |= {
    "ENV_FILE": os.devnull,
    "DJANGO_SECRET_KEY": "only-for-tests-" + "0123456789" * 5,
    "DJANGO_ALLOWED_HOSTS": "testserver,localhost,127.0.0.1",
    "IMDBAPI_BASE": "https://imdbapi.test",
    "KINO_BASE": "https://kinocheck.test",
    "KINO_API_KEY": "test-kinocheck-key",
    "WATCHMODE_BASE": "https://watchmode.test/v1",
    "WATCHMODE_API_KEY": "test-watchmode-key",
    "OMDB_BASE_URL": "https://omdb.test",
    "OMDB_API_KEY": "test-omdb-key",
    "SEARCH_THROTTLE_RATE": "",
    # Tests change rows without the cache.
    "HOT_SECONDS": "0",
}

from filmosphere.settings import *  # noqa: E402, F403  (after the environment is set up)
