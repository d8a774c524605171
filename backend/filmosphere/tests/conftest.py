"""What most tests of running servers need."""

from collections.abc import Iterator

import pytest

from tools.harness.sandbox import Sandbox
from tools.harness.server import database, on_sandbox


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a migrated database for the tests of a module."""
    with database(tmp_path_factory.mktemp("database")) as url:
        yield url


@pytest.fixture
def options(url: str, sandbox: Sandbox) -> dict[str, str]:
    """Settings of a server that works."""
    return on_sandbox(sandbox.url, DATABASE_URL=url)
