"""Hits that are answered before Django: from memory, or with one query."""

import gzip
import json
import re
from collections.abc import Iterator
from datetime import timedelta

import pytest
from django.db import DatabaseError, InterfaceError, OperationalError
from django.test import override_settings
from prometheus_client import REGISTRY

from core import metrics
from films import fast_path
from films.fast_path import FastPath
from films.models import Film, FilmFetch
from films.payload import SECTION_NAMES, SectionState
from films.services.film_cache import FilmCacheService
from films.services.reads import FilmReads
from films.tests.fakes import INCEPTION, Clock, FakeBackground, film_payload, payload_of, warning
from films.tests.wsgi import Answer, call

FILM = f"/api/films/{INCEPTION}"
ELSEWHERE = b"the answer of Django"

pytestmark = pytest.mark.django_db


class Server:
    """`FastPath` on the test's database, in front of an application that answers everything."""

    def __init__(self, *, seconds: float = 1.0) -> None:
        self.clock = Clock()
        self.time = 0.0
        self.passed_on: list[str] = []
        self.cache = FilmCacheService(ttl=timedelta(hours=24), now=self.clock)
        self.background = FakeBackground()
        self.reads = FilmReads(now=self.clock)
        self.application = FastPath(
            self._django,
            cache=self.cache,
            background=self.background,
            seconds=seconds,
            longest_wait=15,
            note_read=self.reads.note,
            clock=lambda: self.time,
            now=self._unix_time,
        )

    def get(self, path: str = FILM, method: str = "GET", **headers: str) -> Answer:
        return call(self.application, path, method, **headers)

    def store(self, imdb_id: str = INCEPTION, **options) -> None:
        keys = {"imdb_id": imdb_id, **options.pop("keys", {})}
        self.cache.save_cache(imdb_id, film_payload(keys=keys, **options))

    def _unix_time(self) -> float:
        return self.clock.time.timestamp()

    def _django(self, environ, start_response) -> Iterator[bytes]:
        self.passed_on.append(environ["PATH_INFO"])
        start_response("200 OK", [])
        return iter([ELSEWHERE])


@pytest.fixture
def server() -> Server:
    server = Server()
    server.store()
    return server


def durations(labels: dict[str, str]) -> float:
    """How many requests with these labels were measured."""
    name = "filmosphere_request_duration_seconds_count"
    return REGISTRY.get_sample_value(name, labels) or 0


def is_hit(answer: Answer) -> bool:
    return answer.body != ELSEWHERE


