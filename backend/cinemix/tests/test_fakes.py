import inspect

import pytest

from cinemix.movies import MovieService
from cinemix.rate_limiter import RateLimiter
from cinemix.tests import fakes
from core.services.omdb_service import OmdbService


def methods(cls):
    return {
        name: list(inspect.signature(function).parameters)
        for name, function in inspect.getmembers(cls, inspect.isfunction)
        if not name.startswith("_")
    }


@pytest.mark.parametrize(
    ("fake", "real"),
    [
        (fakes.FakeOmdb, OmdbService),
        (fakes.FakeMovies, MovieService),
        (fakes.FakeLimiter, RateLimiter),
    ],
)
def test_a_fake_has_the_signatures_of_the_real_class(fake, real):
    assert methods(fake).items() <= methods(real).items()
