"""docs/operations: dashboard, alerts and runbook name what exists, and agree with each other."""

import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from django.db import connection, transaction
from prometheus_client.parser import text_string_to_metric_families

from core import metrics
from core.cache_outcome import OUTCOMES
from films.models import Film, FilmRendering
from tools.harness.contracts import differences
from tools.harness.databases import eventually
from tools.harness.server import PROJECT, database, manage, on_sandbox, server

FOLDER = PROJECT / "docs" / "operations"
ALERTS = {
    rule["alert"]: rule
    for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
}
RUNBOOK = (FOLDER / "runbook.md").read_text()
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
PAGES = [*sorted(FOLDER.glob("*.md")), PROJECT / "SECURITY.md"]
# Prometheus adds these to what it scrapes.
OF_PROMETHEUS = {"up": set()}
LABELS_OF_PROMETHEUS = {"job", "instance"}

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool here")


def expressions() -> dict[str, str]:
    """Each PromQL expression with the place where it stands."""
    found = {f"alert {name}": rule["expr"] for name, rule in ALERTS.items()}
    for panel in PANELS:
        for target in panel["targets"]:
            place = f"panel {panel['title']} {target['refId']}"
            found[place] = target["expr"].replace("$__rate_interval", "1m")
    for section in re.split(r"^## ", RUNBOOK, flags=re.MULTILINE):
        name = section.partition("\n")[0]
        for number, query in enumerate(re.findall(r"(?ms)^```promql\n(.*?)^```", section)):
            found[f"runbook {name} {number}"] = query
    return found


EXPRESSIONS = expressions()


@pytest.fixture(scope="module")
def exposed(tmp_path_factory):
    """The names that the service exposes, each with the values of its labels."""
    folder = tmp_path_factory.mktemp("operations")
    with database(folder) as url, server(folder, DATABASE_URL=url) as running:
        for path in ("/readyz", "/api/films/tt1375666", "/api/films/tt1375666", "/nothing"):
            running.get(path)

        def text():
            answer = running.get("/metrics").body.decode()
            # What is left of a quota is exposed once it is known.
            return answer if re.search(r"(?m)^filmosphere_upstream_quota_rem", answer) else None

        families = [*text_string_to_metric_families(eventually(text))]
    # Exposed where there are such servers.
    optional = [*metrics.REDIS_UP.collect(), *metrics.REPLICA_CURRENT.collect()]
    labels = {}
    for family in [*families, *optional]:
        for sample in family.samples:
            values = labels.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                values.setdefault(label, set()).add(value)
    return labels


def selectors(expression: str) -> list[tuple[str, str]]:
    """Each metric of an expression with its label matchers."""
    return re.findall(r"\b((?:filmosphere|process)_\w+|up)\b(?:\{([^}]*)\})?", expression)


@pytest.mark.parametrize("place", EXPRESSIONS)
def test_each_metric_that_is_named_exists_with_its_labels(exposed, place):
    used = selectors(EXPRESSIONS[place])

    assert used
    for name, matchers in used:
        assert name in exposed or name in OF_PROMETHEUS, name
        labels = set(re.findall(r"(\w+)(?:=|!=|=~|!~)\"", matchers)) - LABELS_OF_PROMETHEUS
        assert labels <= set(exposed.get(name, {})), name


@pytest.mark.parametrize("place", EXPRESSIONS)
def test_labels_by_which_is_summed_exist(exposed, place):
    expression = EXPRESSIONS[place]
    names = {name for name, _ in selectors(expression)}
    known = {label for name in names for label in exposed.get(name, {})} | LABELS_OF_PROMETHEUS

    grouped = re.findall(r"\b(?:by|on|ignoring|group_left|without)\s*\(([^)]*)\)", expression)
    assert {each.strip() for group in grouped for each in group.split(",") if each} <= known


# Labels whose values are all there from the start, or are listed in `core.cache_outcome`.
FIXED = {
    "outcome",
    "source",
    "code",
    "why",
    "priority",
    "surface",
    "query",
    "chore",
    "cache",
    "database",
}


@pytest.mark.parametrize("place", EXPRESSIONS)
def test_each_value_of_a_label_that_is_asked_for_exists(exposed, place):
    for name, matchers in selectors(EXPRESSIONS[place]):
        for label, pattern in re.findall(r"(\w+)(?:=~|!~|!=|=)\"([^\"]*)\"", matchers):
            known = {
                "cache": OUTCOMES,
                # Of some sources no quota is known.
                "source": exposed["filmosphere_upstream_calls_total"]["source"],
            }
            values = known.get(label) or exposed.get(name, {}).get(label, ())
            for alternative in pattern.split("|") if label in FIXED else ():
                assert any(re.fullmatch(alternative, value) for value in values), alternative


