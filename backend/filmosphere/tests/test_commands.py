"""The commands for whoever looks after the service, as they are typed."""

import fcntl
import io
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from argparse import ArgumentTypeError
from datetime import timedelta
from functools import partial

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection
from django.utils import timezone

from filmosphere.batch_command import summary
from filmosphere.management.commands import refresh_films, warm_films
from filmosphere.tests.house import BACKEND, bare_environment, database, manage, on_sandbox
from films.models import Film, FilmFetch
from films.services.film_batch import BatchResult, Ending, GivenUp

FILMS = ["tt1375666", "tt0111161", "tt0133093", "tt0068646"]
CANARY = "canary-5b1d07"


class FakeBatch:
    """Every film is whole at once; remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.saved_since = None
        self.ends_with: BaseException | None = None
        self.ending = BatchResult("", Ending.WHOLE, {}, is_settled=True)

    def run(self, imdb_ids, *, saved_since, on_wait):
        self.asked, self.saved_since = list(imdb_ids), saved_since
        for number, imdb_id in enumerate(imdb_ids):
            if self.ends_with and number == 1:
                raise self.ends_with
            on_wait("rate_limited", 30)
            yield BatchResult(
                imdb_id,
                self.ending.ending,
                self.ending.reasons,
                is_settled=self.ending.is_settled,
            )


@pytest.fixture
def batch(monkeypatch) -> FakeBatch:
    fake = FakeBatch()
    for module in (warm_films, refresh_films):
        monkeypatch.setattr(module.Command, "get_batch", staticmethod(lambda: fake))
    return fake


def run(*arguments: str, **options) -> str:
    out = io.StringIO()
    call_command(*arguments, stdout=out, **options)
    return out.getvalue()


# warm_films


def test_ids_come_as_arguments_from_a_file_and_from_standard_input(batch, tmp_path, monkeypatch):
    path = tmp_path / "ids.txt"
    path.write_text("\ufefftt0000002 # a comment\n\n# only a comment\ntt0000003 tt0000001\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO("tt0000004\ntt0000002\n"))

    run("warm_films", "tt0000001", "-", file=str(path))

    assert batch.asked == ["tt0000001", "tt0000004", "tt0000002", "tt0000003"]
    assert batch.saved_since is None


def test_one_id_that_cannot_be_one_and_nothing_is_fetched(batch, tmp_path):
    path = tmp_path / "ids.txt"
    path.write_bytes(b"tt0000002\nTT3 \x1b[31m\n\xff\n")

    with pytest.raises(CommandError) as caught:
        run("warm_films", "nm0000001", file=str(path))

    assert "argument: 'nm0000001'" in str(caught.value)
    assert "line 2: 'TT3'" in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert batch.asked == []


def test_a_file_that_is_not_there_is_told_in_one_line(batch):
    with pytest.raises(CommandError, match=r"nowhere\.txt cannot be read"):
        run("warm_films", file="/nowhere.txt")


def test_without_ids_it_says_how_to_give_some(batch):
    with pytest.raises(CommandError, match="--file PATH"):
        run("warm_films")


def test_an_empty_list_is_done_at_once(batch, tmp_path):
    (tmp_path / "ids.txt").touch()

    assert run("warm_films", file=str(tmp_path / "ids.txt")).startswith("0 films: 0 whole")


def test_lines_instead_of_a_bar_where_nobody_looks_on(batch, capsys):
    run("warm_films", "tt0000001", "tt0000002")

    assert capsys.readouterr().err.splitlines() == [
        "waiting 30 s: rate_limited",
        "1/2 tt0000001 whole",
        "waiting 30 s: rate_limited",
        "2/2 tt0000002 whole",
    ]


def test_verbosity_0_leaves_only_the_summary(batch, capsys):
    assert run("warm_films", "tt0000001", verbosity=0).startswith("1 films: 1 whole")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("ending", "reasons", "is_settled"),
    [
        (Ending.FAILED, {"metadata": "timeout"}, False),
        (Ending.INCOMPLETE, {"trailer": "timeout"}, False),
    ],
)
def test_a_film_that_needs_another_run_makes_the_status_1(batch, ending, reasons, is_settled):
    batch.ending = BatchResult("", ending, reasons, is_settled=is_settled)

    with pytest.raises(CommandError, match="1 of 1 films need another run") as caught:
        run("warm_films", "tt0000001")

    assert caught.value.returncode == 1


@pytest.mark.parametrize(
    ("ending", "reasons"),
    [(Ending.UNKNOWN, {}), (Ending.INCOMPLETE, {"streaming": "region_not_covered"})],
)
def test_what_no_other_run_would_change_is_no_failure(batch, ending, reasons):
    batch.ending = BatchResult("", ending, reasons, is_settled=True)

    assert f"1 {ending.value}" in run("warm_films", "tt0000001")


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [(KeyboardInterrupt(), 130, "interrupted"), (GivenUp("timeout"), 1, "given up")],
)
def test_a_run_that_is_cut_short_ends_with_its_summary(batch, error, status, words):
    batch.ends_with = error
    out = io.StringIO()

    with pytest.raises(CommandError, match=f"{words}.*2 of 3 films need another run") as caught:
        call_command("warm_films", *FILMS[:3], stdout=out)

    assert caught.value.returncode == status
    assert "1 whole" in out.getvalue()
    assert "2 not finished" in out.getvalue()


def test_the_summary_names_a_few_films_for_each_reason():
    results = [
        BatchResult(f"tt{number:07}", Ending.INCOMPLETE, {"streaming": "region_not_covered"})
        for number in range(8)
    ]

    lines = summary(results, total=8, seconds=3).splitlines()

    assert lines[0] == (
        "8 films: 0 whole, 8 incomplete, 0 unknown to IMDb, 0 failed (0 asked of nobody, 3 s)"
    )
    assert lines[1].startswith("  incomplete (streaming: region_not_covered): tt0000000 tt0000001")
    assert lines[1].endswith("tt0000004 and 3 more")


# refresh_films


def stored(imdb_id: str, **age: float) -> None:
    Film.objects.create(imdb_id=imdb_id, full_json={}, cached_at=timezone.now() - timedelta(**age))


def test_films_older_than_the_age_are_refreshed_oldest_first(db, batch):
    for imdb_id, hours in (("tt0000001", 13), ("tt0000002", 11), ("tt0000003", 30)):
        stored(imdb_id, hours=hours)

    run("refresh_films", "--older-than", "12h")

    assert batch.asked == ["tt0000003", "tt0000001"]
    age = timezone.now() - batch.saved_since
    assert timedelta(hours=12) <= age < timedelta(hours=12, minutes=1)


def test_a_limit_takes_the_oldest(db, batch):
    for number in range(1, 5):
        stored(f"tt000000{number}", days=number)

    run("refresh_films", "--older-than", "30m", "--limit", "2")

    assert batch.asked == ["tt0000004", "tt0000003"]


def test_ids_that_imdb_denied_long_ago_are_forgotten(db, batch):
    now = timezone.now()
    for imdb_id, hours in (("tt0000001", 30), ("tt0000002", 1)):
        since = now - timedelta(hours=hours)
        FilmFetch.objects.create(imdb_id=imdb_id, missing_since=since, missing_until=since)

    assert "1 ids without a film are forgotten" in run("refresh_films", "--older-than", "7d")

    assert list(FilmFetch.objects.values_list("imdb_id", flat=True)) == ["tt0000002"]


@pytest.mark.parametrize(
    ("text", "age"),
    [("30m", timedelta(minutes=30)), ("12h", timedelta(hours=12)), ("7d", timedelta(days=7))],
)
def test_an_age_is_a_number_and_a_unit(text, age):
    assert refresh_films._age(text) == age


@pytest.mark.parametrize("text", ["", "12", "h", "0h", "-1h", "1.5h", "12H", "1w", "12h ", "١h"])
def test_anything_else_is_no_age(text):
    with pytest.raises(ArgumentTypeError):
        refresh_films._age(text)


# All of it, over sockets


@pytest.fixture
def settings_of(sandbox, tmp_path, django_db_setup, django_db_blocker):
    with django_db_blocker.unblock(), database(tmp_path) as url:
        yield lambda **more: on_sandbox(
            sandbox.url,
            **{
                "DATABASE_URL": url,
                "OMDB_BASE_URL": f"{sandbox.url}/omdb/",
                "OMDB_API_KEY": "5a4db0c5",
                **more,
            },
        )
        # What the commands opened is closed with them; the test's own was never used.
        connection.close()


def good_calls(sandbox) -> int:
    calls = [call for call in sandbox.calls() if call["source"] == "imdbapi"]
    return sum(call["status"] == 200 for call in calls)


def test_films_are_whole_and_a_source_with_a_small_bucket_is_hardly_ever_asked_in_vain(
    sandbox, settings_of
):
    sandbox.set("imdbapi", bucket={"capacity": 8, "per": 1}, retry_after="1")
    settings = settings_of(IMDBAPI_RATE="8/1")

    first = manage("warm_films", *FILMS, **settings)
    asked = len(sandbox.paths("imdbapi"))
    second = manage("warm_films", *FILMS, **settings)

    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("4 films: 4 whole, 0 incomplete, 0 unknown to IMDb, 0 failed")
    assert good_calls(sandbox) == 7 * 4
    assert asked - good_calls(sandbox) <= 5
    assert second.returncode == 0
    assert "(4 asked of nobody" in second.stdout
    assert len(sandbox.paths("imdbapi")) == asked


def test_a_wait_that_the_source_asks_for_is_kept(sandbox, settings_of):
    sandbox.fault("rate_limited", source="imdbapi", path="*/images", retry_after="2", times=1)

    result = manage("warm_films", *FILMS[:2], **settings_of(IMDBAPI_RATE="8/1"))

    assert result.returncode == 0, result.stderr
    assert re.search(r"waiting [12] s: rate_limited", result.stderr)
    asked_at = [call["at"] for call in sandbox.calls() if call["source"] == "imdbapi"]
    (refused_at,) = [call["at"] for call in sandbox.calls() if call["status"] == 429]
    # What was on its way already may still arrive.
    assert not [at for at in asked_at if refused_at + 0.5 < at < refused_at + 2]


def test_an_id_that_imdb_does_not_know_is_told_apart_from_a_failure(sandbox, settings_of):
    result = manage("warm_films", FILMS[0], "tt9999999999", **settings_of())

    assert result.returncode == 0, result.stderr
    assert "1 whole, 0 incomplete, 1 unknown to IMDb, 0 failed" in result.stdout
    assert "unknown to IMDb: tt9999999999" in result.stdout


def test_a_stored_film_is_refreshed(sandbox, settings_of):
    settings = settings_of()
    manage("warm_films", FILMS[0], **settings)

    fresh = manage("refresh_films", "--older-than", "1h", **settings)
    asked = len(sandbox.paths("imdbapi"))

    assert fresh.returncode == 0, fresh.stderr
    assert fresh.stdout.startswith("0 films")
    assert asked == 7


def test_ctrl_c_ends_with_the_summary(sandbox, settings_of):
    settings = settings_of(IMDBAPI_RATE="8/600")
    process = subprocess.Popen(
        [sys.executable, "manage.py", "warm_films", *FILMS[:2]],
        cwd=BACKEND,
        env=bare_environment(**settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell lets what it runs in the background ignore the signal, children of ours too.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    try:
        assert process.stderr.readline() == f"1/2 {FILMS[0]} whole\n"

        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=15)
    finally:
        process.kill()

    assert process.returncode == 130
    assert "1 whole" in out
    assert "1 not finished" in out
    assert "interrupted; 1 of 2 films need another run" in err
    assert "Traceback" not in err


def test_a_terminal_gets_a_bar(sandbox, settings_of):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "manage.py", "warm_films", *FILMS[:2]],
        cwd=BACKEND,
        env=bare_environment(**settings_of()),
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    os.close(theirs)
    out, _ = process.communicate(timeout=60)
    shown = os.read(ours, 65_536).decode()
    os.close(ours)

    assert process.returncode == 0, shown
    assert "100%" in shown
    assert "2/2" in shown
    assert "{" not in shown
    assert out.startswith("2 films: 2 whole")


def cells(output: str) -> dict[str, str]:
    return {line.split()[0]: line for line in output.splitlines()[1:]}


def test_all_is_well_with_the_sources(sandbox, settings_of):
    result = manage("check_upstreams", **settings_of())

    assert result.returncode == 0, result.stderr
    rows = cells(result.stdout)
    assert list(rows) == ["imdbapi", "kinocheck", "watchmode", "omdb"]
    assert all(row.endswith("nothing") for row in rows.values())
    assert "999 of 1000 today" in rows["kinocheck"]
    assert "TR covered" in rows["watchmode"]
    # One call each, and of Watchmode's two one is free.
    assert len(sandbox.calls()) == 5


def test_what_is_wrong_with_the_sources_is_told_without_any_key(sandbox, settings_of):
    sandbox.set("watchmode", keys=[f"{CANARY}-w"], regions=["US", "GB"], quota=1000)
    settings = settings_of(
        IMDBAPI_BASE="http://127.0.0.1:9",
        KINO_API_KEY=f"{CANARY}-k",
        WATCHMODE_API_KEY=f"{CANARY}-w",
        OMDB_API_KEY=f"{CANARY}-o",
        LOG_LEVEL="DEBUG",
    )

    result = manage("check_upstreams", "-v", "2", **settings)

    assert result.returncode == 1
    rows = cells(result.stdout)
    assert " NO " in rows["imdbapi"]
    assert "IMDBAPI_BASE=https://api.tiffara.com" in rows["imdbapi"]
    assert "REFUSED" in rows["kinocheck"]
    assert "set another KINO_API_KEY" in rows["kinocheck"]
    assert "TR NOT COVERED" in rows["watchmode"]
    assert "999 of 1000 this month" in rows["watchmode"]
    assert "set another OMDB_API_KEY" in rows["omdb"]
    assert "attention needed: imdbapi, kinocheck, watchmode, omdb" in result.stderr
    assert CANARY not in result.stdout + result.stderr
