import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox import catalogue
from sandbox.faults import KINDS
from sandbox.server import UPSTREAMS, Sandbox
from sandbox.tests.client import BACKEND, PATIENCE, Client, eventually, port_of, running

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def is_listening(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_without_output_even_with_a_hanging_client(
    number: signal.Signals,
) -> None:
    with running("--port", "0") as process:
        client = Client(port_of(process))
        client.fault("hang")
        with client.socket("/omdb/"):
            assert eventually(lambda: client.calls()["total"] == 1)
            process.send_signal(number)
            out, err = process.communicate(timeout=PATIENCE)

    assert (process.returncode, out, err) == (0, "", "")


def test_a_port_in_use_is_reported_in_one_line(sandbox: Client) -> None:
    with running("--port", str(sandbox.port)) as process:
        out, err = process.communicate(timeout=PATIENCE)

    assert process.returncode == 1
    assert out == ""
    assert re.fullmatch(rf"sandbox: cannot listen on 127\.0\.0\.1:{sandbox.port}: .+\n", err)


@pytest.mark.parametrize("host", ["0.0.0.0", "example.org", "192.0.2.1", "::"])
def test_only_loopback_addresses_are_accepted(host: str) -> None:
    with running("--host", host, "--port", "0") as process:
        out, err = process.communicate(timeout=PATIENCE)

    assert (process.returncode, out) == (2, "")
    assert err == f"sandbox: {host} is not a loopback address\n"


def test_it_exits_with_its_parent() -> None:
    middle = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-m', 'sandbox', '--port', '0',"
        " '--exit-with-parent'], stdout=subprocess.PIPE, text=True)\n"
        "print(child.stdout.readline(), flush=True)\n"
        "import os; os._exit(0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", middle],
        cwd=BACKEND,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    port = int(done.stdout.strip().rpartition(":")[2])

    assert eventually(lambda: not is_listening(port))


def test_the_readme_lists_every_kind_and_its_options() -> None:
    rows = {
        match[1]: match[2] for match in re.finditer(r"^\| `(\w+)` \|(.*)\|$", README, re.MULTILINE)
    }

    assert set(KINDS) <= set(rows)
    for name, kind in KINDS.items():
        assert all(f"`{option}`" in rows[name] for option in kind.options), name


def test_the_readme_lists_every_setting() -> None:
    sandbox = Sandbox(catalogue.load())

    for upstream in UPSTREAMS:
        for name in sandbox.upstreams[upstream.name].settings.as_json():
            assert f"`{name}`" in README


def test_the_catalogue_is_consistent() -> None:
    films = catalogue.load()

    assert len(films.films) >= 30
    for film in films.films:
        assert set(film.countries) <= set(films.countries)
        assert set(film.languages) <= set(films.languages)
        assert {row["country"] for row in film.release_dates} <= set(films.countries)
        assert {row["country"] for row in film.certificates} <= set(films.countries)


def test_copies_of_films_fill_the_catalogue() -> None:
    with running("--port", "0", "--titles", "120") as process:
        client = Client(port_of(process))

        copy = client.get("/imdbapi/titles/tt5000069").json
        sources = client.watchmode("/title/50000069/sources/").status
        trailer = client.get("/kinocheck/movies", imdb_id="tt5000069").json["id"]

        assert copy["primaryTitle"].endswith(" (copy 70)")
        assert (sources, trailer) == (200, "copy69")
        assert client.get("/imdbapi/titles/tt5000070").status == 404
