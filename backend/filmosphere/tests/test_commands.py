"""The management commands, as an operator runs them."""

import fcntl
import io
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from argparse import ArgumentTypeError
from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import OperationalError, connection
from django.utils import timezone

from filmosphere.batch_command import summary
from filmosphere.management.commands import prune_films, refresh_films, warm_films
from films.models import Film, FilmFetch
from films.services.bulk import BulkResult, GivenUp, Status
from films.services.pruning import FilmPruner, Pruned
from tools.harness.server import BACKEND, bare_environment, database, manage, on_sandbox

FILMS = ["tt1375666", "tt0111161", "tt0133093", "tt0068646"]
CANARY = "canary-5b1d07"


class FakeBulk:
    """Every film is whole at once; records what was requested."""

    def __init__(self) -> None:
        self.requested: list[str] = []
        self.saved_since = None
        self.ends_with: BaseException | None = None
        self.result = BulkResult("", Status.WHOLE, is_settled=True)

    def run(self, imdb_ids, *, saved_since, on_wait):
        self.requested, self.saved_since = list(imdb_ids), saved_since
        for number, imdb_id in enumerate(imdb_ids):
            if self.ends_with and number == 1:
                raise self.ends_with
            on_wait("rate_limited", 30)
            yield replace(self.result, imdb_id=imdb_id)


class FakeCoordinator:
    """Counts the calls of `publish`, which fail if there is an error."""

    def __init__(self) -> None:
        self.published = 0
        self.error: Exception | None = None

    def publish(self) -> None:
        self.published += 1
        if self.error:
            raise self.error


@pytest.fixture
def coordinator(monkeypatch) -> FakeCoordinator:
    fake = FakeCoordinator()
    for module in (warm_films, refresh_films):
        monkeypatch.setattr(module.Command, "get_coordinator", staticmethod(lambda: fake))
    return fake


@pytest.fixture
def bulk(monkeypatch, coordinator) -> FakeBulk:
    fake = FakeBulk()
    for module in (warm_films, refresh_films):
        monkeypatch.setattr(module.Command, "get_refresher", staticmethod(lambda: fake))
    return fake


@pytest.mark.parametrize("ends_with", [KeyboardInterrupt(), GivenUp("timeout")])
def test_what_a_command_learned_of_the_sources_is_stored_before_it_ends(
    bulk, coordinator, ends_with
):
    run("warm_films", *FILMS)
    assert coordinator.published == 1
    bulk.ends_with = ends_with

    with pytest.raises(CommandError):
        run("warm_films", *FILMS)

    assert coordinator.published == 2


def test_a_database_that_does_not_store_it_is_no_failure_of_the_command(bulk, coordinator):
    coordinator.error = OperationalError("the server closed the connection")

    assert run("warm_films", *FILMS).startswith("4 films: ")


def run(*arguments: str, **options) -> str:
    out = io.StringIO()
    call_command(*arguments, stdout=out, **options)
    return out.getvalue()


# warm_films


