import io
import logging
from collections.abc import Callable, Iterator

import pytest
from django.core.cache import caches
from hypothesis import settings

from core.services.usage import tally
from core.tests.support import LogText, close_clients
from core.utils.logging import ContextFilter, JSONFormatter, correlation_id, film_id
from tools.harness.sandbox import Sandbox, running

# A busy machine makes single examples slow.
settings.register_profile("without deadline", deadline=None)
settings.load_profile("without deadline")


@pytest.fixture(autouse=True)
def _nothing_is_left_over_from_the_test_before() -> None:
    film_id.set("-")
    correlation_id.set("-")
    for cache in caches.all(initialized_only=True):
        cache.clear()


@pytest.fixture(scope="session")
def _sandbox_process() -> Iterator[Sandbox]:
    with running() as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(_sandbox_process: Sandbox) -> Sandbox:
    """The four stand-ins over real sockets, as just started."""
    _sandbox_process.reset()
    return _sandbox_process


@pytest.fixture
def log() -> Iterator[LogText]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JSONFormatter())
    handler.addFilter(ContextFilter())
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield LogText(stream)
    root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture
def avoided() -> Callable[[], dict[tuple[str, str], int]]:
    """Returns the calls that were avoided since the last time, by source and why."""
    tally.take()

    def counts() -> dict[tuple[str, str], int]:
        return {key: calls for key, calls in tally.take().items() if key[1] != "made"}

    return counts


@pytest.fixture(autouse=True)
def _nothing_stays_open() -> Iterator[None]:
    yield
    close_clients()