# --- promtool ---------------------------------------------------------------------------------


def promtool(*arguments: str) -> None:
    done = subprocess.run(
        ["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_each_expression_parses(tmp_path):
    rules = [
        {"record": f"expression_{number}", "expr": expression}
        for number, expression in enumerate(EXPRESSIONS.values())
    ]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))

    promtool("check", "rules", str(path))


@needs_promtool
def test_the_tests_of_the_alerts_pass():
    promtool("check", "rules", "alerts.yml")
    promtool("test", "rules", "alerts_test.yml")


def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_nothing_does():
    cases = yaml.safe_load((FOLDER / "alerts_test.yml").read_text())["tests"]
    firing, silent = set(), set()
    for case in cases:
        name = case["name"].partition(":")[0]
        (expected,) = case["promql_expr_test"]
        for sample in expected["exp_samples"]:
            assert f'alertname="{name}"' in sample["labels"], case["name"]
        (firing if expected["exp_samples"] else silent).add(name)

    assert firing == silent == set(ALERTS)


def test_the_alert_of_housekeeping_knows_the_chores_that_are_due_once_a_day():
    daily = re.findall(r"(?m)^\| `(\w+)` \| 1 d \|", (FOLDER / "data.md").read_text())

    assert daily
    for matcher in ("=~", "!~"):
        assert (
            f'chore{matcher}"{"|".join(daily)}"' in ALERTS["FilmosphereHousekeepingFails"]["expr"]
        )


# --- The runbook ------------------------------------------------------------------------------


def section_of(alert: str) -> str:
    return re.search(rf"(?ms)^## {alert}\n(.*?)(?=^## |\Z)", RUNBOOK)[1]


def test_each_alert_has_a_section_and_each_section_an_alert():
    sections = re.findall(r"(?m)^## (Filmosphere\w+)$", RUNBOOK)

    assert sorted(sections) == sorted(ALERTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_a_section_says_what_it_means_how_to_look_and_what_to_do(alert):
    section = section_of(alert)

    assert re.findall(r"(?m)^\*\*(Meaning|Look|Do)\.\*\*", section) == ["Meaning", "Look", "Do"]
    assert re.search(r"\*\*Look\.\*\*\n+```", section)


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_has_a_severity_and_a_summary(alert):
    assert ALERTS[alert]["labels"]["severity"] in {"critical", "warning"}
    assert set(ALERTS[alert]["annotations"]) == {"summary"}


def test_commands_and_settings_that_the_index_and_the_runbook_name_exist():
    text = (FOLDER / "README.md").read_text() + RUNBOOK
    settings = (PROJECT / "docs" / "settings.md").read_text()
    django = {"migrate", "showmigrations"}
    commands = PROJECT / "backend" / "filmosphere" / "management" / "commands"
    ours = {path.stem for path in commands.glob("*.py")}

    named = set(re.findall(r"manage\.py (\w+)", text))
    of_the_service = set(re.findall(r"`([A-Z]+_[A-Z_]+)(?:=[^`]*)?`", text))
    assert named <= ours | django
    assert [name for name in sorted(of_the_service) if f"`{name}`" not in settings] == []


@pytest.mark.django_db(transaction=True)
def test_the_command_that_deletes_a_film_deletes_all_of_its_rows():
    (statements,) = re.findall(r'psql "\$POSTGRES_URL" -c "(DELETE [^"]+)"', RUNBOOK)
    film = Film.objects.create(imdb_id="tt0000000", full_json={})
    FilmRendering.objects.create(film=film, rendered_for=film.updated_at, body=b"", gzipped=b"")

    # psql sends them as one transaction.
    with transaction.atomic(), connection.cursor() as cursor:
        for statement in statements.split("; "):
            cursor.execute(statement)

    assert (Film.objects.count(), FilmRendering.objects.count()) == (0, 0)


LOG_FIELDS = re.findall(r"\.(\w+) == \"([^\"]+)\"", RUNBOOK)


@pytest.mark.parametrize(("field", "value"), sorted(set(LOG_FIELDS)))
def test_log_lines_that_the_runbook_searches_for_are_documented(field, value):
    documented = "".join((FOLDER / name).read_text() for name in ("logs.md", "metrics.md"))

    assert f"`{value}`" in documented or f"`{field}={value}`" in documented


# --- The dashboard ----------------------------------------------------------------------------


def test_the_dashboard_has_the_rows_that_are_promised_and_a_variable_for_its_data_source():
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]

    assert rows == [
        "Traffic",
        "Hit ratio",
        "Waiting time by origin of the answer",
        "Sources",
        "Quotas",
        "Background",
        "Database and Redis",
        "Processes",
    ]
    (variable,) = DASHBOARD["templating"]["list"]
    assert (variable["name"], variable["type"]) == ("datasource", "datasource")
    for panel in PANELS:
        assert panel["datasource"]["uid"] == "${datasource}"
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the types of Grafana need Python 3.11")
def test_grafana_knows_each_field_of_the_dashboard():
    """Its own types read the file; they leave out the fields that they do not know."""
    encoder = importlib.import_module("grafana_foundation_sdk.cog.encoder")
    plugins = importlib.import_module("grafana_foundation_sdk.cog.plugins")
    models = importlib.import_module("grafana_foundation_sdk.models.dashboard")
    plugins.register_default_plugins()

    known = encoder.JSONEncoder().encode(models.Dashboard.from_json(DASHBOARD))

    assert list(differences(DASHBOARD, json.loads(known))) == []