class TestAnswer:
    def test_a_stored_fresh_film_is_answered_without_django(self, server):
        answer = server.get()

        assert (answer.status, answer.json, server.passed_on) == (200, payload_of(), [])

    def test_its_headers_say_how_long_it_may_be_kept(self, server):
        headers = server.get(x_correlation_id="mine").headers

        version = headers.pop("ETag")
        assert re.fullmatch('"[0-9a-f]{32}"', version)
        assert headers == {
            "Content-Type": "application/json",
            "Content-Length": str(len(server.get().body)),
            "Last-Modified": "Sun, 01 Mar 2026 11:00:00 GMT",
            "Cache-Control": "public, max-age=82800, stale-if-error=86400",
            "Cache-Status": "Filmosphere; hit; ttl=82800",
            "Vary": "Accept-Encoding, Origin",
            "X-Content-Type-Options": "nosniff",
            "X-Correlation-ID": "mine",
        }

    @pytest.mark.parametrize("headers", [{}, {"if_none_match": "*"}])
    def test_a_hit_is_noted_as_a_read_whether_or_not_a_row_is_read(self, server, headers):
        FilmFetch.objects.create(imdb_id=INCEPTION)
        for _ in ("row", "memory"):
            server.get(**headers)
            server.reads.store()

            assert FilmFetch.objects.get().read_on == server.clock.time.date()
            FilmFetch.objects.update(read_on=None)

    def test_max_age_counts_down_also_for_a_film_in_memory(self, server):
        server.get()
        server.clock.advance(seconds=100)
        assert server.get().max_age == 82_700

        server.clock.advance(seconds=0.25)
        assert server.get().max_age == 82_699

        server.clock.advance(seconds=0.75)
        assert server.get().max_age == 82_699

    def test_max_age_follows_a_clock_that_is_set_back(self, server):
        server.get()
        server.clock.advance(seconds=-100)

        assert server.get().max_age == 82_900

    def test_head_has_the_headers_of_get_and_no_body(self, server):
        got, head = (
            server.get(x_correlation_id="x"),
            server.get(method="HEAD", x_correlation_id="x"),
        )

        assert (head.status, head.headers, head.body) == (200, got.headers, b"")

    def test_gzip_has_the_same_content_and_a_tag_of_its_own(self, server):
        plain, packed = server.get(), server.get(accept_encoding="gzip")

        assert packed.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(packed.body) == plain.body
        assert packed.headers["ETag"] == plain.headers["ETag"][:-1] + '-gzip"'
        assert packed.headers["Content-Length"] == str(len(packed.body))

    @pytest.mark.parametrize("coding", ["gzip", "identity"])
    @pytest.mark.parametrize("form", ['"{0}"', 'W/"{0}"', '"{0}-gzip"', '"x", "{0}"', "*"])
    @pytest.mark.parametrize("seconds", [0.0, 1.0])
    def test_a_client_that_has_the_version_in_either_coding_gets_304(self, coding, form, seconds):
        server = Server(seconds=seconds)
        server.store()
        known = server.get(accept_encoding=coding)
        tag = form.format(server.get().headers["ETag"].strip('"'))

        answer = server.get(accept_encoding=coding, if_none_match=tag)

        assert (answer.status, answer.body) == (304, b"")
        assert answer.headers["ETag"] == known.headers["ETag"]
        assert answer.headers["Cache-Control"] == known.headers["Cache-Control"]
        assert "Content-Length" not in answer.headers

    @pytest.mark.parametrize("tag", ["", "garbage", '"other"', '"', "W/", "x" * 8000, '"a"b"', ","])
    def test_any_other_tag_gets_the_film(self, server, tag):
        assert server.get(if_none_match=tag).status == 200

    def test_each_request_gets_its_own_correlation_id(self, server):
        own = server.get(x_correlation_id="mine-1").headers["X-Correlation-ID"]
        fresh = [server.get().headers["X-Correlation-ID"] for _ in range(2)]
        harmful = server.get(x_correlation_id='"}{"').headers["X-Correlation-ID"]

        assert own == "mine-1"
        assert len({own, *fresh, harmful}) == 4
        assert re.fullmatch(r"[0-9a-f]{32}", harmful)

    @override_settings(CORS_ALLOWED_ORIGINS=["https://app.example"])
    def test_pages_of_an_allowed_origin_get_their_headers(self, server):
        allowed, other = (
            {name.lower(): value for name, value in server.get(origin=origin).headers.items()}
            for origin in ("https://app.example", "https://evil.example")
        )

        assert allowed["access-control-allow-origin"] == "https://app.example"
        assert "ETag" in allowed["access-control-expose-headers"]
        assert not [name for name in other if name.startswith("access-control-")]
        assert server.passed_on == []

    def test_a_preference_is_confirmed(self, server):
        assert server.get(prefer="wait=3").headers["Preference-Applied"] == "wait=3"
        assert "Preference-Applied" not in server.get(prefer="wait=soon").headers

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_the_size_in_the_log_is_that_of_the_body_that_is_sent(self, server, caplog, method):
        caplog.set_level("INFO")

        answer = server.get(method=method)

        assert caplog.records[-1].bytes == len(answer.body)

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_hits_are_counted_and_logged_with_where_they_came_from(self, server, caplog, method):
        counter = metrics.REQUESTS.labels("films/fast", 200)._value
        before = counter.get()
        caplog.set_level("INFO")

        for _ in range(2):
            server.get(method=method)

        assert counter.get() == before + 2
        assert [(line.method, line.path, line.status, line.cache) for line in caplog.records] == [
            (method, FILM, 200, "row"),
            (method, FILM, 200, "memory"),
        ]

    def test_hits_count_the_calls_that_they_avoid(self, server, avoided):
        for path in (FILM, FILM, f"{FILM}/trailer"):
            server.get(path)

        calls = {"imdbapi": 21, "kinocheck": 3, "watchmode": 3}
        assert avoided() == {(source, "cache_hit"): calls[source] for source in calls}

    def test_a_request_is_in_progress_while_it_reads_the_row(self, server, monkeypatch):
        name, labels = "filmosphere_requests_in_progress", {"route": "films/fast"}
        read, seen = server.cache.read_body, []

        def read_body(*args, **options):
            seen.append(REGISTRY.get_sample_value(name, labels))
            return read(*args, **options)

        monkeypatch.setattr(server.cache, "read_body", read_body)

        server.get()

        assert (seen, REGISTRY.get_sample_value(name, labels)) == ([1], 0)

    @pytest.mark.parametrize("cache", ["row", "memory"])
    def test_the_time_of_a_hit_is_measured_with_where_it_came_from(self, server, cache):
        labels = {"route": "films/fast", "status": "200", "cache": cache}
        before = durations(labels)

        for _ in range(2):
            server.get()

        assert durations(labels) == before + 1


