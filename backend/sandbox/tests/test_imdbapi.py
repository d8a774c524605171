import pytest

from sandbox.tests.client import Client


def ids(titles: list[dict[str, str]]) -> list[str]:
    return [title["id"] for title in titles]


def test_a_film_has_camel_case_type_and_seconds(sandbox: Client) -> None:
    film = sandbox.get("/imdbapi/titles/tt1375666").json

    assert film["type"] == "movie"
    assert film["primaryTitle"] == "Inception"
    assert film["runtimeSeconds"] == 148 * 60
    assert film["spokenLanguages"][0] == {"code": "eng", "name": "English"}


def test_zero_values_are_left_out(sandbox: Client) -> None:
    film = sandbox.get("/imdbapi/titles/tt0114709").json

    assert "isAdult" not in film
    assert "endYear" not in film
    assert {"id": "in0000024", "name": "Urban Adventure", "isSubgenre": True} in film["interests"]
    assert all(row["isSubgenre"] for row in film["interests"] if "isSubgenre" in row)
    assert any("isSubgenre" not in row for row in film["interests"])


def test_an_announced_title_has_neither_year_nor_image(sandbox: Client) -> None:
    film = sandbox.get("/imdbapi/titles/tt9999998").json

    assert film == {
        "id": "tt9999998",
        "type": "tvSeries",
        "primaryTitle": "An Announced Show",
        "originalTitle": "An Announced Show",
    }


def test_only_an_ended_series_has_an_end_year(sandbox: Client) -> None:
    assert sandbox.get("/imdbapi/titles/tt0903747").json["endYear"] == 2013
    assert "endYear" not in sandbox.get("/imdbapi/titles/tt0096697").json


@pytest.mark.parametrize(
    ("query", "best"),
    [
        ("inception", "tt1375666"),
        ("MATRIX", "tt0133093"),
        ("the matrix reloaded", "tt0234215"),
        ("shawshank redemption", "tt0111161"),
        ("Kış Uykusu", "tt2758880"),
        ("kis uykusu", "tt2758880"),
        ("eşkıya", "tt0116231"),
        ("千と千尋", "tt0245429"),
        ("기생충", "tt6751668"),
        ("сталкер", "tt0079944"),
        ("كفرناحوم", "tt8267604"),
    ],
)
def test_the_best_match_comes_first(sandbox: Client, query: str, best: str) -> None:
    titles = sandbox.get("/imdbapi/search/titles", query=query, limit=5).json["titles"]

    assert titles[0]["id"] == best


def test_search_results_are_stubs(sandbox: Client) -> None:
    (hit,) = sandbox.get("/imdbapi/search/titles", query="interstellar").json["titles"]

    assert "plot" not in hit
    assert "directors" not in hit


def test_search_respects_the_limit(sandbox: Client) -> None:
    assert len(sandbox.get("/imdbapi/search/titles", query="the", limit=3).json["titles"]) == 3


def test_an_empty_result_is_an_empty_object_or_an_empty_list_by_setting(sandbox: Client) -> None:
    assert sandbox.get("/imdbapi/search/titles", query="xyzzy").json == {}
    assert sandbox.get("/imdbapi/titles/tt9999998/credits").json == {}

    sandbox.set("imdbapi", empty_as_object=False)

    assert sandbox.get("/imdbapi/search/titles", query="xyzzy").json == {"titles": []}
    assert sandbox.get("/imdbapi/titles/tt9999998/credits").json == {"credits": []}


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/imdbapi/titles/tt7654321", 404, 5),
        ("/imdbapi/titles/tt7654321/images", 404, 5),
        ("/imdbapi/titles/nonsense", 400, 3),
        ("/imdbapi/titles/tt123", 400, 3),
        ("/imdbapi/search/titles", 400, 3),
        ("/imdbapi/search/titles?query=a&limit=51", 400, 3),
        ("/imdbapi/titles/tt1375666/credits?pageSize=51", 400, 3),
        ("/imdbapi/titles/tt1375666/credits?pageSize=-1", 400, 3),
        ("/imdbapi/titles/tt1375666/credits?pageSize=x", 400, 3),
        ("/imdbapi/titles/tt1375666/credits?pageToken=bogus", 400, 3),
        ("/imdbapi/search?query=a", 404, 5),
        ("/imdbapi/", 404, 5),
    ],
)
def test_errors_contain_the_grpc_code(sandbox: Client, path: str, status: int, code: int) -> None:
    answer = sandbox.get(path)

    assert answer.status == status
    assert answer.json["code"] == code
    assert answer.json["message"]


