"""Hand-written stand-ins for what the film services are given."""

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

from core.budgets import UpstreamBudgets
from core.errors import UpstreamError
from core.services.bulkhead import Bulkhead
from core.services.gate import Gate
from core.services.upstream_status import UpstreamStatus
from films.services.film_answer import FilmAnswer, FilmCopy, Origin
from films.services.rendering import render

INCEPTION = "tt1375666"


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.time = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)

    def __call__(self) -> datetime:
        return self.time

    def pass_by(self, **span: float) -> None:
        self.time += timedelta(**span)


class FakeSource:
    """Answers each method with what `answers` has for it; an error is raised. Counts the calls."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[str] = []

    def answer(self, method: str, default: Any) -> Any:
        self.asked.append(method)
        answer = self.answers.get(method, default)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def get_status(self, *, before: Callable[[], object] = lambda: None) -> UpstreamStatus:
        raise NotImplementedError

    def fail(self, error: UpstreamError, *methods: str) -> None:
        self.answers |= dict.fromkeys(methods, error)


class FakeIMDb(FakeSource):
    source = "imdbapi"

    def search(self, query: str) -> list[dict[str, Any]]:
        return self.answer("search", [])

    def get_metadata(self, imdb_id: str) -> dict[str, Any]:
        title = {
            "id": imdb_id,
            "primaryTitle": "Inception",
            "startYear": 2010,
            "primaryImage": {"url": "https://images.test/inception.jpg"},
        }
        return self.answer("get_metadata", title)

    def get_credits(self, imdb_id: str) -> dict[str, Any]:
        return self.answer("get_credits", {"credits": [{"category": "actor"}], "totalCount": 1})

    def get_images(self, imdb_id: str) -> dict[str, Any]:
        return self.answer("get_images", {"images": [{"url": "https://images.test/1.jpg"}]})

    def get_videos(self, imdb_id: str) -> dict[str, Any]:
        return self.answer("get_videos", {"videos": [{"id": "vi1"}]})

    def get_parents_guide(self, imdb_id: str) -> dict[str, Any]:
        return self.answer("get_parents_guide", {"parentsGuide": [{"category": "VIOLENCE"}]})

    def get_certificates(self, imdb_id: str) -> dict[str, Any]:
        return self.answer("get_certificates", {"certificates": [{"rating": "PG-13"}]})

    def get_release_dates(self, imdb_id: str) -> dict[str, Any]:
        return self.answer("get_release_dates", {"releaseDates": [{"country": {"code": "TR"}}]})


class FakeKinoCheck(FakeSource):
    source = "kinocheck"

    def get_trailer(self, imdb_id: str) -> dict[str, Any] | None:
        return self.answer("get_trailer", {"youtube_video_id": "YoHD9XEInc0"})


class FakeWatchmode(FakeSource):
    source = "watchmode"

    def lookup_title_id(self, imdb_id: str) -> int | None:
        return self.answer("lookup_title_id", 1182444)

    def get_streaming_sources(self, watchmode_id: int) -> list[dict[str, Any]]:
        return self.answer("get_streaming_sources", [{"name": "Netflix", "region": "TR"}])


class FakeAggregator:
    """Gives one payload, or raises one error, for every film."""

    def __init__(self, outcome: dict[str, Any] | Exception) -> None:
        self._outcome = outcome
        self.asked: list[str] = []
        self.origin = Origin.HIT

    def fetch_and_cache(self, imdb_id: str) -> dict[str, Any]:
        return self.answer(imdb_id).payload

    def hit(self, imdb_id: str, *, gzipped: bool = False) -> FilmAnswer | None:
        return self.answer(imdb_id, gzipped=gzipped)

    def answer(
        self,
        imdb_id: str,
        *,
        gzipped: bool = False,
        before_fetch: Callable[[], None] = lambda: None,
    ) -> FilmAnswer:
        before_fetch()
        self.asked.append(imdb_id)
        if isinstance(self._outcome, Exception):
            raise self._outcome
        now = Clock().time
        copy = FilmCopy(render(self._outcome), now - timedelta(hours=1), self.origin)
        return copy.answer(gzipped=gzipped, now=now, ttl=timedelta(hours=24))


class FakeSearch:
    """Finds the same titles for every query, or raises."""

    def __init__(self, outcome: list[dict[str, Any]] | Exception) -> None:
        self._outcome = outcome
        self.asked: list[str] = []

    def search(self, query: str) -> list[dict[str, Any]]:
        self.asked.append(query)
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome


class FakeUpkeep:
    """Remembers which films it was told of."""

    def __init__(self) -> None:
        self.considered: list[str] = []
        self.completed: list[str] = []

    def consider(self, imdb_id: str, *, age: float, needs_repair: bool) -> None:
        self.considered.append(imdb_id)

    def complete(self, imdb_id: str) -> None:
        self.completed.append(imdb_id)

    def tend(self, imdb_id: str, *, is_due: bool) -> bool:
        raise NotImplementedError


def budgets(clock: Clock, **options: Any) -> UpstreamBudgets:
    gates = {
        name: Gate(name, shared=True, now=clock) for name in ("imdbapi", "kinocheck", "watchmode")
    }
    return UpstreamBudgets(
        **{"gates": gates, "paces": {}, "quotas": {}, "probe_seconds": 5, "now": clock} | options
    )


def bulkheads() -> dict[str, Bulkhead]:
    return {name: Bulkhead(name, concurrency=4) for name in ("imdbapi", "kinocheck", "watchmode")}
