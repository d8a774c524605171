"""Read a film with the Python client that was generated from docs/openapi.yaml.

Usage: read_film.py BASE_URL, with the folder of the client on PYTHONPATH.
"""

import sys

from filmosphere_client import Client
from filmosphere_client.api.cinemix import get_movie
from filmosphere_client.api.films import (
    get_film,
    get_film_streaming,
    get_film_trailer,
    get_films,
    search_films,
)
from filmosphere_client.models import (
    Error,
    FilmDetail,
    FilmOffers,
    FilmStreaming,
    GetFilmStreamingView,
)

client = Client(base_url=sys.argv[1])

found = search_films.sync(client=client, q="inception")
film = get_film.sync(found.results[0].imdb_id, client=client)
assert isinstance(film, FilmDetail)
assert film.title == film.metadata.primary_title == "Inception"
assert film.metadata.rating.aggregate_rating > 8
assert [country.code for country in film.metadata.origin_countries] == ["US", "GB"]
assert film.credits_.credits_[0].name.display_name == "Leonardo DiCaprio"
assert film.credits_.total_count > len(film.credits_.credits_) == 50
assert film.trailer.youtube_video_id
assert isinstance(film.trailer.views, int)
assert film.streaming[0].price is None
assert film.warnings == []

# What a later version may send: a new warning code and a new key.
warning = {"section": "trailer", "source": "kinocheck", "code": "new_code", "message": "New."}
later = FilmDetail.from_dict({**film.to_dict(), "warnings": [warning], "new_key": 1})
assert later.warnings[0].code == "new_code"
assert later["new_key"] == 1

for title in ("tt0096697", "tt9999998", "tt0000417"):
    assert isinstance(get_film.sync(title, client=client), FilmDetail)
assert get_film_trailer.sync("tt0346094", client=client).trailer is None

rows = get_film_streaming.sync(film.imdb_id, client=client)
assert isinstance(rows, FilmStreaming)
grouped = get_film_streaming.sync(
    film.imdb_id, client=client, view=GetFilmStreamingView.GROUPED, region="TR"
)
assert isinstance(grouped, FilmOffers)
assert grouped.regions["TR"].sub[0].name == "Netflix"

batch = get_films.sync(client=client, ids="tt1375666,tt99999999999", fields="metadata.rating")
assert [item.status for item in batch.films] == [200, 404]
assert batch.films[0].film.metadata.rating.aggregate_rating > 8
assert batch.films[1].error.reason == "not_found"

unknown = get_film.sync_detailed("tt99999999999", client=client)
assert unknown.status_code == 404
assert isinstance(unknown.parsed, Error)
assert unknown.parsed.error_code == "404"

movie = get_movie.sync(client=client, id="tt0903747")
assert movie.data.title == "Breaking Bad"
assert movie.data.director is None
sys.stdout.write(f"{film.title}: {len(film.streaming)} offers\n")
