"""`import_watchmode_ids` and `upstream_report`, as an operator runs them."""

import io
from datetime import datetime, timedelta, timezone

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from core.models import UpstreamUsage
from core.services.limits import Quota, UpstreamLimits
from core.services.usage import KEPT_DAYS
from filmosphere.management.commands import upstream_report
from films.models import WatchmodeTitle

pytestmark = pytest.mark.django_db
NOON = datetime(2026, 6, 16, 12, tzinfo=timezone.utc)


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


# The id map


@pytest.fixture
def load(tmp_path):
    def load(*lines: str, header: str = "Watchmode ID,IMDB ID,TMDB ID") -> str:
        path = tmp_path / "map.csv"
        path.write_text("\n".join([header, *lines]), "utf-8", "surrogateescape")
        return run("import_watchmode_ids", str(path))

    return load


def stored() -> dict[str, int]:
    return dict(WatchmodeTitle.objects.values_list("imdb_id", "watchmode_id"))


@pytest.mark.parametrize(
    "header", ["Watchmode ID,IMDB ID", "watchmode_id,imdb_id", "\ufeffWATCHMODEID,ImdbId,Title"]
)
def test_the_columns_are_found_by_name(load, header):
    assert load("7,tt0000001", header=header) == "1 titles stored, 0 rows skipped\n"
    assert stored() == {"tt0000001": 7}


def test_ids_are_canonical_and_a_later_row_or_run_replaces_an_earlier_one(load):
    load("7,tt1", "8,tt00000001", "9,tt0000002")
    assert stored() == {"tt0000001": 8, "tt0000002": 9}

    load("10,tt0000001")
    assert stored() == {"tt0000001": 10, "tt0000002": 9}


@pytest.mark.parametrize(
    "row",
    [
        "",
        "7",
        "7,",
        "7,nm0000001",
        ",tt0000003",
        "0,tt0000003",
        "-7,tt0000003",
        "x,tt0000003",
        "٧,tt0000003",
        f"{2**63},tt0000003",
        f"{'0' * 19}1{'9' * 30},tt0000003",
        "7,tt0000003\udce9",
        '7,tt0000003,"not closed',
        '"7,tt0000003',
        '7,tt0000003,"closed" too early',
        f"7,tt0000003,{'x' * 140_000}",
    ],
)
def test_a_row_without_two_valid_ids_is_skipped_and_the_others_are_stored(load, row):
    assert load("7,tt0000001", row, f"{2**63 - 1},tt0000002").startswith("2 titles stored, 1 ")
    assert stored() == {"tt0000001": 7, "tt0000002": 2**63 - 1}


def test_a_byte_outside_the_ids_that_is_not_utf_8_does_not_matter(load):
    assert load("7,tt0000001,Am\udce9lie") == "1 titles stored, 0 rows skipped\n"


@pytest.mark.parametrize(
    "header", ["", "Watchmode ID", "IMDB ID,Title", '"IMDB ID', "\udcff\udcfe\0"]
)
def test_a_file_without_the_two_columns_is_refused(load, header):
    with pytest.raises(CommandError, match="Watchmode ID"):
        load("7,tt0000001", header=header)


def test_a_file_that_cannot_be_read_ends_with_one_line(tmp_path):
    with pytest.raises(CommandError, match=r"cannot be read \(FileNotFoundError\)"):
        run("import_watchmode_ids", str(tmp_path / "map.csv"))


def test_the_map_may_come_from_standard_input_in_any_encoding(monkeypatch):
    lines = b"\xef\xbb\xbfIMDB ID,Watchmode ID\ntt000\xe9,8\ntt0000001,7\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines), encoding="ascii"))

    assert run("import_watchmode_ids", "-") == "1 titles stored, 1 rows skipped\n"
    assert stored() == {"tt0000001": 7}


# The report


@pytest.fixture
def limits(monkeypatch):
    """KinoCheck with 1,000 calls a day, Watchmode with a limit that is not known yet."""
    quotas = {"kinocheck": Quota("%Y-%m-%d", 1000), "watchmode": Quota("%Y-%m", None)}
    limits = UpstreamLimits(rates={}, quotas=quotas, now=lambda: NOON)
    monkeypatch.setattr(upstream_report.Command, "get_limits", lambda _: limits)
    monkeypatch.setattr("django.utils.timezone.now", lambda: NOON)
    return limits


def report(*arguments: str) -> dict[str, str]:
    """The lines of the report by their first word, with single spaces."""
    lines = [" ".join(line.split()) for line in run("upstream_report", *arguments).splitlines()]
    return dict(line.split(" ", 1) for line in lines)


def count(days_ago: int, kind: str, calls: int) -> None:
    day = (NOON - timedelta(days=days_ago)).date()
    UpstreamUsage.objects.create(source="imdbapi", day=day, kind=kind, calls=calls)


def test_the_report_has_a_line_for_each_source(limits):
    assert list(report()) == ["source", "imdbapi", "kinocheck", "watchmode", "omdb"]


@pytest.mark.parametrize(("days", "made"), [((), 3), (("--days", "1"), 3), (("--days", "2"), 7)])
def test_calls_made_and_avoided_are_added_up_over_the_days(limits, days, made):
    count(0, "made", 3)
    count(0, "cache_hit", 5)
    count(1, "made", 4)

    assert report(*days)["imdbapi"] == f"{made} 5 0 0 0 0 - -"


@pytest.mark.parametrize(
    ("used", "left", "forecast"),
    [(0, 1000, "0 of 1000"), (300, 700, "600 of 1000"), (501, 499, "1002 of 1000 EXCEEDED")],
)
def test_the_forecast_is_the_use_at_the_end_of_the_day(limits, used, left, forecast):
    limits.reserve_quota("kinocheck", used, leave_reserve=False)

    assert report()["kinocheck"].endswith(f" {left} of 1000 today {forecast}")


def test_the_forecast_of_a_month_starts_at_its_first_day(limits):
    limits.note_account("watchmode", 2500, 310)

    # 15.5 of 30 days are over.
    assert report()["watchmode"].endswith(" 2190 of 2500 this month 600 of 2500")


def test_a_quota_whose_limit_is_not_known_has_no_forecast(limits):
    assert report()["watchmode"].endswith(" - -")


@pytest.mark.parametrize("days", ["0", "-1", "1.5", "x", "٣", str(KEPT_DAYS + 1)])
def test_other_numbers_of_days_are_refused(days):
    with pytest.raises(CommandError):
        run("upstream_report", f"--days={days}")