def test_ids_come_as_arguments_from_a_file_and_from_standard_input(bulk, tmp_path, monkeypatch):
    path = tmp_path / "ids.txt"
    path.write_text("\ufefftt0000002 # a comment\n\n# only a comment\ntt0000003 tt0000001\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO("tt0000004\ntt0000002\n"))

    run("warm_films", "tt0000001", "-", file=str(path))

    assert bulk.requested == ["tt0000001", "tt0000004", "tt0000002", "tt0000003"]
    assert bulk.saved_since is None


def test_with_one_invalid_id_nothing_is_fetched(bulk, tmp_path):
    path = tmp_path / "ids.txt"
    path.write_bytes(b"tt0000002\nTT3 \x1b[31m\n\xff\n")

    with pytest.raises(CommandError) as caught:
        run("warm_films", "nm0000001", file=str(path))

    assert "argument: 'nm0000001'" in str(caught.value)
    assert "line 2: 'TT3'" in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert bulk.requested == []


def test_a_missing_file_is_reported_in_one_line(bulk):
    with pytest.raises(CommandError, match=r"nowhere\.txt cannot be read"):
        run("warm_films", file="/nowhere.txt")


def test_without_ids_it_says_how_to_pass_them(bulk):
    with pytest.raises(CommandError, match="--file PATH"):
        run("warm_films")


def test_an_empty_list_is_done_at_once(bulk, tmp_path):
    (tmp_path / "ids.txt").touch()

    assert run("warm_films", file=str(tmp_path / "ids.txt")).startswith("0 films: 0 whole")


def test_without_a_terminal_there_are_lines_instead_of_a_bar(bulk, capsys):
    run("warm_films", "tt0000001", "tt0000002")

    assert capsys.readouterr().err.splitlines() == [
        "waiting 30 s: rate_limited",
        "1/2 tt0000001 whole",
        "waiting 30 s: rate_limited",
        "2/2 tt0000002 whole",
    ]


def test_verbosity_0_leaves_only_the_summary(bulk, capsys):
    assert run("warm_films", "tt0000001", verbosity=0).startswith("1 films: 1 whole")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("status", "reasons", "is_settled"),
    [
        (Status.FAILED, {"metadata": "timeout"}, False),
        (Status.INCOMPLETE, {"trailer": "timeout"}, False),
    ],
)
def test_a_film_that_needs_another_run_makes_the_status_1(bulk, status, reasons, is_settled):
    bulk.result = BulkResult("", status, reasons, is_settled=is_settled)

    with pytest.raises(CommandError, match="1 of 1 films need another run") as caught:
        run("warm_films", "tt0000001")

    assert caught.value.returncode == 1


@pytest.mark.parametrize(
    ("status", "reasons"),
    [(Status.UNKNOWN, {}), (Status.INCOMPLETE, {"streaming": "region_not_covered"})],
)
def test_what_another_run_would_not_change_is_no_failure(bulk, status, reasons):
    bulk.result = BulkResult("", status, reasons, is_settled=True)

    assert f"1 {status.value}" in run("warm_films", "tt0000001")


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [(KeyboardInterrupt(), 130, "interrupted"), (GivenUp("timeout"), 1, "given up")],
)
def test_an_interrupted_run_ends_with_its_summary(bulk, error, status, words):
    bulk.ends_with = error
    out = io.StringIO()

    with pytest.raises(CommandError, match=f"{words}.*2 of 3 films need another run") as caught:
        call_command("warm_films", *FILMS[:3], stdout=out)

    assert caught.value.returncode == status
    assert "1 whole" in out.getvalue()
    assert "2 not finished" in out.getvalue()


def test_the_summary_names_a_few_films_for_each_reason():
    results = [
        BulkResult(f"tt{number:07}", Status.INCOMPLETE, {"streaming": "region_not_covered"})
        for number in range(8)
    ]

    lines = summary(results, total=8, seconds=3).splitlines()

    assert lines[0] == (
        "8 films: 0 whole, 8 incomplete, 0 unknown to IMDb, 0 failed (0 without a call, 3 s)"
    )
    assert lines[1].startswith("  incomplete (streaming: region_not_covered): tt0000000 tt0000001")
    assert lines[1].endswith("tt0000004 and 3 more")


# refresh_films


def stored(imdb_id: str, **age: float) -> None:
    at = timezone.now() - timedelta(**age)
    Film.objects.create(imdb_id=imdb_id, full_json={}, cached_at=at)
    Film.objects.filter(imdb_id=imdb_id).update(created_at=at)


def test_films_older_than_the_age_are_refreshed_oldest_first(db, bulk):
    for imdb_id, hours in (("tt0000001", 13), ("tt0000002", 11), ("tt0000003", 30)):
        stored(imdb_id, hours=hours)

    run("refresh_films", "--older-than", "12h")

    assert bulk.requested == ["tt0000003", "tt0000001"]
    age = timezone.now() - bulk.saved_since
    assert timedelta(hours=12) <= age < timedelta(hours=12, minutes=1)