def test_messages_and_statuses_that_are_not_recorded_are_settings(sandbox: Client) -> None:
    sandbox.set("imdbapi", malformed_id_status=404, not_found_message="no such title")

    assert sandbox.get("/imdbapi/titles/nonsense").status == 404
    assert sandbox.get("/imdbapi/titles/tt7654321").json["message"] == "no such title"


def test_a_page_has_twenty_rows_by_default(sandbox: Client) -> None:
    page = sandbox.get("/imdbapi/titles/tt4154796/credits").json

    assert len(page["credits"]) == 20
    assert page["totalCount"] > 100


def test_following_the_tokens_returns_every_row_once(sandbox: Client) -> None:
    rows, token, pages = [], "", 0
    while token or not pages:
        query = {"pageSize": 50, "pageToken": token}
        page = sandbox.get("/imdbapi/titles/tt4154796/images", None, **query).json
        rows += [row["url"] for row in page["images"]]
        token, pages = page.get("nextPageToken", ""), pages + 1

    assert pages == 5
    assert len(rows) == len(set(rows)) == page["totalCount"] == 205


def test_a_token_is_valid_only_for_its_own_query(sandbox: Client) -> None:
    token = sandbox.get("/imdbapi/titles/tt1375666/images").json["nextPageToken"]

    answer = sandbox.get("/imdbapi/titles/tt4154796/images", pageToken=token)

    assert answer.status == 400


def test_sections_can_be_filtered(sandbox: Client) -> None:
    path = "/imdbapi/titles/tt1375666"
    images = sandbox.get(f"{path}/images", types=["poster", "event"], pageSize=50).json
    credits_ = sandbox.get(f"{path}/credits", categories=["director"]).json

    assert {row["type"] for row in images["images"]} == {"poster", "event"}
    assert images["totalCount"] == 17
    assert [row["name"]["displayName"] for row in credits_["credits"]] == ["Christopher Nolan"]


def test_categories_cast_works_only_if_enabled(sandbox: Client) -> None:
    path = "/imdbapi/titles/tt1375666/credits"
    assert sandbox.get(path, categories="cast").json == {}

    sandbox.set("imdbapi", cast_filter=True)

    first = sandbox.get(path, categories="CAST", pageSize=5).json
    token = first["nextPageToken"]
    second = sandbox.get(path, categories="CAST", pageSize=5, pageToken=token).json
    assert first["totalCount"] == len(first["credits"]) + len(second["credits"]) == 9


def test_crew_has_no_characters(sandbox: Client) -> None:
    rows = sandbox.get("/imdbapi/titles/tt1375666/credits", pageSize=50).json["credits"]

    assert rows[0]["characters"] == ["Cobb"]
    assert all("characters" not in row for row in rows if row["category"] == "director")


def test_videos_have_no_url(sandbox: Client) -> None:
    video = sandbox.get("/imdbapi/titles/tt1375666/videos").json["videos"][0]

    assert video["id"].startswith("vi")
    assert "url" not in video


def test_release_dates_may_be_partial_and_are_not_counted(sandbox: Client) -> None:
    page = sandbox.get("/imdbapi/titles/tt1375666/releaseDates").json
    dates = [row["releaseDate"] for row in page["releaseDates"]]

    assert {"year": 2011} in dates
    assert {"year": 2020, "month": 8} in dates
    assert {"year": 2010, "month": 7, "day": 16} in dates
    assert "totalCount" not in page


def test_certificates_of_one_country_differ_by_attributes(sandbox: Client) -> None:
    page = sandbox.get("/imdbapi/titles/tt1375666/certificates").json
    turkish = [row for row in page["certificates"] if row["country"]["code"] == "TR"]

    assert [row["rating"] for row in turkish] == ["13+", "13A"]
    assert turkish[1]["attributes"] == ["re-rating"]
    assert page["totalCount"] == len(page["certificates"])


def test_a_parents_guide_category_may_lack_votes(sandbox: Client) -> None:
    guide = sandbox.get("/imdbapi/titles/tt0133093/parentsGuide").json["parentsGuide"]
    by_category = {row["category"]: row for row in guide}

    assert by_category["PROFANITY"] == {"category": "PROFANITY"}
    levels = [row["severityLevel"] for row in by_category["VIOLENCE"]["severityBreakdowns"]]
    assert levels == ["none", "mild", "moderate", "severe"]
    assert by_category["VIOLENCE"]["reviews"][1]["isSpoiler"] is True
    assert "isSpoiler" not in by_category["VIOLENCE"]["reviews"][0]


