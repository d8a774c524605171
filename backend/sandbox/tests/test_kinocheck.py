import pytest

from sandbox.tests.client import Client

KEY = {"X-Api-Key": "sandbox-kinocheck-key", "X-Api-Host": "api.kinocheck.com"}


def test_the_trailer_is_repeated_among_the_videos(sandbox: Client) -> None:
    film = sandbox.get("/kinocheck/movies", imdb_id="tt1375666", language="en").json

    assert film["trailer"]["youtube_video_id"] == "YoHD9XEInc0"
    assert film["trailer"]["youtube_video_id"] in [v["youtube_video_id"] for v in film["videos"]]
    assert film["trailer"]["categories"] == ["Trailer"]
    assert film["recommendations"]


def test_every_playable_id_has_eleven_characters(sandbox: Client) -> None:
    shown = sandbox.get("/kinocheck/trailers", limit=100).json

    assert {len(v["youtube_video_id"]) for k, v in shown.items() if k != "_metadata"} == {11}


@pytest.mark.parametrize("query", [{"tmdb_id": "27205"}, {"id": "qzj"}, {"imdb_id": "tt1375666"}])
def test_a_film_is_found_by_any_of_its_ids(sandbox: Client, query: dict[str, str]) -> None:
    assert sandbox.get("/kinocheck/movies", None, **query).json["imdb_id"] == "tt1375666"


@pytest.mark.parametrize("query", [{}, {"tmdb_id": "27205", "imdb_id": "tt1375666"}])
def test_exactly_one_id_is_required(sandbox: Client, query: dict[str, str]) -> None:
    assert sandbox.get("/kinocheck/movies", None, **query).status == 400


def test_a_series_is_found_only_under_shows(sandbox: Client) -> None:
    assert sandbox.get("/kinocheck/movies", imdb_id="tt0903747").status == 404
    assert sandbox.get("/kinocheck/shows", imdb_id="tt0903747").status == 200
    assert sandbox.get("/kinocheck/shows", imdb_id="tt1375666").status == 404


def test_a_film_without_a_trailer_is_not_an_error(sandbox: Client) -> None:
    answer = sandbox.get("/kinocheck/movies", imdb_id="tt0346094")

    assert answer.status == 200
    assert answer.json["trailer"] is None
    assert answer.json["videos"] == []


def test_an_unknown_film_is_not_found(sandbox: Client) -> None:
    answer = sandbox.get("/kinocheck/movies", imdb_id="tt0000417")

    assert answer.status == 404
    assert answer.json["code"] == 404


def test_an_unknown_film_can_be_reported_with_200(sandbox: Client) -> None:
    sandbox.set("kinocheck", error_as_200=True)

    answer = sandbox.get("/kinocheck/movies", imdb_id="tt0000417")

    assert answer.status == 200
    assert "not found" in answer.json["error"]
    assert "trailer" not in answer.json


def test_without_a_language_the_response_is_german(sandbox: Client) -> None:
    german = sandbox.get("/kinocheck/movies", imdb_id="tt0111161").json
    english = sandbox.get("/kinocheck/movies", imdb_id="tt0111161", language="en").json

    assert (german["language"], german["title"]) == ("de", "Die Verurteilten")
    assert (english["language"], english["title"]) == ("en", "The Shawshank Redemption")


@pytest.mark.parametrize(
    ("categories", "shown"),
    [
        ("Trailer", {"Trailer"}),
        ("-Clip,-Featurette", {"Trailer"}),
        ("Featurette,Clip", {"Featurette", "Clip"}),
        ("", {"Trailer", "Featurette", "Clip"}),
    ],
)
def test_categories_filter_the_videos(sandbox: Client, categories: str, shown: set[str]) -> None:
    film = sandbox.get("/kinocheck/movies", imdb_id="tt4154796", categories=categories).json

    assert {video["categories"][0] for video in film["videos"]} == shown


def test_views_are_sometimes_a_string(sandbox: Client) -> None:
    def views(imdb_id: str) -> object:
        return sandbox.get("/kinocheck/movies", imdb_id=imdb_id).json["trailer"]["views"]

    assert views("tt0133093") == "1391790"
    assert views("tt4154796") == 27039589


def test_lists_are_objects_with_numbered_keys(sandbox: Client) -> None:
    shown = sandbox.get("/kinocheck/trailers/latest", limit=2, page=2, language="en").json

    assert list(shown) == ["0", "1", "_metadata"]
    assert shown["_metadata"]["page"] == 2
    assert shown["0"]["published"] >= shown["1"]["published"]
    assert shown["0"]["resource"]["type"] in {"movie", "show"}


def test_trending_starts_with_the_most_viewed(sandbox: Client) -> None:
    shown = sandbox.get("/kinocheck/trailers/trending", limit=1).json

    assert shown["0"]["resource"]["imdb_id"] == "tt4154796"


def test_newer_fields_can_be_left_out(sandbox: Client) -> None:
    sandbox.set("kinocheck", omit=["videos", "url", "genres", "recommendations"])

    film = sandbox.get("/kinocheck/movies", imdb_id="tt1375666").json

    assert {"videos", "url", "recommendations"}.isdisjoint(film)
    assert {"url", "genres"}.isdisjoint(film["trailer"])


def test_the_key_is_optional_but_a_wrong_key_is_refused(sandbox: Client) -> None:
    path = "/kinocheck/movies?imdb_id=tt1375666"

    assert sandbox.get(path).status == 200
    assert sandbox.get(path, KEY).status == 200
    assert sandbox.get(path, {"X-Api-Key": "wrong"}).status == 401

    sandbox.set("kinocheck", bad_key_status=403, keys=["canary"])

    assert sandbox.get(path, KEY).status == 403
    assert sandbox.get(path, {"X-Api-Key": "canary"}).status == 200


def test_the_host_header_can_be_required(sandbox: Client) -> None:
    sandbox.set("kinocheck", require_host_header=True)
    path = "/kinocheck/movies?imdb_id=tt1375666"

    assert sandbox.get(path, {"X-Api-Key": KEY["X-Api-Key"]}).status == 401
    assert sandbox.get(path, KEY).status == 200


def test_calls_beyond_the_daily_quota_get_429(sandbox: Client) -> None:
    sandbox.set("kinocheck", daily_quota=2)

    statuses = [sandbox.get("/kinocheck/movies", imdb_id="tt1375666").status for _ in range(3)]

    assert statuses == [200, 200, 429]


def test_a_film_has_videos_of_all_categories_and_a_repeated_youtube_id(sandbox: Client) -> None:
    film = sandbox.get("/kinocheck/movies", imdb_id="tt0120737", language="en").json
    youtube_ids = [video["youtube_video_id"] for video in film["videos"]]

    assert {video["categories"][0] for video in film["videos"]} == {
        "Trailer",
        "Teaser",
        "Clip",
        "Featurette",
        "Behind the Scenes",
    }
    assert youtube_ids.count(film["trailer"]["youtube_video_id"]) == 2
    assert [len(youtube_id) for youtube_id in youtube_ids if len(youtube_id) != 11] == [14]


def test_a_film_has_videos_in_german_only(sandbox: Client) -> None:
    english = sandbox.get("/kinocheck/movies", imdb_id="tt0067023", language="en").json
    german = sandbox.get("/kinocheck/movies", imdb_id="tt0067023", language="de").json

    assert (english["trailer"], english["videos"]) == (None, [])
    assert german["trailer"]["language"] == "de"