def test_a_limit_takes_the_oldest(db, bulk):
    for number in range(1, 5):
        stored(f"tt000000{number}", days=number)

    run("refresh_films", "--older-than", "30m", "--limit", "2")

    assert bulk.requested == ["tt0000004", "tt0000003"]


@pytest.mark.parametrize(
    ("text", "age"),
    [("30m", timedelta(minutes=30)), ("12h", timedelta(hours=12)), ("7d", timedelta(days=7))],
)
def test_an_age_is_a_number_and_a_unit(text, age):
    assert refresh_films.age(text) == age


@pytest.mark.parametrize(
    "text", ["", "12", "h", "0h", "-1h", "1.5h", "12H", "1w", "12h ", "١h", "36501d"]
)
def test_anything_else_is_not_an_age(text):
    with pytest.raises(ArgumentTypeError):
        refresh_films.age(text)


# prune_films


def read_on(imdb_id: str, **ago: float) -> None:
    FilmFetch.objects.create(imdb_id=imdb_id, read_on=(timezone.now() - timedelta(**ago)).date())


@pytest.fixture
def films(db) -> None:
    """Of 1, 40 and 100 days ago, and read on the same days."""
    for number, days in enumerate((1, 40, 100), start=1):
        stored(f"tt000000{number}", days=days)
        read_on(f"tt000000{number}", days=days)


@pytest.mark.parametrize(
    ("choice", "left"),
    [
        (("--unused-for", "90d"), 2),
        (("--unused-for", "720h"), 1),
        (("--older-than", "30d"), 1),
        (("--max-rows", "2"), 2),
    ],
)
def test_films_are_pruned_and_counted(films, choice, left):
    dry = run("prune_films", *choice, "--dry-run")

    assert dry == f"{3 - left} of 3 films would be deleted (dry run)\n"
    assert run("prune_films", *choice) == (
        f"{3 - left} films deleted, 0 kept because they were used meanwhile;"
        f" {left} films are stored\n"
    )
    assert Film.objects.count() == left
    assert FilmFetch.objects.count() == left


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--unused-for", "90"),
        ("--older-than", "36501d"),
        ("--max-rows", "0"),
        ("--max-rows", "-1"),
        ("--unused-for", "90d", "--max-rows", "3"),
        ("--dry-run",),
    ],
)
def test_bad_arguments_of_prune_films_are_reported_in_one_line(films, arguments):
    with pytest.raises(CommandError) as caught:
        run("prune_films", *arguments)

    assert len(str(caught.value).splitlines()) == 1
    assert Film.objects.count() == 3


class InterruptedPruner(FilmPruner):
    error: BaseException = KeyboardInterrupt()

    def delete(self, chosen):
        yield Pruned(deleted=2, kept=1)
        raise self.error


@pytest.mark.parametrize(
    ("error", "words", "status"),
    [
        (KeyboardInterrupt(), "interrupted; another run continues", 130),
        (OperationalError("gone"), "the database cannot be used", 1),
    ],
)
def test_a_prune_that_ends_early_says_what_it_did(db, monkeypatch, error, words, status):
    pruner = InterruptedPruner()
    pruner.error = error
    monkeypatch.setattr(prune_films.Command, "get_pruner", staticmethod(lambda: pruner))
    out = io.StringIO()

    with pytest.raises(CommandError, match=words) as caught:
        call_command("prune_films", "--max-rows", "1", stdout=out)

    assert caught.value.returncode == status
    assert out.getvalue().startswith("2 films deleted")


# Over sockets


@pytest.fixture
def settings_of(sandbox, tmp_path):
    with database(tmp_path) as url:
        yield lambda **more: on_sandbox(
            sandbox.url,
            **{
                "DATABASE_URL": url,
                "OMDB_BASE_URL": f"{sandbox.url}/omdb/",
                "OMDB_API_KEY": "5a4db0c5",
                **more,
            },
        )
        # The connections of the commands were closed with their processes.
        connection.close()


def good_calls(sandbox) -> int:
    calls = [call for call in sandbox.calls() if call["source"] == "imdbapi"]
    return sum(call["status"] == 200 for call in calls)


