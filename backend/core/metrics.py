"""What is counted for Prometheus. No label ever holds text from a caller or a source."""

from prometheus_client import Counter

REQUESTS = Counter("filmosphere_requests", "Requests answered.", ["route", "status"])
UPSTREAM_CALLS = Counter(
    "filmosphere_upstream_calls", "Attempts to call a film source.", ["source", "outcome"]
)
MOVIE_CACHE = Counter(
    "filmosphere_movie_cache", "Look-ups in the movie cache of Cinemix.", ["outcome"]
)
for _outcome in ("hit", "miss"):
    # There from the start, so that a rate can be told from the first one on.
    MOVIE_CACHE.labels(_outcome)
