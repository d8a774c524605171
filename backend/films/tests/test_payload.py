"""The bytes of a payload, the places of its sections, and what is a payload at all."""

import gzip
import json
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from films.payload import (
    HEALING_CODES,
    KEYS,
    MAX_FILM_BYTES,
    PERMANENT_CODES,
    SECTION_NAMES,
    FilmPayload,
    RetryPolicy,
    SectionState,
    merge,
    parts_from_text,
    parts_to_text,
    render,
    repair_at,
    section_body,
)
from films.tests.fakes import INCEPTION, film_payload, payload_of, warning
from films.validation import is_valid

NOW = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(texts, values, max_size=4)
payloads = st.fixed_dictionaries(
    {
        "imdb_id": st.just(INCEPTION),
        "title": texts,
        "metadata": objects.map(lambda each: {**each, "id": INCEPTION, "primaryTitle": "x"}),
        **dict.fromkeys(SECTION_NAMES[1:7], objects),
        "trailer": st.none() | objects,
        "streaming": st.lists(objects, max_size=3),
        "warnings": st.lists(st.sampled_from(SECTION_NAMES).map(warning), unique_by=str),
    }
)


def reversed_keys(value):
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(list(value))}
    return [reversed_keys(each) for each in value] if isinstance(value, list) else value


class TestRender:
    @given(payloads)
    def test_the_body_has_the_twelve_keys_in_their_order(self, payload):
        rendered = render(FilmPayload(payload, cached_at=NOW))

        found = json.loads(rendered.plain)
        assert found == payload
        assert list(found) == list(KEYS)
        assert gzip.decompress(rendered.gzipped) == rendered.plain

    @given(payloads)
    def test_equal_payloads_have_equal_bytes_whatever_the_order_of_their_keys(self, payload):
        # A `jsonb` column has an order of its own.
        other = reversed_keys(payload)

        assert render(FilmPayload(payload, cached_at=NOW)) == render(
            FilmPayload(other, cached_at=NOW)
        )

    def test_payloads_that_differ_have_other_versions(self):
        one, other = (render(film_payload(keys={"title": title})) for title in ("One", "Other"))

        assert one.version != other.version

    @given(payloads)
    def test_each_section_is_found_in_the_body_without_parsing_it(self, payload):
        rendered = render(FilmPayload(payload, cached_at=NOW))

        for name in SECTION_NAMES:
            expected = {"imdb_id": INCEPTION, name: payload[name]}
            part = rendered.parts[name]
            body = section_body(INCEPTION, name, rendered.plain[part.start : part.end])
            assert json.loads(body) == expected
            assert list(json.loads(body)) == list(expected)

    def test_text_of_any_script_is_sent_as_it_is(self):
        body = render(film_payload(keys={"title": "İstanbul \N{FILM FRAMES} فيلم"})).plain

        assert "İstanbul \N{FILM FRAMES} فيلم".encode() in body


class TestParts:
    def payload(self) -> FilmPayload:
        states = {
            "images": SectionState(NOW - timedelta(hours=1)),
            "videos": SectionState(None, 3, NOW + timedelta(minutes=20)),
        }
        return film_payload(states=states, keys={"warnings": [warning("videos", "timeout")]})

    def test_they_have_the_code_and_the_state_of_each_section(self):
        parts = render(self.payload()).parts

        assert set(parts) == set(SECTION_NAMES)
        assert parts["images"].fetched_at == NOW.timestamp() - 3600
        assert (parts["images"].code, parts["images"].retry_at) == ("", None)
        assert (parts["videos"].code, parts["videos"].failures) == ("timeout", 3)
        assert parts["videos"].retry_at == NOW.timestamp() + 1200

    def test_they_are_stored_as_text(self):
        rendered = render(self.payload())
        text = parts_to_text(INCEPTION, rendered)

        found = parts_from_text(text, imdb_id=INCEPTION, version=rendered.version, now=NOW)

        assert found == rendered.parts

    @given(st.integers(min_value=0), texts.filter(bool), st.booleans())
    def test_text_that_was_changed_is_refused(self, place, change, is_inserted):
        rendered = render(self.payload())
        text = parts_to_text(INCEPTION, rendered)
        place %= len(text)
        end = place if is_inserted else place + len(change)
        changed = text[:place] + change + text[end:]

        if changed != text:
            with pytest.raises(ValueError, match="with this body"):
                parts_from_text(changed, imdb_id=INCEPTION, version=rendered.version, now=NOW)

    def test_the_parts_of_another_film_or_version_are_refused(self):
        rendered = render(self.payload())
        text = parts_to_text(INCEPTION, rendered)

        for imdb_id, version in (("tt0000001", rendered.version), (INCEPTION, "0" * 32)):
            with pytest.raises(ValueError, match="with this body"):
                parts_from_text(text, imdb_id=imdb_id, version=version, now=NOW)

    @pytest.mark.parametrize(
        ("ahead", "is_kept"),
        [(timedelta(), True), (timedelta(seconds=10), True), (timedelta(seconds=11), False)],
    )
    def test_times_from_a_clock_that_was_ahead_are_dropped(self, ahead, is_kept):
        state = SectionState(NOW + ahead, 1, NOW + timedelta(days=1) + ahead)
        rendered = render(film_payload(states={"images": state}))
        text = parts_to_text(INCEPTION, rendered)

        part = parts_from_text(text, imdb_id=INCEPTION, version=rendered.version, now=NOW)["images"]

        assert (part.fetched_at is not None) is is_kept
        assert (part.retry_at is not None) is is_kept
        assert part.failures == 1


