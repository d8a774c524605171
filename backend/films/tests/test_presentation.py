"""What clients can ask for beyond the whole film: fields, images of a width, offers, a country."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidInput
from films.payload import KEYS, SECTION_NAMES, render
from films.presentation import (
    cut,
    grouped_offers,
    parse_country,
    parse_fields,
    parse_image_width,
    preferred_certificate,
    preferred_release,
    select,
    with_image_width,
)
from films.tests.fakes import film_payload, payload_of, warning


class TestFields:
    def selected(self, fields, **keys):
        return json.loads(select(payload_of(**keys), parse_fields(fields)))

    def test_whole_keys_are_in_the_order_of_the_film_with_id_and_warnings(self):
        assert list(self.selected("trailer,title")) == ["imdb_id", "title", "trailer", "warnings"]

    def test_of_a_section_only_the_chosen_keys_are_left_that_it_has(self):
        metadata = {"id": "tt1375666", "primaryTitle": "Inception", "rating": 8.8}

        chosen = self.selected("metadata.rating,metadata.id,metadata.other", metadata=metadata)

        assert chosen["metadata"] == {"rating": 8.8, "id": "tt1375666"}

    @pytest.mark.parametrize("fields", ["metadata,metadata.id", "metadata.id,metadata"])
    def test_a_whole_section_includes_its_keys(self, fields):
        assert self.selected(fields)["metadata"] == payload_of()["metadata"]

    def test_a_section_that_is_null_stays_null(self):
        assert self.selected("trailer.youtube_video_id", trailer=None)["trailer"] is None

    def test_warnings_are_those_of_the_chosen_sections_unless_they_are_chosen_themselves(self):
        both = [warning("credits"), warning("images")]

        assert self.selected("images", warnings=both)["warnings"] == [warning("images")]
        assert self.selected("warnings", warnings=both)["warnings"] == both

    @given(
        st.lists(
            st.sampled_from([*KEYS, "metadata.id", "metadata.primaryTitle", "trailer.x"]),
            min_size=1,
        ),
        st.text(st.characters(exclude_categories=["Cs"])),
        st.lists(st.sampled_from(SECTION_NAMES)),
    )
    def test_the_stored_bytes_give_the_same_answer(self, names, title, warned):
        selection = parse_fields(",".join(names))
        for trailer in (None, {"x": 1, "y": title}):
            warnings = [warning(name) for name in warned]
            film = film_payload(keys={"title": title, "trailer": trailer, "warnings": warnings})
            body = render(film)

            assert cut(body.plain, body.parts, selection) == select(film, selection)

    @pytest.mark.parametrize(
        "fields",
        [
            "",
            "title,",
            "other",
            "title.x",
            "streaming.name",
            "metadata.",
            "metadata.a.b",
            ",".join(["title"] * 200),
        ],
    )
    def test_other_fields_are_refused(self, fields):
        with pytest.raises(InvalidInput):
            parse_fields(fields)

    def test_every_key_can_be_chosen(self):
        assert self.selected(",".join(KEYS)) == payload_of()


class TestImageWidth:
    @pytest.mark.parametrize("width", [50, 2000])
    def test_it_is_a_number_from_50_to_2000(self, width):
        assert parse_image_width(str(width)) == width

    @pytest.mark.parametrize("text", ["49", "2001", "", "-50", "5e2", "٥٠٠", "00500"])
    def test_any_other_is_refused(self, text):
        with pytest.raises(InvalidInput):
            parse_image_width(text)

    @pytest.mark.parametrize(
        "url",
        ["https://m.media-amazon.com/images/M/x._V1_", "http://ia.media-imdb.com/images/x._V1_"],
    )
    def test_addresses_of_the_image_server_of_imdb_get_the_width(self, url):
        body = b'{"a":"%b.jpg","b":"%b_QL75_UX380_CR0,1,380,562_.jpg"}' % ((url.encode(),) * 2)

        widened = json.loads(with_image_width(body, 300))

        assert widened == {"a": f"{url}UX300_.jpg", "b": f"{url}UX300_.jpg"}

    def test_other_addresses_stay(self):
        body = (
            b'{"a":"https://images.test/images/x._V1_.jpg","b":"https://m.media-amazon.com/x.jpg"}'
        )

        assert with_image_width(body, 300) == body


def offer(**fields):
    return {"source_id": 1, "name": "Store", "region": "TR", "type": "buy", **fields}


class TestGroupedOffers:
    def test_the_formats_and_prices_of_a_service_are_one_entry_from_low_to_high_quality(self):
        rows = [
            offer(format="4K", price=9.99),
            offer(format="SD", price=4.99),
            offer(format="8K", price=None),
            offer(format="SD", price=3.99),
        ]

        (entry,) = grouped_offers(rows, ["TR"])["TR"]["buy"]

        assert entry["formats"] == ["SD", "4K", "8K"]
        assert entry["prices"] == [
            {"format": "SD", "price": 4.99, "currency": "TRY"},
            {"format": "SD", "price": 3.99, "currency": "TRY"},
            {"format": "4K", "price": 9.99, "currency": "TRY"},
        ]

    def test_services_are_grouped_by_region_and_type_in_their_order(self):
        rows = [
            offer(source_id=2, region="US"),
            offer(source_id=1, region="US"),
            offer(source_id=2, type="sub"),
        ]

        grouped = grouped_offers(rows, ["TR", "US"])

        assert list(grouped) == ["TR", "US"]
        assert list(grouped["TR"]) == ["sub", "free", "tve", "rent", "buy"]
        assert [each["source_id"] for each in grouped["US"]["buy"]] == [2, 1]
        assert [each["source_id"] for each in grouped["TR"]["sub"]] == [2]
        assert grouped["TR"]["buy"] == []

    def test_the_first_usable_address_of_each_kind_is_kept(self):
        rows = [
            offer(web_url=None, ios_url="Deeplinks available for paid plans only."),
            offer(web_url="https://a.test", ios_url="store://1", android_url="store://2"),
            offer(web_url="https://b.test", ios_url="store://3", android_url=None),
        ]

        (entry,) = grouped_offers(rows, ["TR"])["TR"]["buy"]

        addresses = entry["web_url"], entry["ios_url"], entry["android_url"]
        assert addresses == ("https://a.test", "store://1", "store://2")

    @pytest.mark.parametrize(
        "fields", [{"region": "DE"}, {"type": "other"}, {"source_id": None}, {"region": None}]
    )
    def test_offers_of_other_regions_and_types_and_without_service_are_left_out(self, fields):
        grouped = grouped_offers([offer(**fields)], ["TR"])

        assert not any(grouped["TR"].values())

    def test_a_region_without_currency_has_none(self):
        (entry,) = grouped_offers([offer(region="ZZ", price=1)], ["ZZ"])["ZZ"]["buy"]

        assert entry["prices"] == [{"format": None, "price": 1, "currency": None}]


def release(*attributes, country="TR", **date):
    return {"country": {"code": country}, "releaseDate": date, "attributes": list(attributes)}


DAY = {"year": 2010, "month": 7, "day": 16}


class TestCountry:
    @pytest.mark.parametrize("text", ["", "tr", "TUR", "T1", "TR\n"])
    def test_it_is_two_capital_letters(self, text):
        with pytest.raises(InvalidInput):
            parse_country(text)
        assert parse_country("TR") == "TR"

    def test_the_certificate_is_the_first_without_attributes_else_the_first(self):
        cut, plain, later = (
            {"rating": rating, "country": {"code": "TR"}, "attributes": attributes}
            for rating, attributes in (("18", ["cut"]), ("13", []), ("15", []))
        )
        foreign = {"rating": "PG", "country": {"code": "US"}}

        for rows, found in (([foreign, cut, plain, later], plain), ([cut], cut), ([foreign], None)):
            assert preferred_certificate({"certificates": rows}, "TR") == found

    @pytest.mark.parametrize(
        ("rows", "found"),
        [
            ([release(**DAY | {"year": 2011}), release(**DAY)], 1),
            ([release("Filmfest festival", **DAY), release(**DAY | {"year": 2011})], 1),
            ([release("internet", **DAY), release("re-release", **DAY | {"year": 2009})], 0),
            ([release(year=2010), release(**DAY | {"year": 2011})], 1),
            ([release(year=2010), release(year=2010, month=12)], 1),
            ([release(country="US", **DAY)], None),
            ([], None),
        ],
        ids=["first day", "no festival", "no re-release", "a day", "a month", "other", "none"],
    )
    def test_the_release_is_the_first_day_in_cinemas(self, rows, found):
        expected = None if found is None else rows[found]

        assert preferred_release({"releaseDates": rows}, "TR") == expected