class TestMemory:
    @pytest.mark.parametrize("path", [FILM, f"{FILM}/trailer"])
    @pytest.mark.parametrize("headers", [{}, {"accept_encoding": "gzip"}])
    def test_the_first_reader_costs_one_query_and_the_second_none(
        self, server, django_assert_num_queries, headers, path
    ):
        with django_assert_num_queries(1):
            first = server.get(path, **headers, x_correlation_id="x")
        with django_assert_num_queries(0):
            second = server.get(path, **headers, x_correlation_id="x")

        assert first == second

    def test_a_conditional_request_for_a_film_in_memory_costs_no_query(
        self, server, django_assert_num_queries
    ):
        tag = server.get().headers["ETag"]

        with django_assert_num_queries(0):
            assert server.get(if_none_match=tag).status == 304

    def test_a_film_is_remembered_no_longer_than_the_given_time(
        self, server, django_assert_num_queries
    ):
        server.get()
        server.time = 0.9
        with django_assert_num_queries(0):
            server.get()

        server.time = 1.0
        with django_assert_num_queries(1):
            server.get()

    def test_a_film_is_not_remembered_past_its_time_to_live(self, server):
        server.store(age=timedelta(hours=24, seconds=-0.4))
        assert is_hit(server.get())
        server.time = 0.4
        server.clock.advance(seconds=0.4)

        assert not is_hit(server.get())

    def test_without_a_time_nothing_is_remembered(self, django_assert_num_queries):
        server = Server(seconds=0.0)
        server.store()
        server.get()

        with django_assert_num_queries(1):
            server.get()

    @pytest.mark.parametrize("path", [f"{FILM}/", "/api/films/tt001375666", f"{FILM}?unknown=1"])
    def test_other_forms_of_the_same_path_are_the_same_film(
        self, server, django_assert_num_queries, path
    ):
        server.get()

        with django_assert_num_queries(0):
            assert server.get(path).json == payload_of()

    def test_hosts_share_one_copy(self, server, django_assert_num_queries):
        server.get()

        with django_assert_num_queries(0):
            assert is_hit(server.get(host="localhost"))

    def test_its_size_is_bounded_in_bytes(self, server, monkeypatch):
        monkeypatch.setattr(fast_path, "_MEMORY_BYTES", 25_000)
        for number in range(40):
            imdb_id = f"tt{number:07}"
            server.store(imdb_id)
            server.get(f"/api/films/{imdb_id}")

        kept = server.application._memory.values()
        # Each film also has headers and the places of its sections, which take some 4 KB.
        assert 0 < sum(len(each.hit.body) + 4_000 for each in kept) <= 25_000

    def test_sections_count_and_those_that_were_read_longest_ago_go_first(
        self, server, monkeypatch
    ):
        ids = [f"tt{number:07}" for number in range(4)]
        for imdb_id in ids:
            server.store(imdb_id)
            server.get(f"/api/films/{imdb_id}")
        sections = [server.get(f"/api/films/{ids[3]}/{name}").body for name in SECTION_NAMES]
        size = len(server.get().body) + 4_000
        of_sections = sum(len(body) + 4_000 for body in sections)
        assert server.application._bytes == 5 * size + of_sections

        monkeypatch.setattr(fast_path, "_MEMORY_BYTES", 3 * size + of_sections)
        server.time = 1.0
        server.get(f"/api/films/{ids[0]}")

        assert [imdb_id for imdb_id, _ in server.application._memory] == [
            ids[3],
            INCEPTION,
            ids[0],
        ]

    def test_all_sections_of_a_film_are_made_of_one_read(self, server, django_assert_num_queries):
        with django_assert_num_queries(1):
            for name in SECTION_NAMES:
                server.get(f"{FILM}/{name}")
            server.get()

    def test_films_that_are_read_again_and_again_do_not_fill_it(self, server, monkeypatch):
        monkeypatch.setattr(fast_path, "_MEMORY_BYTES", 25_000)
        for second in range(40):
            server.time = float(second)
            server.get()

        assert server.application._bytes == len(server.get().body) + 4_000

    def test_a_read_that_took_long_does_not_replace_a_newer_one(self, server):
        read_body = server.cache.read_body

        def overtaken(imdb_id, *, is_gzipped):
            old = read_body(imdb_id, is_gzipped=is_gzipped)
            server.cache.read_body = read_body
            server.time = 0.5
            server.store(keys={"title": "Newer"})
            assert server.get().json["title"] == "Newer"
            return old

        server.cache.read_body = overtaken
        server.get()

        assert server.get().json["title"] == "Newer"


