from collections.abc import Iterator

import pytest

from sandbox.tests.client import Client, port_of, running


@pytest.fixture(scope="session")
def started() -> Iterator[Client]:
    with running("--port", "0", "--exit-with-parent") as process:
        yield Client(port_of(process))


@pytest.fixture
def sandbox(started: Client) -> Client:
    """The sandbox process of the session, reset to its initial state."""
    assert started.request("POST", "/control/reset").status == 200
    return started
