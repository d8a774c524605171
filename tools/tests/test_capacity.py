"""The simulation behind docs/operations/scaling.md, and the numbers in that document."""

import math
import re

import pytest

from tools.capacity import DAY, HOUR, Scenario, films_kept_fresh, held_in_memory, main, simulate
from tools.capacity_check import DAYS, SCARCE, predicted
from tools.harness.server import PROJECT

DOCUMENT = (PROJECT / "docs" / "operations" / "scaling.md").read_text()
RUNS = re.findall(
    r'```sh\nmake capacity(?: ARGS="([^"\n]*)")?\n```\n\n```text\n(.*?)```', DOCUMENT, re.DOTALL
)
UNLIMITED = Scenario(films=1, requests=10 / DAY, imdb_rate="", kino=0, watchmode=0, warm_up=0)


def test_the_document_has_runs_and_figures():
    assert len(RUNS) >= 3
    for name in re.findall(r"\((capacity-.*\.svg)\)", DOCUMENT):
        assert (PROJECT / "docs" / "operations" / name).is_file()


@pytest.mark.parametrize(("arguments", "shown"), RUNS)
def test_the_numbers_of_the_document_are_those_that_the_program_prints(capsys, arguments, shown):
    main(arguments.split())

    assert capsys.readouterr().out == shown


@pytest.mark.parametrize(("words", "scenario"), [("six days", DAYS), ("scarce calls", SCARCE)])
def test_the_predictions_that_were_compared_with_a_service_are_in_the_document(words, scenario):
    for name, figure in predicted(scenario).items():
        assert f"| {words}: {name} | {figure:.2f} |" in DOCUMENT


def test_a_film_that_is_seldom_read_is_fetched_by_each_reader():
    result = simulate(Scenario(**{**vars(UNLIMITED), "requests": 0.01 / DAY, "days": 100_000}))

    assert result.misses == result.fetches == pytest.approx(1000, rel=0.1)
    assert result.hits / result.requests == pytest.approx(0.01, rel=0.2)


def test_a_film_that_is_often_read_is_fetched_in_the_background_ahead_of_expiry():
    result = simulate(Scenario(**{**vars(UNLIMITED), "requests": 1000 / DAY, "days": 100}))

    assert result.misses == 1
    # Between 0.8 and 1.0 of its time to live.
    assert 100 <= result.fetches <= 127
    assert result.calls == {
        "imdbapi": 7 * result.fetches,
        "kinocheck": result.fetches,
        # Its number is looked up again after 30 days.
        "watchmode": result.fetches + 4,
    }


def test_a_section_with_a_lifetime_is_not_fetched_with_each_renewal():
    scenario = Scenario(**{**vars(UNLIMITED), "section_ttl": "images=72,streaming=168"})
    plain, with_lifetimes = simulate(UNLIMITED), simulate(scenario)

    assert with_lifetimes.fetches == pytest.approx(plain.fetches, rel=0.1)
    assert with_lifetimes.calls["imdbapi"] == pytest.approx(
        with_lifetimes.fetches * scenario.renewal_calls(["images"]) + with_lifetimes.fetches * 6,
        rel=0.1,
    )
    assert with_lifetimes.calls["watchmode"] < plain.calls["watchmode"] / 5


def test_rates_and_quotas_are_never_exceeded():
    scenario = Scenario(films=300, requests=0.02, imdb_rate="1/500", kino=20, watchmode=300)
    result = simulate(scenario)

    assert result.calls["imdbapi"] <= DAY / 500 * 30 * 1.01
    assert result.calls["kinocheck"] <= 20 * 30
    assert result.calls["watchmode"] <= 300
    assert result.over_rate > 0
    assert result.fresh_seconds / result.seconds <= films_kept_fresh(scenario)["imdbapi"] * 1.25


def test_without_a_limit_a_source_keeps_all_films_fresh():
    assert films_kept_fresh(UNLIMITED)["kinocheck"] == math.inf


def test_a_cache_holds_what_is_requested_again_in_time():
    assert held_in_memory([1 / HOUR], HOUR) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--films", "0"], "greater than 0"),
        (["--days", "3"], "warm-up must be less"),
        (["--section-ttl", "posters=3"], "no such section: posters"),
        (["--section-ttl", "images"], "is written as"),
        (["--imdb-rate", "many"], "is written as"),
        (["--requests", "x"], "invalid float value"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(capsys, arguments, words):
    with pytest.raises(SystemExit) as caught:
        main(arguments)

    assert caught.value.code == 2
    assert words in capsys.readouterr().err