def test_the_leaky_bucket_overflows(sandbox: Client) -> None:
    sandbox.set("imdbapi", bucket={"capacity": 3, "per": 60}, retry_after="7")

    answers = [sandbox.get("/imdbapi/titles/tt1375666") for _ in range(4)]

    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    assert answers[-1].json == {"code": 8, "message": "Too many network requests"}
    assert answers[-1].headers["Retry-After"] == "7"


def test_all_sections_of_inception_have_rows(sandbox: Client) -> None:
    for section in (
        "credits",
        "images",
        "videos",
        "releaseDates",
        "certificates",
        "parentsGuide",
    ):
        assert sandbox.get(f"/imdbapi/titles/tt1375666/{section}").json[section]


def test_only_get_is_allowed(sandbox: Client) -> None:
    assert sandbox.request("POST", "/imdbapi/titles/tt1375666", {}).status == 405


BATCH = "/imdbapi/titles:batchGet"


def test_a_batch_returns_full_titles(sandbox: Client) -> None:
    batch = sandbox.get(BATCH, titleIds=["tt0133093", "tt1375666"]).json

    assert sorted(ids(batch["titles"])) == ["tt0133093", "tt1375666"]
    assert sandbox.get("/imdbapi/titles/tt1375666").json in batch["titles"]


def test_a_batch_is_not_in_the_order_of_the_request(sandbox: Client) -> None:
    forwards = sandbox.get(BATCH, titleIds=["tt0133093", "tt1375666"]).json
    backwards = sandbox.get(BATCH, titleIds=["tt1375666", "tt0133093"]).json

    assert ids(forwards["titles"]) == ids(backwards["titles"])


def test_a_batch_leaves_unknown_ids_out(sandbox: Client) -> None:
    batch = sandbox.get(BATCH, titleIds=["tt7654321", "tt1375666"]).json

    assert ids(batch["titles"]) == ["tt1375666"]
    assert sandbox.get(BATCH, titleIds=["tt7654321"]).json == {}


@pytest.mark.parametrize("status", [400, 404])
def test_a_batch_with_an_unknown_id_can_be_an_error(sandbox: Client, status: int) -> None:
    sandbox.set("imdbapi", batch_unknown_status=status)

    assert sandbox.get(BATCH, titleIds=["tt7654321", "tt1375666"]).status == status
    assert sandbox.get(BATCH, titleIds=["tt0133093", "tt1375666"]).status == 200


@pytest.mark.parametrize(
    "asked", [[], [f"tt000000{number}" for number in range(6)], ["tt1375666", "nonsense"]]
)
def test_a_batch_of_no_id_of_six_ids_or_of_a_malformed_id_is_refused(
    sandbox: Client, asked: list[str]
) -> None:
    answer = sandbox.get(BATCH, titleIds=asked)

    assert answer.status == 400
    assert answer.json["code"] == 3


@pytest.mark.parametrize("padded", ["tt001375666", "tt00000001375666"])
def test_a_padded_id_returns_the_canonical_id(sandbox: Client, padded: str) -> None:
    section = "/images?pageSize=1"

    assert sandbox.get(f"/imdbapi/titles/{padded}").json["id"] == "tt1375666"
    assert ids(sandbox.get(BATCH, titleIds=[padded, "tt1375666"]).json["titles"]) == ["tt1375666"]
    assert (
        sandbox.get(f"/imdbapi/titles/{padded}{section}").json
        == sandbox.get(f"/imdbapi/titles/tt1375666{section}").json
    )


@pytest.mark.parametrize("section", ["credits", "images", "videos", "releaseDates"])
def test_a_film_has_a_second_page_of_each_paged_section(sandbox: Client, section: str) -> None:
    path = f"/imdbapi/titles/tt0120737/{section}"
    first = sandbox.get(path, pageSize=50).json
    second = sandbox.get(path, pageSize=50, pageToken=first["nextPageToken"]).json

    assert len(first[section]) == 50
    assert second[section]
    assert [row for row in second[section] if row in first[section]] == []
    assert sandbox.get(path, pageSize=50, pageToken=first["nextPageToken"] + "x").status == 400