class TestRepairAt:
    @pytest.mark.parametrize(
        ("warnings", "expected"),
        [
            ([], None),
            ([("", 5.0)], None),
            ([("timeout", 5.0)], 5.0),
            ([("timeout", None)], 0.0),
            ([("timeout", 5.0), ("stale", 3.0), ("", 1.0)], 3.0),
            ([("not_configured", 1.0), ("region_not_covered", None), ("rejected", 9.0)], 9.0),
        ],
    )
    def test_it_is_the_first_retry_of_a_section_that_a_fetch_may_repair(self, warnings, expected):
        assert repair_at(warnings) == expected

    def test_a_payload_gives_the_same_as_its_parts(self):
        codes = [*HEALING_CODES, *PERMANENT_CODES]
        warnings = [warning(name, code) for name, code in zip(SECTION_NAMES, codes, strict=False)]
        states = {"images": SectionState(None, 1, NOW), "videos": SectionState(None, 2, NOW)}
        payload = film_payload(states=states, keys={"warnings": warnings})

        parts = render(payload).parts.values()

        assert sorted(payload.retries(), key=str) == sorted(
            ((part.code, part.retry_at) for part in parts if part.code), key=str
        )


class TestIsValid:
    @given(payloads)
    def test_what_a_fetch_makes_is_valid(self, payload):
        assert is_valid(INCEPTION, payload)

    @pytest.mark.parametrize("key", KEYS)
    def test_a_payload_that_lacks_a_key_is_not(self, key):
        payload = payload_of()
        del payload[key]

        assert not is_valid(INCEPTION, payload)

    @pytest.mark.parametrize(
        "changes",
        [
            {"another": 1},
            {"imdb_id": "tt0000001"},
            {"imdb_id": None},
            {"title": None},
            {"metadata": []},
            {"metadata": {}},
            {"metadata": {"id": INCEPTION, "primaryTitle": None}},
            {"metadata": {"id": INCEPTION}},
            {"metadata": {"primaryTitle": "Inception"}},
            {"metadata": {"id": "tt0000001", "primaryTitle": "Inception"}},
            {"metadata": {"id": INCEPTION, "primaryTitle": "Inception", "startYear": "x"}},
            {"certificates": {"certificates": [1]}},
            {"credits": None},
            {"images": "x"},
            {"videos": [1]},
            {"trailer": []},
            {"trailer": "x"},
            {"streaming": None},
            {"streaming": {}},
            {"streaming": ["Netflix"]},
            {"warnings": "x"},
            {"warnings": {}},
            {"warnings": [1]},
            {"warnings": [{}]},
            {"warnings": [{**warning("images"), "code": None}]},
            {"warnings": [{**warning("images"), "more": "x"}]},
            {"warnings": [warning("plot")]},
            {"warnings": [{**warning("images"), "section": []}]},
        ],
    )
    def test_a_payload_with_a_value_of_the_wrong_type_is_not(self, changes):
        assert not is_valid(INCEPTION, payload_of(**changes))

    @pytest.mark.parametrize("value", [None, [], "x", 5, {}, [payload_of()]])
    def test_any_other_value_is_not(self, value):
        assert not is_valid(INCEPTION, value)


class TestFilmThatIsTooLarge:
    @pytest.fixture
    def outcomes(self):
        film = film_payload()
        outcomes = {name: film[name] for name in SECTION_NAMES}
        outcomes["images"] = {"images": ["x" * 1_200_000]}
        outcomes["credits"] = {"credits": ["x" * 900_000]}
        return outcomes

    def merged(self, outcomes, last=None):
        retry = RetryPolicy(first=timedelta(minutes=5))
        return merge(INCEPTION, outcomes, last, now=NOW, retry=retry)

    def test_its_largest_section_becomes_a_warning_and_the_others_stay(self, outcomes, caplog):
        film = self.merged(outcomes)

        assert film["images"] == {}
        assert film["credits"] == outcomes["credits"]
        assert film.warning_codes == {"images": "bad_response"}
        assert len(render(film).plain) <= MAX_FILM_BYTES
        assert [record.outcome for record in caplog.records] == ["film_too_large"]

    def test_an_older_section_that_fits_is_kept(self, outcomes):
        last = self.merged({**outcomes, "images": {"images": ["small"]}})

        film = self.merged(outcomes, last)

        assert film["images"] == {"images": ["small"]}
        assert film.warning_codes == {"images": "stale"}

    def test_a_film_of_that_size_is_whole(self, outcomes):
        outcomes["images"] = {"images": ["x" * 1_000_000]}

        assert self.merged(outcomes)["warnings"] == []
