from collections.abc import Iterator

import pytest
from django.core.cache import cache

from core.tests.sandbox import Sandbox, running
from core.utils.logging import correlation_id, film_id


@pytest.fixture(autouse=True)
def _nothing_is_left_over_from_the_test_before() -> None:
    film_id.set("-")
    correlation_id.set("-")
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