class TestSections:
    @pytest.mark.parametrize("section", SECTION_NAMES)
    def test_a_section_is_a_part_of_the_film_with_a_tag_of_its_own(self, server, section):
        answer = server.get(f"{FILM}/{section}")

        assert answer.json == {"imdb_id": INCEPTION, section: payload_of()[section]}
        assert answer.headers["ETag"] != server.get().headers["ETag"]
        assert answer.headers["Last-Modified"] == server.get().headers["Last-Modified"]
        assert server.get(f"{FILM}/{section}", if_none_match=answer.headers["ETag"]).status == 304

    def test_a_section_in_another_coding_has_the_same_content(self, server):
        credits_ = {"credits": [{"name": f"Name {number}"} for number in range(200)]}
        server.store(keys={"credits": credits_})

        plain = server.get(f"{FILM}/credits")
        packed = server.get(f"{FILM}/credits", accept_encoding="gzip")

        assert packed.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(packed.body) == plain.body
        assert packed.headers["ETag"] == plain.headers["ETag"][:-1] + '-gzip"'

    def test_a_small_section_is_not_compressed(self, server):
        plain = server.get(f"{FILM}/trailer")
        other = server.get(f"{FILM}/trailer", accept_encoding="gzip")

        assert "Content-Encoding" not in other.headers
        assert (other.body, other.headers["ETag"]) == (plain.body, plain.headers["ETag"])

    def test_only_its_own_warning_shortens_its_life(self, server):
        server.store(keys={"warnings": [warning("images")], "images": {}})

        assert server.get().max_age == server.get(f"{FILM}/images").max_age == 30
        assert server.get(f"{FILM}/trailer").max_age == 82_800