def test_films_become_whole_and_a_source_with_a_rate_limit_is_hardly_ever_called_in_vain(
    sandbox, settings_of
):
    sandbox.set("imdbapi", bucket={"capacity": 8, "per": 1}, retry_after="1")
    settings = settings_of(IMDBAPI_RATE="8/1")

    first = manage("warm_films", *FILMS, **settings)
    calls = len(sandbox.paths("imdbapi"))
    second = manage("warm_films", *FILMS, **settings)

    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("4 films: 4 whole, 0 incomplete, 0 unknown to IMDb, 0 failed")
    # The metadata of some films is combined; each other section is one call.
    assert 6 * 4 + 1 <= good_calls(sandbox) <= 7 * 4
    assert calls - good_calls(sandbox) <= 5
    assert second.returncode == 0
    assert "(4 without a call" in second.stdout
    assert len(sandbox.paths("imdbapi")) == calls


def test_the_retry_after_of_a_source_is_respected(sandbox, settings_of):
    sandbox.fault("rate_limited", source="imdbapi", path="*/images", retry_after="2", times=1)

    result = manage("warm_films", *FILMS[:2], **settings_of(IMDBAPI_RATE="8/1"))

    assert result.returncode == 0, result.stderr
    assert "waiting 5 s: next round" in result.stderr
    called_at = [call["at"] for call in sandbox.calls() if call["source"] == "imdbapi"]
    (refused_at,) = [call["at"] for call in sandbox.calls() if call["status"] == 429]
    # Calls that were under way may still arrive.
    assert not [at for at in called_at if refused_at + 0.5 < at < refused_at + 2]


def test_an_id_that_imdb_does_not_know_is_not_a_failure(sandbox, settings_of):
    result = manage("warm_films", FILMS[0], "tt9999999999", **settings_of())

    assert result.returncode == 0, result.stderr
    assert "1 whole, 0 incomplete, 1 unknown to IMDb, 0 failed" in result.stdout
    assert "unknown to IMDb: tt9999999999" in result.stdout


def test_a_film_younger_than_the_given_age_is_not_refreshed(sandbox, settings_of):
    settings = settings_of()
    manage("warm_films", FILMS[0], **settings)
    calls = len(sandbox.paths("imdbapi"))

    result = manage("refresh_films", "--older-than", "1h", **settings)

    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("0 films")
    assert len(sandbox.paths("imdbapi")) == calls


def test_ctrl_c_ends_with_the_summary(sandbox, settings_of):
    # The first film takes the calls that the source allows in ten minutes.
    settings = settings_of(IMDBAPI_RATE="8/600")
    manage("warm_films", FILMS[0], **settings)
    process = subprocess.Popen(
        [sys.executable, "manage.py", "warm_films", *FILMS[:2]],
        cwd=BACKEND,
        env=bare_environment(**settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell may start its background processes with the signal ignored.
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


def test_sources_without_a_problem(sandbox, settings_of):
    result = manage("check_upstreams", **settings_of())

    assert result.returncode == 0, result.stderr
    rows = cells(result.stdout)
    assert list(rows) == ["imdbapi", "kinocheck", "watchmode", "omdb"]
    assert all(row.endswith("nothing") for row in rows.values())
    assert "999 of 1000 today" in rows["kinocheck"]
    assert "TR covered" in rows["watchmode"]
    # One call each, and of Watchmode's two one is free.
    assert len(sandbox.calls()) == 5


def test_problems_of_the_sources_are_reported_without_any_key(sandbox, settings_of):
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
    assert "REJECTED" in rows["kinocheck"]
    assert "set another KINO_API_KEY" in rows["kinocheck"]
    assert "TR NOT COVERED" in rows["watchmode"]
    assert "999 of 1000 this month" in rows["watchmode"]
    assert "set another OMDB_API_KEY" in rows["omdb"]
    assert "attention needed: imdbapi, kinocheck, watchmode, omdb" in result.stderr
    assert CANARY not in result.stdout + result.stderr
