"""Read a film five times through hishel, an HTTP cache, and print its title each time.

Usage: caches.py URL
"""

import sqlite3
import sys

from hishel import SqliteStorage
from hishel.httpx import CacheClient

memory = sqlite3.connect(":memory:", check_same_thread=False)
with CacheClient(rfc=True, storage=SqliteStorage(connection=memory)) as client:
    for _ in range(5):
        sys.stdout.write(f"{client.get(sys.argv[1]).json()['title']}\n")