class TestFields:
    @pytest.mark.parametrize(
        "query",
        [
            "fields=title,trailer",
            "fields=images&a=1&fields=trailer,title",
            "%66ields=trailer,title",
        ],
    )
    def test_chosen_fields_are_cut_out_of_the_stored_bytes(self, server, query):
        answer = server.get(f"{FILM}?{query}")

        film = payload_of()
        assert answer.json == {
            key: film[key] for key in ("imdb_id", "title", "trailer", "warnings")
        }
        assert server.passed_on == []

    def test_each_choice_has_a_version_of_its_own(self, server):
        choices = ["title", "credits", "credits.credits", "metadata.id"]
        tags = [server.get(f"{FILM}?fields={choice}").headers["ETag"] for choice in choices]
        tags.append(server.get().headers["ETag"])

        assert len(set(tags)) == 4
        assert server.get(f"{FILM}?fields=title", if_none_match=tags[0]).status == 304

    def test_the_answer_depends_on_the_warnings_of_the_chosen_sections_only(self, server):
        both = [warning("credits"), warning("images")]
        server.store("tt0000001", keys={"warnings": both})

        chosen = server.get("/api/films/tt0000001?fields=images")
        other = server.get("/api/films/tt0000001?fields=title")

        assert (chosen.json["warnings"], chosen.max_age) == ([warning("images")], 30)
        assert (other.json["warnings"], other.max_age) == ([], 82_800)

    @pytest.mark.parametrize("fields", ["warnings", "title,warnings"])
    def test_chosen_warnings_are_those_of_all_sections(self, server, fields):
        server.store("tt0000001", keys={"warnings": [warning("credits")]})

        answer = server.get(f"/api/films/tt0000001?fields={fields}")

        assert (answer.json["warnings"], answer.max_age) == ([warning("credits")], 30)

    def test_a_large_answer_is_compressed_and_a_small_one_is_not(self, server):
        server.store(keys={"credits": {"credits": ["an actor"] * 500}})

        large, small = (
            server.get(f"{FILM}?fields={fields}", accept_encoding="gzip")
            for fields in ("title,credits", "title")
        )

        assert json.loads(gzip.decompress(large.body))["credits"]["credits"] == ["an actor"] * 500
        assert small.json["title"] == "Inception"

    def test_the_fields_of_a_section_are_left_to_the_view(self, server):
        assert not is_hit(server.get(f"{FILM}/trailer?fields=title"))


class TestPassedOn:
    def test_a_film_that_is_not_stored(self):
        assert not is_hit(Server().get())

    @pytest.mark.parametrize(
        "age", [timedelta(hours=24), timedelta(days=9), timedelta(seconds=-11), -timedelta(days=9)]
    )
    def test_an_expired_film_and_one_from_the_future(self, server, age):
        server.store(age=age)

        assert not is_hit(server.get())

    def test_a_film_stored_by_a_machine_whose_clock_is_some_seconds_ahead_is_a_hit(self, server):
        server.store(age=-timedelta(seconds=10))

        assert is_hit(server.get())

    def test_a_film_whose_payload_changed_since_its_bytes_were_made(self, server):
        film = Film.objects.get()
        film.full_json = payload_of(title="Changed")
        film.save()

        assert not is_hit(server.get())

    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
    def test_other_methods(self, server, method):
        assert not is_hit(server.get(method=method))

    @pytest.mark.parametrize(
        "path",
        [
            "/api/films/abc",
            "/api/films/",
            f"{FILM}\n",
            f"{FILM}//",
            f"{FILM}/warnings",
            f"{FILM}/title",
            f"{FILM}/trailer/x",
            f"/x{FILM}",
            f"{FILM}x",
            "/api/films/tt1234567890123456789",
            "/api/films/tt\N{FULLWIDTH DIGIT ONE}",
            "/api/search",
            "",
            "*",
        ],
    )
    def test_other_paths(self, server, path):
        assert not is_hit(server.get(path))

    @pytest.mark.parametrize("host", ["evil.example", "", "testserver:x", "testserver, localhost"])
    def test_hosts_that_are_not_ours(self, server, host):
        server.get()

        assert not is_hit(server.get(host=host))

    @pytest.mark.parametrize(
        "query",
        [
            "fields=",
            "fields=nonsense",
            "fields=title&fields=title.x",
            "fields=metadata.%FF",
            "fields=title&image_width=300",
            "image_width=300",
            "%69mage_width=300",
            "page_token=x",
            "view=grouped",
            "region=TR",
            "country=TR",
            "alternatives=true",
            "&".join("a=1" for _ in range(60)),
        ],
    )
    def test_query_strings_that_may_change_the_answer(self, server, query):
        server.get()

        assert not is_hit(server.get(f"{FILM}?{query}"))

    @pytest.mark.parametrize("query", ["unknown=1", "a=%FF&b", "=", "&&", "FIELDS=title"])
    def test_other_query_strings_are_ignored(self, server, query):
        assert is_hit(server.get(f"{FILM}?{query}"))


