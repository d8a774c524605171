"""Fetches that no reader waits for: repair, and refresh ahead of expiry."""

import threading
from collections import Counter
from datetime import timedelta

import pytest
from django.db import OperationalError
from prometheus_client import REGISTRY

from core.errors import UpstreamNotConfigured, UpstreamNotFound, UpstreamTimeout
from films.models import Film, FilmFetch
from films.services.background import BackgroundRefresher, refresh_age
from films.tests.fakes import INCEPTION
from films.tests.service import IMDB_METHODS, RatedSource, Service

SILENCE = UpstreamTimeout("imdbapi", "http_response_timeout")


@pytest.fixture
def service(db):
    return Service()


@pytest.fixture
def partial_film(service):
    """A film without credits, stored a moment ago."""
    service.imdb.fail(SILENCE, "get_credits")
    service.fetch()
    service.repair_sources()


def jobs(outcome: str) -> float:
    return REGISTRY.get_sample_value("filmosphere_background_jobs_total", {"outcome": outcome})


def work(service, imdb_id: str = INCEPTION) -> bool:
    """Fetch in the background what the film needs; return whether it needed anything."""
    is_started = service.background.start(imdb_id)
    service.background.run()
    return is_started


@pytest.mark.usefixtures("partial_film")
class TestRepair:
    def test_only_what_failed_is_fetched_again(self, service):
        service.clock.advance(minutes=5)

        assert work(service)

        assert service.imdb.called == ["get_credits"]
        assert service.call_count == 1
        assert service.fetch()["warnings"] == []

    def test_nothing_is_fetched_before_it_is_due(self, service):
        service.clock.advance(minutes=4, seconds=59)

        assert not work(service)
        assert service.call_count == 0

    def test_a_repaired_film_is_as_old_as_before(self, service):
        before = Film.objects.get().cached_at
        service.clock.advance(minutes=5)

        work(service)

        assert Film.objects.get().cached_at == before

    def test_a_repair_that_fails_is_repeated_after_twice_the_time(self, service):
        service.imdb.fail(SILENCE, "get_credits")
        service.clock.advance(minutes=5)
        work(service)
        assert service.imdb.called == ["get_credits"]

        service.clock.advance(minutes=9, seconds=59)
        assert not work(service)
        service.clock.advance(seconds=1)
        assert work(service)

    def test_a_repair_that_fails_loses_nothing(self, service):
        before = service.fetch()
        service.break_sources()
        service.clock.advance(minutes=5)

        work(service)

        assert {**service.fetch(), "warnings": []} == {**before, "warnings": []}

    def test_a_film_that_another_process_fetches_is_not_fetched(self, service):
        service.clock.advance(minutes=5)
        Service(clock=service.clock).leases.acquire(INCEPTION)

        assert not work(service)
        assert service.call_count == 0

    def test_a_film_that_another_process_repaired_meanwhile_is_not_fetched(
        self, service, monkeypatch
    ):
        service.clock.advance(minutes=5)
        other, acquire = Service(clock=service.clock), service.leases.acquire

        def acquire_late(imdb_id):
            work(other)
            return acquire(imdb_id)

        monkeypatch.setattr(service.leases, "acquire", acquire_late)

        assert not work(service)
        assert service.call_count == 0
        assert FilmFetch.objects.get().token == ""

    def test_a_film_that_is_not_stored_is_not_fetched(self, service):
        assert not work(service, "tt0000001")
        assert service.call_count == 0

    def test_a_section_that_another_key_would_be_needed_for_is_not_repaired(self, service):
        error = UpstreamNotConfigured("watchmode", "not_configured")
        service.watchmode.fail(error, "lookup_title_id")
        service.fetch("tt0000001")
        service.clock.advance(hours=2)

        assert not work(service, "tt0000001")

    def test_an_error_while_it_starts_ends_the_fetch_for_its_followers(self, service, monkeypatch):
        service.clock.advance(minutes=5)

        def fail(*args, **options):
            raise OperationalError

        with monkeypatch.context() as patched:
            patched.setattr(service.fan_out, "submit", fail)
            with pytest.raises(OperationalError):
                service.background.start(INCEPTION)

        assert service.refresher.join(INCEPTION)[1], "the failed fetch is still under way"
        assert not service.leases.renew_kept()


