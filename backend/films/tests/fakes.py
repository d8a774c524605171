"""Hand-written doubles of the collaborators of the film services, and a clock."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

from django.utils import timezone as django_timezone

from core.services.kinocheck_service import TitleVideos
from core.services.upstream_status import UpstreamStatus
from films.payload import SECTION_NAMES, FilmPayload, SectionState
from films.services.film_aggregator import current_reader
from films.services.film_search import SearchFilter
from films.services.refresh import Fetch

INCEPTION = "tt1375666"
EVERYTHING = SearchFilter()


class Clock:
    """A clock that moves only when a test moves it."""

    def __init__(self) -> None:
        self.time = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)

    def __call__(self) -> datetime:
        return self.time

    def advance(self, **span: float) -> None:
        self.time += timedelta(**span)


class _Silence:
    def __init__(self) -> None:
        self.begun, self.ended = threading.Event(), threading.Event()


class FakeSource:
    """Answers each method with its entry in `answers`, or the default; an error is raised."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.calls: list[tuple[str, Any]] = []
        self._silent: dict[str, _Silence] = {}

    @property
    def called(self) -> list[str]:
        """The methods that were called, in order."""
        return [method for method, _ in self.calls]

    def fail(self, error: BaseException, *methods: str) -> None:
        self.answers |= dict.fromkeys(methods, error)

    @contextmanager
    def silent(self, method: str) -> Iterator[threading.Event]:
        """Within the block, calls of the method begin, which sets the event, and do not end."""
        silence = self._silent[method] = _Silence()
        try:
            yield silence.begun
        finally:
            del self._silent[method]
            silence.ended.set()

    def get_status(self, *, before: Callable[[], object] = lambda: None) -> UpstreamStatus:
        raise NotImplementedError

    def _answer(self, method: str, argument: Any, default: Any) -> Any:
        self.calls.append((method, argument))
        if silence := self._silent.get(method):
            silence.begun.set()
            assert silence.ended.wait(10), "nothing ended the silence of the source"
        answer = self.answers.get(method, default)
        if isinstance(answer, BaseException):
            raise answer
        return answer