class TestLastCopy:
    """The database fails while the film is in memory, and its time there is over."""

    @pytest.fixture
    def fail(self, server, monkeypatch):
        """Let each query fail from now on."""

        def fail():
            def read_body(*args, **options):
                raise OperationalError

            monkeypatch.setattr(server.cache, "read_body", read_body)
            server.time += 1.0

        return fail

    def test_a_film_is_answered_with_stale_warnings(self, server, fail, log):
        server.get()
        fail()
        server.clock.advance(hours=48)
        server.time = 200_000.0

        answers = [server.get() for _ in range(3)]

        for answer in answers:
            assert answer.status == 200
            assert answer.headers["Cache-Status"] == "Filmosphere; hit; detail=stale"
            assert answer.headers["Cache-Control"] == "public, max-age=30, stale-if-error=86400"
            assert answer.headers["Last-Modified"] == "Sun, 01 Mar 2026 11:00:00 GMT"
            warnings = answer.json["warnings"]
            assert {each["section"]: each["code"] for each in warnings} == dict.fromkeys(
                SECTION_NAMES, "stale"
            )
            assert answer.json | {"warnings": []} == payload_of()
        (line, *_) = log.of("request")[-3:]
        assert (line["cache"], line["reason"]) == ("stale", "database_unavailable")
        assert (server.passed_on, len(server.background.read)) == ([], 1)

    def test_its_tag_is_that_of_the_answer_with_warnings(self, server, fail):
        fresh = server.get()
        fail()

        stale = server.get(if_none_match=fresh.headers["ETag"])
        again = server.get(if_none_match=stale.headers["ETag"])

        assert (stale.status, again.status) == (200, 304)
        assert again.headers["Cache-Control"] == "public, max-age=30, stale-if-error=86400"

    @pytest.mark.parametrize("first", ["", "gzip"])
    @pytest.mark.parametrize("then", ["", "gzip"])
    def test_either_coding_is_made_of_the_other_one(self, server, fail, first, then):
        credits_ = {"credits": [{"name": f"Name {number}"} for number in range(200)]}
        server.store(keys={"credits": credits_})
        server.get(accept_encoding=first)
        fail()

        answer = server.get(accept_encoding=then)

        body = gzip.decompress(answer.body) if then else answer.body
        assert json.loads(body)["credits"] == credits_
        assert b'"stale"' in body

    @pytest.mark.parametrize("section", SECTION_NAMES)
    def test_so_is_a_section_that_nobody_has_read(self, server, fail, section):
        server.get()
        fail()

        answer = server.get(f"{FILM}/{section}")

        assert answer.json == {"imdb_id": INCEPTION, section: payload_of()[section]}
        assert answer.max_age == 30
        tag = answer.headers["ETag"]
        assert server.get(f"{FILM}/{section}", if_none_match=tag).status == 304

    def test_a_section_has_the_tag_that_it_had(self, server, fail):
        tag = server.get(f"{FILM}/trailer").headers["ETag"]
        fail()

        assert server.get(f"{FILM}/trailer", if_none_match=tag).status == 304

    def test_it_is_fresh_again_when_the_database_is_back(self, server, fail, monkeypatch):
        fresh = server.get(x_correlation_id="x")
        fail()
        server.get()
        monkeypatch.undo()

        assert server.get(x_correlation_id="x") == fresh
        assert server.application._bytes == len(fresh.body) + 4_000

    def test_other_warnings_stay(self, server, fail):
        server.store(keys={"warnings": [warning("videos", "not_configured")]})
        server.get()
        fail()

        codes = {each["section"]: each["code"] for each in server.get().json["warnings"]}

        assert (codes["videos"], codes["images"]) == ("not_configured", "stale")

    def test_offers_that_became_too_old_are_left_out(self, server, fail):
        server.cache = server.application._cache = FilmCacheService(
            ttl=timedelta(hours=24), offers_max_age=timedelta(days=30), now=server.clock
        )
        server.get()
        fail()
        offers = payload_of()["streaming"]
        assert server.get().json["streaming"] == offers != []
        server.clock.advance(days=30)

        answer = server.get()

        assert answer.json["streaming"] == server.get(f"{FILM}/streaming").json["streaming"] == []
        codes = {each["section"]: each["code"] for each in answer.json["warnings"]}
        assert codes["streaming"] == "expired"

    def test_a_film_that_is_not_in_memory_is_an_error(self, server, fail):
        server.get("/api/films/tt0068646")
        fail()

        assert server.get().status == 503