class TestRefreshAhead:
    def advance_to(self, service, age):
        """Let the stored film get to `age`, a part of its time to live."""
        service.clock.advance(hours=24 * age)

    def test_everything_is_fetched_again_in_the_last_part_of_its_time(self, service):
        service.fetch()
        calls = service.call_count
        self.advance_to(service, refresh_age(INCEPTION))

        assert work(service)

        assert service.call_count == calls + 9, "Watchmode's id is known"
        assert Film.objects.get().cached_at == service.clock.time

    def test_nothing_is_fetched_before(self, service):
        service.fetch()
        self.advance_to(service, refresh_age(INCEPTION) - 0.01)

        assert not work(service)

    def test_one_that_fails_is_not_repeated_at_once(self, service):
        service.fetch()
        service.break_sources()
        self.advance_to(service, refresh_age(INCEPTION))
        work(service)

        service.clock.advance(seconds=59)
        assert not work(service)
        service.clock.advance(seconds=1)
        assert work(service)

    def test_a_film_that_imdb_denies_is_not_requested_again_within_an_hour(self, service):
        service.fetch()
        service.imdb.fail(UpstreamNotFound("imdbapi", "not_found"), "get_metadata")
        self.advance_to(service, refresh_age(INCEPTION))
        work(service)

        service.clock.advance(minutes=59)
        assert not work(service)
        service.clock.advance(minutes=1)
        assert work(service)

    def test_sections_younger_than_their_lifetime_are_carried_over_without_a_call(self, db):
        lifetimes = {"images": timedelta(days=30), "streaming": timedelta(days=7)}
        service = Service(lifetimes=lifetimes)
        before = service.fetch()
        service.imdb.calls.clear()
        self.advance_to(service, refresh_age(INCEPTION))

        work(service)

        assert "get_images" not in service.imdb.called
        assert service.watchmode.called == ["lookup_title_id", "get_streaming_sources"]
        film = service.fetch()
        assert (film["images"], film["streaming"]) == (before["images"], before["streaming"])
        assert film.states["images"] == before.states["images"]

    def test_a_section_past_its_lifetime_or_with_a_warning_is_fetched(self, db):
        service = Service(lifetimes=dict.fromkeys(("images", "videos"), timedelta(hours=23)))
        service.imdb.fail(SILENCE, "get_videos")
        service.fetch()
        service.imdb.calls.clear()
        service.clock.advance(hours=23)

        work(service)

        assert {"get_images", "get_videos"} <= set(service.imdb.called)

    def test_films_stored_together_are_refreshed_apart(self):
        ages = [refresh_age(f"tt{number:07}") for number in range(1, 1001)]

        assert min(ages) >= 0.8
        assert max(ages) <= 1.0
        # Of the last fifth of a day in 20 slices, none has three times its share of 1,000 films.
        slices = Counter(min(19, int((age - 0.8) / 0.2 * 20)) for age in ages)
        assert max(slices.values()) / (sum(slices.values()) / 20) <= 3

    def test_the_age_of_a_film_is_the_same_in_every_process(self):
        # A hash that is salted at each start would give another one.
        assert refresh_age(INCEPTION) == pytest.approx(0.8314)