class FakeIMDb(FakeSource):
    source = "imdbapi"

    def search(self, query: str) -> list[dict[str, Any]]:
        return self._answer("search", query, [])

    def get_metadata(self, imdb_id: str) -> dict[str, Any]:
        title = {
            "id": imdb_id,
            "primaryTitle": "Inception",
            "startYear": 2010,
            "primaryImage": {"url": "https://images.test/inception.jpg"},
        }
        return self._answer("get_metadata", imdb_id, title)

    def get_metadata_batch(self, imdb_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        titles = {each: {"id": each, "primaryTitle": f"Title {each}"} for each in imdb_ids}
        return self._answer("get_metadata_batch", tuple(imdb_ids), titles)

    def get_credits(self, imdb_id: str, page_token: str | None = None) -> dict[str, Any]:
        answer = {"credits": [{"category": "actor"}], "totalCount": 1}
        return self._answer("get_credits", imdb_id, answer)

    def get_images(self, imdb_id: str, page_token: str | None = None) -> dict[str, Any]:
        answer = {"images": [{"url": "https://images.test/1.jpg"}]}
        return self._answer("get_images", imdb_id, answer)

    def get_videos(self, imdb_id: str, page_token: str | None = None) -> dict[str, Any]:
        return self._answer("get_videos", imdb_id, {"videos": [{"id": "vi1"}]})

    def get_parents_guide(self, imdb_id: str) -> dict[str, Any]:
        answer = {"parentsGuide": [{"category": "VIOLENCE"}]}
        return self._answer("get_parents_guide", imdb_id, answer)

    def get_certificates(self, imdb_id: str) -> dict[str, Any]:
        answer = {"certificates": [{"rating": "PG-13"}]}
        return self._answer("get_certificates", imdb_id, answer)

    def get_release_dates(self, imdb_id: str, page_token: str | None = None) -> dict[str, Any]:
        answer = {"releaseDates": [{"country": {"code": "TR"}}]}
        return self._answer("get_release_dates", imdb_id, answer)


class FakeKinoCheck(FakeSource):
    source = "kinocheck"

    def get_trailer(self, imdb_id: str) -> dict[str, Any] | None:
        return self._answer("get_trailer", imdb_id, {"youtube_video_id": "YoHD9XEInc0"})

    def get_title_videos(self, imdb_id: str) -> TitleVideos:
        return TitleVideos(self.get_trailer(imdb_id), [])


class FakeWatchmode(FakeSource):
    source = "watchmode"
    not_covered: tuple[str, ...] = ()

    def lookup_title_id(self, imdb_id: str) -> int | None:
        return self._answer("lookup_title_id", imdb_id, 1182444)

    def get_streaming_sources(self, watchmode_id: int) -> list[dict[str, Any]]:
        answer = [{"name": "Netflix", "region": "TR"}]
        return self._answer("get_streaming_sources", watchmode_id, answer)


class FakeAggregator:
    """Returns one payload, fetched a moment ago, or raises one error; counts a miss for each."""

    def __init__(self, outcome: dict[str, Any] | Exception) -> None:
        self._outcome = outcome
        self.is_vouched_for = True
        self.asked_for: list[str] = []

    def fetch_and_cache(self, imdb_id: str) -> dict[str, Any]:
        current_reader().count_miss(self.is_vouched_for)
        self.asked_for.append(imdb_id)
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return FilmPayload(self._outcome, cached_at=django_timezone.now())

    def fetch_many(self, imdb_ids: Sequence[str]) -> dict[str, Any]:
        raise NotImplementedError

    def vouches_for(self, imdb_id: str) -> bool:
        return self.is_vouched_for


class FakeSearch:
    """Finds the same titles for every text, or raises; `kept` are the texts in the cache."""

    def __init__(self, outcome: list[dict[str, Any]] | Exception) -> None:
        self._outcome = outcome
        self.kept: set[str] = set()
        self.asked_for: list[str] = []

    def cached(self, query: str, wanted: SearchFilter = EVERYTHING) -> list[dict[str, Any]] | None:
        return self.search(query, wanted) if query in self.kept else None

    def kept(self, query: str) -> str | None:
        raise NotImplementedError

    def count_hit(self) -> None:
        raise NotImplementedError

    def search(
        self,
        query: str,
        wanted: SearchFilter = EVERYTHING,
        *,
        count_miss: Callable[[bool], object] = bool,
    ) -> list[dict[str, Any]]:
        count_miss(True)
        self.asked_for.append(query)
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome


class FakeBackground:
    """Records what it was given."""

    def __init__(self) -> None:
        self.read: list[tuple[str, datetime, float | None]] = []
        self.due = 0.0
        self.taken_over: list[Fetch] = []

    def maybe_schedule(self, imdb_id: str, *, cached_at: datetime, repair_at: float | None) -> None:
        self.read.append((imdb_id, cached_at, repair_at))

    def due_at(self, imdb_id: str, *, cached_at: datetime, repair_at: float | None) -> float:
        return self.due

    def take_over(self, fetch: Fetch) -> None:
        self.taken_over.append(fetch)

    def start(self, imdb_id: str) -> bool:
        raise NotImplementedError


def payload_of(imdb_id: str = INCEPTION, **keys: Any) -> dict[str, Any]:
    """A whole film; `keys` replaces some of it."""
    return {
        "imdb_id": imdb_id,
        "title": "Inception",
        "metadata": {"id": imdb_id, "primaryTitle": "Inception"},
        "credits": {"credits": [{"category": "actor"}]},
        "images": {},
        "videos": {},
        "parents_guide": {},
        "certificates": {},
        "release_dates": {},
        "trailer": {"youtube_video_id": "YoHD9XEInc0"},
        "streaming": [{"name": "Netflix"}],
        "warnings": [],
        **keys,
    }


def film_payload(*, age: timedelta = timedelta(hours=1), **options: Any) -> FilmPayload:
    """The payload of a film that was fetched `age` before the time of `Clock`."""
    keys, cached_at = options.pop("keys", {}), Clock().time - age
    states = dict.fromkeys(SECTION_NAMES, SectionState(fetched_at=cached_at))
    states |= options.pop("states", {})
    return FilmPayload(payload_of(**keys), cached_at=cached_at, states=states, **options)


def warning(section: str, code: str = "timeout") -> dict[str, str]:
    return {"section": section, "source": "imdbapi", "code": code, "message": "A sentence."}
