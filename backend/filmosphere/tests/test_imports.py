"""What a start imports, and what only those import who need it."""

import pytest

from tools.harness.server import run_python

COMMAND = "import manage; manage.main()"


def imported(program, *arguments, **settings):
    """Return the names of all modules that a Python program has imported at its end."""
    tracer = "import atexit, sys; atexit.register(lambda: print('\\n'.join(sys.modules)))"
    done = run_python("-c", f"{tracer}\n{program}", *arguments, **settings)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "program", ["import filmosphere.service", "import filmosphere.wsgi, filmosphere.urls"]
)
def test_a_server_without_redis_does_not_import_its_client(program, options):
    assert "redis" not in imported(program, **options | {"REDIS_URL": ""})


def test_a_server_imports_the_generator_of_the_document_when_it_is_requested(options):
    serve = """if True:
        import filmosphere.wsgi
        from django.test import Client
        print(Client().get("/api/sources", headers={"Host": "localhost"}).status_code)
    """

    before = imported(serve, **options)
    after = imported(serve.replace("sources", "schema"), **options)

    heavy = {"drf_spectacular.generators", "web.openapi", "films.serializers"}
    assert "200" in before & after
    assert (heavy & before, heavy & after) == (set(), heavy)


def test_migrate_imports_no_view_and_no_client_of_sources(url):
    modules = imported(COMMAND, "migrate", "--verbosity", "0", DATABASE_URL=url)

    assert "films.models" in modules
    assert not {"httpx", "pydantic", "rest_framework.views", "filmosphere.urls"} & modules


@pytest.mark.parametrize(
    "command", [["upstream_report"], ["prune_films", "--max-rows", "1"], ["warm_films", "-"]]
)
def test_commands_of_the_service_import_no_urls(options, command):
    modules = imported(COMMAND, *command, **options)

    assert "filmosphere.wiring" in modules
    assert not {"filmosphere.urls", "films.views"} & modules
