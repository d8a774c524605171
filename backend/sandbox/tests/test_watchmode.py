import pytest

from sandbox.tests.client import WATCHMODE, Client

SOURCES = "/title/tt1375666/sources/"


def test_search_finds_a_title_by_its_imdb_id(sandbox: Client) -> None:
    answer = sandbox.watchmode("/search/", search_field="imdb_id", search_value="tt0109707")

    assert answer.json == {
        "title_results": [
            {
                "id": 1114888,
                "name": "Ed Wood",
                "type": "movie",
                "year": 1994,
                "imdb_id": "tt0109707",
                "tmdb_id": 522,
                "tmdb_type": "movie",
            }
        ],
        "people_results": [],
    }


@pytest.mark.parametrize(
    ("field", "value", "found"),
    [
        ("name", "breaking bad", "tt0903747"),
        ("tmdb_movie_id", "27205", "tt1375666"),
        ("tmdb_tv_id", "1396", "tt0903747"),
    ],
)
def test_search_supports_other_fields(sandbox: Client, field: str, value: str, found: str) -> None:
    (hit,) = sandbox.watchmode("/search", search_field=field, search_value=value).json[
        "title_results"
    ]

    assert hit["imdb_id"] == found


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("imdb_id", "tt0116231"),
        ("imdb_id", "1114888"),
        ("tmdb_tv_id", "27205"),
        ("tmdb_person_id", "1"),
    ],
)
def test_a_search_for_an_unknown_title_is_empty(sandbox: Client, field: str, value: str) -> None:
    answer = sandbox.watchmode("/search/", search_field=field, search_value=value)

    assert (answer.status, answer.json["title_results"]) == (200, [])


@pytest.mark.parametrize(
    "query", [{"imdb_id": "tt0109707"}, {"search_field": "imdb_id"}, {"search_field": "x"}]
)
def test_a_search_without_its_parameters_is_refused(sandbox: Client, query: dict[str, str]) -> None:
    answer = sandbox.watchmode("/search/", **query)

    assert answer.status == 400
    assert answer.json["success"] is False
    assert answer.json["statusCode"] == 400


def test_sources_are_a_bare_array_with_a_row_for_each_format(sandbox: Client) -> None:
    rows = sandbox.watchmode(SOURCES, regions="TR").json
    netflix = [row for row in rows if row["name"] == "Netflix"]

    assert [row["format"] for row in netflix] == ["HD", "4K"]
    assert {row["region"] for row in rows} == {"TR"}
    assert netflix[0]["price"] is None
    assert netflix[0]["seasons"] is None
    assert netflix[0]["ios_url"] == "Deeplinks available for paid plans only."
    assert netflix[0]["web_url"].startswith("https://")
    assert {row["type"] for row in rows} == {"sub", "rent", "buy"}


def test_slashes_are_escaped(sandbox: Client) -> None:
    body = sandbox.watchmode(SOURCES, regions="TR").body

    assert b"https:\\/\\/www.netflix.com\\/" in body
    assert b"https://" not in body


@pytest.mark.parametrize("title_id", ["tt0903747", "3173903", "tv-1396"])
@pytest.mark.parametrize("slash", ["", "/"])
def test_a_title_is_found_by_all_its_ids(sandbox: Client, title_id: str, slash: str) -> None:
    rows = sandbox.watchmode(f"/title/{title_id}/sources{slash}", regions="TR").json

    assert (rows[0]["seasons"], rows[0]["episodes"]) == (5, 62)


def test_without_regions_the_offers_of_all_enabled_regions_are_returned(sandbox: Client) -> None:
    assert {row["region"] for row in sandbox.watchmode(SOURCES).json} == {"TR", "US", "GB"}


def test_a_known_title_without_offers_is_an_empty_array(sandbox: Client) -> None:
    answer = sandbox.watchmode("/title/tt0091251/sources/", regions="TR")

    assert (answer.status, answer.json) == (200, [])


def test_an_unknown_title_has_no_sources(sandbox: Client) -> None:
    assert sandbox.watchmode("/title/tt0116231/sources/").status == 404


def test_a_region_that_is_not_enabled_is_refused(sandbox: Client) -> None:
    assert sandbox.watchmode(SOURCES, regions="DE").status == 400

    sandbox.set("watchmode", regions=["US"])

    assert sandbox.watchmode(SOURCES, regions="TR").status == 400


def test_regions_show_which_ones_are_enabled(sandbox: Client) -> None:
    rows = {row["country"]: row for row in sandbox.watchmode("/regions").json}

    assert rows["TR"]["plan_enabled"] is True
    assert rows["DE"]["plan_enabled"] is False


@pytest.mark.parametrize(
    ("path", "query", "credits_"),
    [
        ("/search/", {"search_field": "imdb_id", "search_value": "tt0109707"}, 1),
        ("/title/1114888/sources/", {}, 1),
        ("/title/tt0109707/sources/", {}, 2),
        ("/title/movie-522/sources/", {}, 2),
        ("/regions/", {}, 1),
        ("/status/", {}, 0),
    ],
)
def test_credits_are_counted(
    sandbox: Client, path: str, query: dict[str, str], credits_: int
) -> None:
    answer = sandbox.watchmode(path, **query)

    assert answer.headers["X-Account-Quota-Used"] == str(credits_)
    assert sandbox.watchmode("/status/").json["quotaUsed"] == credits_


@pytest.mark.parametrize("status", [401, 402, 429])
def test_the_headers_show_an_exhausted_quota(sandbox: Client, status: int) -> None:
    sandbox.set("watchmode", quota=10, quota_used=10, quota_status=status)

    answer = sandbox.watchmode(SOURCES, regions="TR")

    assert answer.status == status
    assert answer.headers["X-Account-Quota"] == answer.headers["X-Account-Quota-Used"] == "10"


@pytest.mark.parametrize("headers", [None, {"X-API-Key": "wrong"}])
def test_the_key_is_required(sandbox: Client, headers: dict[str, str] | None) -> None:
    answer = sandbox.get("/watchmode/v1/regions/", headers)

    assert answer.status == 401
    assert answer.json["statusCode"] == 401
    assert "X-Account-Quota" in answer.headers


def test_a_key_in_the_query_is_refused_unless_enabled(sandbox: Client) -> None:
    path = f"/watchmode/v1/regions/?apiKey={WATCHMODE['X-API-Key']}"
    assert sandbox.get(path).status == 401

    sandbox.set("watchmode", query_key_accepted=True)

    assert sandbox.get(path).status == 200


def test_several_regions_are_answered_in_one_call(sandbox: Client) -> None:
    sandbox.set("watchmode", regions=["TR", "DE", "FR"])

    rows = sandbox.watchmode("/title/tt0211915/sources/", regions="TR,DE").json

    assert {row["region"] for row in rows} == {"TR", "DE"}


def test_one_region_that_is_not_enabled_refuses_the_whole_call_without_charge(
    sandbox: Client,
) -> None:
    answer = sandbox.watchmode(SOURCES, regions="TR,DE")

    assert answer.status == 400
    assert answer.headers["X-Account-Quota-Used"] == "0"


def test_a_search_can_return_rows_of_other_titles_before_the_match(sandbox: Client) -> None:
    sandbox.set("watchmode", unmatched_rows=True)

    rows = sandbox.watchmode("/search/", search_field="imdb_id", search_value="tt0109707").json[
        "title_results"
    ]

    assert [row["imdb_id"] for row in rows] == [None, "tt9999001", "tt0109707"]
