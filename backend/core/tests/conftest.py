from collections.abc import Iterator

import pytest
import respx

from core.tests.clock import WallClock


@pytest.fixture
def clock() -> WallClock:
    return WallClock()


@pytest.fixture
def upstream() -> Iterator[respx.MockRouter]:
    """The network of httpx: each URL that a test did not define is an error."""
    with respx.mock(assert_all_called=False) as router:
        yield router
