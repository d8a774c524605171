import json
import re

import pytest

from sandbox.tests.client import Client


def test_all_values_of_a_film_are_strings(sandbox: Client) -> None:
    answer = sandbox.omdb(i="tt1375666")
    film = answer.json

    assert film["imdbVotes"] == "2,612,345"
    assert film["Runtime"] == "148 min"
    assert film["Released"] == "16 Jul 2010"
    assert film["Website"] == "N/A"
    assert list(film)[-1] == "Response"
    assert film["Response"] == "True"
    assert all(isinstance(value, str) for key, value in film.items() if key != "Ratings")
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"


def test_ratings_have_three_scales(sandbox: Client) -> None:
    assert sandbox.omdb(i="tt1375666").json["Ratings"] == [
        {"Source": "Internet Movie Database", "Value": "8.8/10"},
        {"Source": "Rotten Tomatoes", "Value": "87%"},
        {"Source": "Metacritic", "Value": "74/100"},
    ]


@pytest.mark.parametrize(
    ("imdb_id", "years"),
    [("tt0411008", "2004–2010"), ("tt0096697", "1989–"), ("tt7366338", "2019")],
)
def test_years_of_series_have_an_en_dash(sandbox: Client, imdb_id: str, years: str) -> None:
    assert sandbox.omdb(i=imdb_id).json["Year"] == years


def test_series_and_films_have_different_fields(sandbox: Client) -> None:
    series = sandbox.omdb(i="tt0411008").json

    assert series["totalSeasons"] == "6"
    assert "BoxOffice" not in series
    assert "totalSeasons" not in sandbox.omdb(i="tt1375666").json


def test_an_episode_refers_to_its_series(sandbox: Client) -> None:
    episode = sandbox.omdb(i="tt2301451").json

    assert (episode["Season"], episode["Episode"]) == ("5", "14")
    assert episode["seriesID"] == "tt0903747"


def test_the_full_plot_can_be_requested(sandbox: Client) -> None:
    short, full = (sandbox.omdb(i="tt1375666", plot=plot).json for plot in ("short", "full"))

    assert len(full["Plot"]) > len(short["Plot"])


def test_a_title_is_found_by_name_type_and_year(sandbox: Client) -> None:
    assert sandbox.omdb(t="the godfather").json["imdbID"] == "tt0068646"
    assert sandbox.omdb(t="the godfather", y="1974").json["imdbID"] == "tt0071562"
    assert sandbox.omdb(t="lost", type="series").json["imdbID"] == "tt0411008"


def test_search_has_ten_rows_a_page_and_a_string_total(sandbox: Client) -> None:
    first, second = (sandbox.omdb(s="the", page=page).json for page in ("1", "2"))

    assert len(first["Search"]) == 10
    assert len(first["Search"]) + len(second["Search"]) == int(first["totalResults"])
    assert set(first["Search"][0]) == {"Title", "Year", "imdbID", "Type", "Poster"}


def test_search_finds_original_titles(sandbox: Client) -> None:
    assert sandbox.omdb(s="七人の侍").json["Search"][0]["imdbID"] == "tt0047478"


def test_a_season_has_iso_dates(sandbox: Client) -> None:
    season = sandbox.omdb(i="tt0903747", Season="1").json

    assert len(season["Episodes"]) == 7
    assert season["Episodes"][0]["Released"] == "2008-01-20"


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ({"s": "xyzzy"}, "Movie not found!"),
        ({"s": "the", "page": "99"}, "Movie not found!"),
        ({"s": "the", "page": "101"}, "Movie not found!"),
        ({"t": "xyzzy"}, "Movie not found!"),
        ({"t": "xyzzy", "type": "series"}, "Series not found!"),
        ({"i": "tt7654321"}, "Incorrect IMDb ID."),
        ({"i": "nonsense"}, "Incorrect IMDb ID."),
        ({"i": "tt9999998"}, "Error getting data."),
        ({"s": "it"}, "Too many results."),
        ({"s": "i"}, "Must provide more than one character."),
        ({"s": "!!!"}, "Object reference not set to an instance of an object."),
        (
            {"s": 'bad "good'},
            "Syntax error near 'bad \"good' in the full-text search condition 'bad \"good'.",
        ),
        ({}, "Something went wrong."),
        ({"i": "tt0411008", "Season": "1"}, "Series or season not found!"),
    ],
)
def test_errors_have_status_200(sandbox: Client, query: dict[str, str], error: str) -> None:
    answer = sandbox.omdb(**query)

    assert answer.status == 200
    assert answer.json == {"Response": "False", "Error": error}


def test_a_page_past_the_end_can_be_empty(sandbox: Client) -> None:
    sandbox.set("omdb", past_end_empty=True)

    assert sandbox.omdb(s="the", page="99").json == {"Search": [], "Response": "True"}


def test_an_id_that_is_not_a_number_gives_invalid_json(sandbox: Client) -> None:
    body = sandbox.omdb(i="tt3896198a").body.decode()

    assert "Conversion from string \"3896198a\" to type 'Double' is not valid." in body
    with pytest.raises(json.JSONDecodeError):
        json.loads(body)


def test_one_plot_has_a_lone_backslash(sandbox: Client) -> None:
    body = sandbox.omdb(i="tt0079944").body.decode()

    assert "inner\\spiritual" in body
    with pytest.raises(json.JSONDecodeError):
        json.loads(body, strict=False)
    assert json.loads(re.sub(r'\\(?!["\\/bfnrtu])', "", body))["Title"] == "Stalker"


def test_one_plot_has_a_raw_tab(sandbox: Client) -> None:
    body = sandbox.omdb(i="tt0042876").body.decode()

    with pytest.raises(json.JSONDecodeError):
        json.loads(body)
    assert "\t" in json.loads(body, strict=False)["Plot"]


@pytest.mark.parametrize(
    ("key", "error"),
    [
        ("", "No API key provided."),
        ("?apikey=", "No API key provided."),
        ("?apikey=wrong", "Invalid API key!"),
    ],
)
def test_a_bad_key_is_401(sandbox: Client, key: str, error: str) -> None:
    answer = sandbox.get("/omdb/" + key)

    assert (answer.status, answer.json["Error"]) == (401, error)


@pytest.mark.parametrize("status", [401, 200])
def test_the_daily_limit_is_recognised_only_by_its_text(sandbox: Client, status: int) -> None:
    sandbox.set("omdb", daily_limit=1, quota_status=status)
    assert sandbox.omdb(i="tt1375666").json["Response"] == "True"

    answer = sandbox.omdb(i="tt1375666")

    assert answer.status == status
    assert answer.json == {"Response": "False", "Error": "Request limit reached!"}


def test_the_accepted_keys_are_a_setting(sandbox: Client) -> None:
    sandbox.set("omdb", keys=["0badcafe"])

    assert sandbox.get("/omdb/?i=tt1375666&apikey=0badcafe").status == 200
    assert sandbox.omdb(i="tt1375666").status == 401


@pytest.mark.parametrize("imdb_id", ["tt00042876", "tt42876", "tt0000042876"])
def test_padded_and_shortened_ids_return_the_canonical_id(sandbox: Client, imdb_id: str) -> None:
    assert b'"imdbID":"tt0042876"' in sandbox.omdb(i=imdb_id).body