class TestScheduling:
    """Which films a reader's hit puts on the schedule."""

    @pytest.fixture
    def background(self, service):
        self.clock = 0.0
        self.now = service.clock
        return Recorder(
            cache=service.cache,
            leases=service.leases,
            refresher=service.refresher,
            capacity=3,
            fetches=2,
            now=service.clock,
            clock=lambda: self.clock,
        )

    def read(self, background, imdb_id=INCEPTION, *, age=0.5, repair_in=None):
        background.maybe_schedule(
            imdb_id,
            cached_at=self.now.time - timedelta(hours=24 * age),
            repair_at=None if repair_in is None else self.now.time.timestamp() + repair_in,
        )

    def test_a_whole_young_film_needs_nothing(self, background):
        for _ in range(10):
            self.read(background)

        assert background.run() == []

    @pytest.mark.parametrize(
        "imdb_id", [INCEPTION, "tt0000001", "tt0000002", "tt4154796", "tt99999999999"]
    )
    @pytest.mark.parametrize("repair_in", [None, 600, 90_000])
    def test_before_a_film_is_due_no_number_of_reads_schedules_it(
        self, background, imdb_id, repair_in
    ):
        saved, now = self.now.time, self.now.time.timestamp()
        repair_at = None if repair_in is None else now + repair_in
        due_at = background.due_at(imdb_id, cached_at=saved, repair_at=repair_at)
        for seconds, scheduled in ((-1, []), (1, [imdb_id])):
            self.now.time = saved + timedelta(seconds=due_at - now + seconds)
            for _ in range(3):
                background.maybe_schedule(imdb_id, cached_at=saved, repair_at=repair_at)

            assert background.run() == scheduled

    def test_a_film_with_a_section_that_is_due_is_scheduled_every_30_seconds_at_most(
        self, background
    ):
        for _ in range(10):
            self.read(background, repair_in=0)
        assert background.run() == [INCEPTION]

        self.clock = 29.9
        self.read(background, repair_in=0)
        assert background.run() == []
        self.clock = 30
        self.read(background, repair_in=0)
        assert background.run() == [INCEPTION]

    def test_a_section_that_is_not_due_is_not_scheduled(self, background):
        self.read(background, repair_in=1)

        assert background.run() == []

    def test_near_its_end_a_film_is_scheduled_by_its_third_reader(self, background):
        self.read(background, age=0.999)
        self.read(background, age=0.999)
        assert background.run() == []

        self.read(background, age=0.999)

        assert background.run() == [INCEPTION]

    def test_films_beyond_the_capacity_are_dropped_and_scheduled_by_a_later_hit(
        self, background, caplog
    ):
        caplog.set_level("INFO")
        before = jobs("dropped")
        films = [f"tt000000{number}" for number in range(1, 6)]
        for film in films:
            self.read(background, film, repair_in=0)

        assert background.queue_length == 3
        assert background.run() == films[:3]
        assert background.queue_length == 0
        assert [record.outcome for record in caplog.records] == ["dropped", "dropped"]
        assert jobs("dropped") == before + 2
        self.clock = 30
        self.read(background, films[4], repair_in=0)
        assert background.run() == films[4:]

    def test_memory_for_films_is_bounded(self, background):
        for number in range(10_100):
            self.read(background, f"tt{number}", age=0.9999)
            self.read(background, f"tt{number}", repair_in=0)

        assert len(background._retry_at) == len(background._late_reads) == 10_000

    def test_no_more_films_than_allowed_are_fetched_at_the_same_time(self, background):
        background.is_needed = True
        for number in range(1, 4):
            self.read(background, f"tt{number}", repair_in=0)
        assert background.run() == ["tt1", "tt2"]

        background._started -= 1
        background._enqueue(background._start_next)

        assert background.run() == ["tt3"]

    def test_a_film_that_needs_nothing_or_fails_does_not_keep_the_next_one_waiting(
        self, background
    ):
        background._fetches = 1
        background.error = OperationalError("gone")
        for number in range(1, 4):
            self.read(background, f"tt{number}", repair_in=0)

        assert background.run(1) == ["tt1"]
        background.error = None
        assert background.run() == ["tt2", "tt3"]


class Recorder(BackgroundRefresher):
    """Records which films it starts to fetch, in the test's thread."""

    error: Exception | None = None
    is_needed = False

    def __init__(self, **options):
        super().__init__(**options)
        self.starts: list[str] = []

    def start(self, imdb_id):
        self.starts.append(imdb_id)
        if self.error:
            raise self.error
        self._started += self.is_needed
        return self.is_needed

    def run(self, jobs: int = 1000) -> list[str]:
        self.starts = []
        for _ in range(jobs):
            if self._jobs.empty():
                break
            try:
                self._jobs.get()()
            except OperationalError:
                assert self.error
        return self.starts

    def _enqueue(self, job):
        self._jobs.put(job)


