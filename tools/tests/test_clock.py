import os
import subprocess
import sys
import time
from pathlib import Path

from tools.harness.server import PROJECT

CLOCKS = """
import time, threading
from django.conf import settings
from django.utils import timezone
settings.configure(USE_TZ=True)
threading.Event().wait(0.01)
print(time.time(), timezone.now().timestamp(), time.monotonic())
"""


def test_all_clocks_of_a_process_are_ahead_by_the_offset(tmp_path: Path) -> None:
    (tmp_path / "clock").write_text("86400")
    started, started_monotonic = time.time(), time.monotonic()

    done = subprocess.run(
        [sys.executable, "-c", CLOCKS],
        env={
            **os.environ,
            "PYTHONPATH": str(PROJECT / "tools" / "harness" / "clock"),
            "CLOCK_OFFSET": str(tmp_path / "clock"),
        },
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )

    now, django_now, monotonic = map(float, done.stdout.split())
    assert 86400 <= now - started < 86420
    assert 86400 <= django_now - started < 86420
    assert 86400 <= monotonic - started_monotonic < 86420