class TestDatabase:
    @pytest.mark.parametrize("error", [OperationalError, InterfaceError])
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_a_database_that_fails_is_an_answer_and_django_does_not_try_it_again(
        self, server, monkeypatch, error, method
    ):
        def fail(*args, **options):
            raise error

        monkeypatch.setattr(server.cache, "read_body", fail)
        counter = metrics.REQUESTS.labels("films/fast", 503)._value
        before = counter.get()

        answer = server.get(method=method, x_correlation_id="mine")

        assert (answer.status, server.passed_on, counter.get()) == (503, [], before + 1)
        assert answer.headers["Retry-After"] == "5"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Correlation-ID"] == "mine"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        if method == "GET":
            assert answer.json["reason"] == "database_unavailable"
        else:
            assert answer.body == b""

    def test_a_film_in_memory_is_answered_without_a_database(self, server, monkeypatch):
        server.get()
        monkeypatch.setattr(server.cache, "read_body", pytest.fail)

        assert is_hit(server.get())

    def test_a_bug_is_not_hidden(self, server, monkeypatch):
        def fail(*args, **options):
            raise DatabaseError("a query that no database understands")

        monkeypatch.setattr(server.cache, "read_body", fail)

        with pytest.raises(DatabaseError):
            server.get()


class TestBackground:
    """Hits are reported, so that the film can be repaired or refreshed ahead."""

    def reported(self, server) -> float | None:
        server.get()
        ((imdb_id, cached_at, repair_at),) = server.background.read
        assert (imdb_id, cached_at) == (INCEPTION, server.clock.time - timedelta(hours=1))
        return repair_at

    def test_a_whole_film_has_nothing_to_repair(self, server):
        assert self.reported(server) is None

    def test_hits_from_memory_are_reported_too(self, server):
        for _ in range(3):
            server.get()

        assert server.background.read == [server.background.read[0]] * 3

    def test_no_hit_is_reported_before_one_may_schedule_a_fetch(self, server):
        server.background.due = server.clock.time.timestamp() + 60
        server.get()
        assert server.background.read == []

        server.clock.advance(seconds=60)
        server.get()
        assert len(server.background.read) == 1

    def test_the_first_retry_of_a_failed_section_is_reported(self, server):
        first = server.clock.time + timedelta(minutes=5)
        states = {
            "images": SectionState(failures=2, retry_at=first + timedelta(minutes=5)),
            "videos": SectionState(failures=1, retry_at=first),
        }
        server.store(
            keys={"warnings": [warning("images"), warning("videos", "stale")]}, states=states
        )

        assert self.reported(server) == first.timestamp()

    @pytest.mark.parametrize("code", ["not_configured", "region_not_covered"])
    def test_what_no_fetch_repairs_is_not_reported(self, server, code):
        states = {"streaming": SectionState(failures=1, retry_at=server.clock.time)}
        server.store(keys={"warnings": [warning("streaming", code)]}, states=states)

        assert self.reported(server) is None

    def test_a_failed_section_of_unknown_state_is_due_at_once(self, server):
        server.store(keys={"warnings": [warning("images")]})

        assert self.reported(server) == 0.0