@pytest.mark.django_db
class TestThread:
    @pytest.fixture
    def background(self, service):
        background = BackgroundRefresher(
            cache=service.cache, leases=service.leases, refresher=service.refresher
        )
        background.done = threading.Event()
        return background

    def test_it_is_a_daemon_and_starts_with_the_first_job(self, background):
        threads: list[threading.Thread] = []

        background._enqueue(lambda: threads.append(threading.current_thread()))
        background._enqueue(background.done.set)

        assert background.done.wait(5)
        assert threads[0].name == "background"
        assert threads[0].daemon

    @pytest.mark.parametrize(
        ("error", "level", "outcome"),
        [
            (SILENCE, "WARNING", "failed"),
            (OperationalError("gone"), "WARNING", "failed"),
            (ZeroDivisionError("a bug"), "ERROR", "unexpected"),
        ],
    )
    def test_a_film_that_fails_is_logged_and_counted_and_the_next_one_is_fetched(
        self, background, caplog, error, level, outcome
    ):
        def fail():
            raise error

        before = jobs(outcome)
        background._enqueue(fail)
        background._enqueue(background.done.set)

        assert background.done.wait(5)
        assert [record.levelname for record in caplog.records] == [level]
        assert jobs(outcome) == before + 1


def test_a_hit_on_a_partial_film_is_answered_at_once_and_repaired_when_due(service, partial_film):
    assert service.fetch()["credits"] == {}
    assert service.background._jobs.empty()
    service.clock.advance(minutes=5)

    before = jobs("stored")
    assert service.fetch()["credits"] == {}
    assert service.call_count == 0
    service.background.run()

    assert service.fetch()["credits"] != {}
    assert jobs("stored") == before + 1


def test_the_next_film_waits_until_a_fetch_ends(service):
    films = ["tt0000001", "tt0000002"]
    service.background._fetches = 1
    service.imdb.fail(SILENCE, "get_credits")
    for imdb_id in films:
        service.fetch(imdb_id)
    service.repair_sources()
    service.clock.advance(minutes=5)

    with service.imdb.silent("get_credits"):
        for imdb_id in films:
            service.fetch(imdb_id)
        # The first film starts, and the second one finds no room.
        for _ in range(3):
            service.background.run_next()
        assert service.background.queue_length == 1
    service.background.run()

    assert [service.fetch(imdb_id)["warnings"] for imdb_id in films] == [[], []]


def test_a_film_that_needs_nothing_by_the_time_of_its_turn_is_counted(service, partial_film):
    before = jobs("not_needed")
    service.clock.advance(minutes=5)
    service.fetch()

    # Starts the fetch of its own before the one that the reader scheduled.
    work(service)

    assert jobs("not_needed") == before + 1


def test_a_reader_of_an_expired_film_is_not_failed_by_a_background_that_finds_nothing_to_do(
    service,
):
    """The background looked, and then another process fetched the film."""
    service.fetch()
    service.clock.advance(hours=25)
    other = Service(clock=service.clock)
    acquire = service.leases.acquire

    def acquire_late(imdb_id):
        service.leases.acquire = acquire
        other.fetch()
        return acquire(imdb_id)

    service.leases.acquire = acquire_late

    assert not work(service)
    assert service.fetch().is_fresh


def test_what_a_command_queued_is_behind_the_background(db):
    source = RatedSource()
    service = Service(sources={"imdbapi": source})
    Service(clock=service.clock).fetch()
    service.clock.advance(hours=25)
    command = source.submit(lambda: "command", priority=2)
    assert service.background.start(INCEPTION)

    source.grant(7)
    service.background.run()

    assert not command.done()
    assert sorted(service.imdb.called) == sorted(IMDB_METHODS)