def test_panels_have_ids_of_their_own_and_do_not_overlap():
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]

    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_has_a_unit_a_description_and_named_lines(panel):
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert all(target["legendFormat"] for target in panel["targets"])


def test_the_picture_of_the_dashboard_is_small_enough_for_a_page():
    assert (FOLDER / "dashboard.png").stat().st_size < 300_000


# --- Links and claims -------------------------------------------------------------------------


def links() -> list:
    return [
        pytest.param(page, target, id=f"{page.name}: {target}")
        for page in PAGES
        for target in dict.fromkeys(re.findall(r"\]\(([^)\s]+)\)", page.read_text()))
        if not target.startswith("http")
    ]


@pytest.mark.parametrize(("page", "target"), links())
def test_a_link_leads_to_a_file_and_a_heading_that_exist(page: Path, target: str):
    name, _, anchor = target.partition("#")
    path = (page.parent / name).resolve() if name else page

    assert path.is_file()
    headings = re.findall(r"(?m)^#+ (.*)$", path.read_text()) if anchor else []
    anchors = {re.sub(r"[^\w -]", "", each).strip().lower().replace(" ", "-") for each in headings}
    assert not anchor or anchor in anchors


def test_the_index_links_to_each_page():
    index = (FOLDER / "README.md").read_text()

    pages = [
        path.name
        for path in sorted(FOLDER.iterdir())
        if path.suffix in {".md", ".yml", ".json"} and path.name != "README.md"
    ]
    assert [name for name in pages if f"({name})" not in index] == []


def test_migrations_can_be_undone_for_a_roll_back(tmp_path):
    with database(tmp_path) as url:
        undone = [
            manage("migrate", app, "zero", "--verbosity", "0", DATABASE_URL=url)
            for app in ("films", "core", "cinemix")
        ]
        again = manage("migrate", "--verbosity", "0", DATABASE_URL=url)

    assert [(done.returncode, done.stderr) for done in [*undone, again]] == [(0, "")] * 4


def test_the_move_of_imdbapi_happens_as_the_runbook_tells(tmp_path, sandbox):
    with database(tmp_path) as url:
        before = on_sandbox(sandbox.url, DATABASE_URL=url, HTTP_RETRIES="1", HOT_SECONDS="0")
        moved = {**before, "IMDBAPI_BASE": "http://api.imdbapi.invalid"}
        with server(tmp_path, **before) as running:
            stored = running.get("/api/films/tt1375666").status

        with server(tmp_path, **moved) as running:
            answers = [running.get(f"/api/films/{each}") for each in ("tt1375666", "tt0111161")]
            failed = re.findall(r'"outcome": "(\w+)"', running.output)
            counted = running.get("/metrics").body.decode()
        checked = manage("check_upstreams", **moved)

    assert (stored, [answer.status for answer in answers]) == (200, [200, 503])
    assert set(failed) == {"dns_error"}
    assert re.search(r'_calls_total\{outcome="dns_error",source="imdbapi"} [1-9]', counted)
    assert "check IMDBAPI_BASE and the DNS: the host name does not resolve" in checked.stdout
