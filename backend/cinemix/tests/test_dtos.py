import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cinemix.dtos import MovieDetails, MovieResult

LOST = {
    "Title": "Lost",
    "Year": "2004–2010",
    "Rated": "TV-14",
    "Released": "22 Sep 2004",
    "Runtime": "44 min",
    "Genre": "Adventure, Drama, Fantasy",
    "Director": "N/A",
    "Writer": "J.J. Abrams, Jeffrey Lieber, Damon Lindelof",
    "Actors": "Naveen Andrews, Matthew Fox",
    "Plot": "Survivors of a crash share an island.",
    "Language": "English, Korean",
    "Country": "USA",
    "Awards": "N/A",
    "Poster": "N/A",
    "Ratings": [{"Source": "Internet Movie Database", "Value": "8.4/10"}],
    "Metascore": "N/A",
    "imdbRating": "8.4",
    "imdbVotes": "370,927",
    "imdbID": "tt0411008",
    "Type": "series",
    "totalSeasons": "6",
    "Response": "True",
}


def test_omdb_fields_are_renamed_and_unknown_values_become_null():
    assert MovieDetails.from_omdb(LOST).model_dump() == {
        "id": "tt0411008",
        "title": "Lost",
        "year": "2004–2010",
        "type": "series",
        "runtime": "44 min",
        "genre": "Adventure, Drama, Fantasy",
        "director": None,
        "writer": "J.J. Abrams, Jeffrey Lieber, Damon Lindelof",
        "actors": "Naveen Andrews, Matthew Fox",
        "plot": "Survivors of a crash share an island.",
        "country": "USA",
        "poster": None,
        "imdb_rating": "8.4",
        "total_seasons": "6",
    }


def test_absent_fields_are_null():
    movie = MovieDetails.from_omdb({"Title": "x", "imdbID": "tt1"})

    assert {name for name, value in movie if value is not None} == {"id", "title"}


@pytest.mark.parametrize("value", ["N/A", "n/a", " N/A ", "", " ", None, [], {}, True])
def test_values_without_information_are_null(value):
    assert MovieDetails.from_omdb(LOST | {"Plot": value}).plot is None


def test_a_number_becomes_text():
    assert MovieDetails.from_omdb(LOST | {"imdbRating": 8.4, "Title": 1917}).imdb_rating == "8.4"


@pytest.mark.parametrize(
    "poster",
    [
        "javascript:alert(1)",
        "data:x",
        "//host/x",
        "http://[::1",
        5,
        "https://u:p@h/x",
        "https://h/a b",
    ],
)
def test_a_poster_that_is_not_a_web_url_is_null(poster):
    assert MovieDetails.from_omdb(LOST | {"Poster": poster}).poster is None


@pytest.mark.parametrize(
    "odd",
    [
        {"Title": "N/A"},
        {"Title": None},
        {"imdbID": "N/A"},
        {"imdbID": None},
        {"imdbID": 411008},
        {"imdbID": "tt１"},
        {"imdbID": "tt1\n"},
    ],
)
def test_a_movie_without_a_valid_id_and_title_is_refused(odd):
    with pytest.raises(ValidationError):
        MovieDetails.from_omdb(LOST | odd)


def test_dto_names_in_an_omdb_answer_are_ignored():
    assert MovieDetails.from_omdb(LOST | {"plot": "ours"}).plot == LOST["Plot"]


def test_a_search_result_has_five_fields():
    assert MovieResult.from_omdb(LOST).model_dump() == {
        "id": "tt0411008",
        "title": "Lost",
        "year": "2004–2010",
        "type": "series",
        "poster": None,
    }


ODD_VALUES = st.text(max_size=8) | st.sampled_from([None, True, 7, 8.5, [], ["x"], {}, "\0", "N/A"])


@given(
    st.fixed_dictionaries(
        {}, optional={name: ODD_VALUES for name in LOST if name not in {"Title", "imdbID"}}
    )
)
def test_any_movie_survives_the_cached_form(odd):
    movie = MovieDetails.from_omdb({"Title": "x", "imdbID": "tt1", **odd})

    read = MovieDetails.model_validate_json(movie.model_dump_json(), by_name=True, by_alias=False)

    assert read == movie
