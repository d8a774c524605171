"""The page of `make bench`, what `make bench-quick` finds worse, and latency in an open loop."""

import pytest

from tools.bench import quick
from tools.bench.load import parsed
from tools.bench.memory import REQUESTS, _after
from tools.bench.open_loop import Schedule, percentile
from tools.bench.page import PLOTS, ROWS, TEMPLATE, Row, rendered

CIRCUMSTANCES = {"commit": "abc1234", "date": "2026-11-26 03:00", "seconds": 4, "machine": "M"}


def figures(**parts):
    return {name: {"measured": CIRCUMSTANCES, **part} for name, part in parts.items()}


def ratio(value, unit="requests/s"):
    return {"figure": value * 30_000, "limit": 30_000, "value": value, "unit": unit}


def line_of(page, title):
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {title} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


# --- the page ---------------------------------------------------------------------------------


def test_a_line_of_the_table_has_the_figure_its_limit_the_ratio_the_target_and_whether_it_is_met():
    page = rendered(figures(warm={"hit": ratio(0.9), "not_modified": ratio(0.6)}), "{{table}}")

    assert line_of(page, ROWS[0].title)[1:] == [
        "27,000 requests/s",
        "30,000 requests/s",
        "0.90",
        "≥ 0.85",
        "yes",
        "",
    ]
    assert line_of(page, ROWS[1].title)[3:6] == ["0.60", "≥ 0.9", "no"]


def test_a_figure_without_a_limit_is_compared_with_its_target():
    found = {"at_32": {"figure": 48.2, "value": 48.2, "unit": "films/s"}}

    page = rendered(figures(cold=found), "{{table}}")

    line = line_of(page, "cold films/s, 32 in flight")
    assert line[1:] == ["48.2 films/s", "", "", "≥ 95", "no", ""]


def test_a_figure_that_could_not_be_measured_says_why():
    found = {"fastapi": {"missing": "requirements/benchmarks.txt is not installed"}}

    page = rendered(figures(neighbours=found), "{{table}}")

    line = line_of(page, "film hit from memory / FastAPI, Redis, pydantic")
    assert line[1] == "could not be measured: requirements/benchmarks.txt is not installed"
    assert line[5] == "?"


def test_a_part_that_could_not_be_measured_gives_its_figures_and_its_plot_the_reason():
    page = rendered(figures(memory={"missing": "no /proc"}), "{{table}}\n{{plot_memory}}")

    assert line_of(page, "memory of a worker at rest, MB")[1] == "could not be measured: no /proc"
    assert page.endswith(f"{PLOTS['memory']}: could not be measured: no /proc.")


def test_a_figure_of_a_part_that_was_never_measured_says_so():
    page = rendered({}, "{{table}}\nThe ratio is {{warm.hit.value:.2f}}.")

    assert line_of(page, ROWS[0].title)[1] == "could not be measured: not measured yet"
    assert page.endswith("The ratio is (not measured).")


def test_figures_in_the_text_come_from_the_measurement():
    page = rendered(figures(warm={"hit": ratio(0.876)}), "{{warm.hit.value:.2f}} of the limit")

    assert page == "0.88 of the limit"


def test_memory_that_was_watched_for_less_than_an_hour_says_for_how_long():
    page = rendered(figures(memory={"minutes": 5.1}), "{{plot_memory}}")

    assert "Measured for 5.1 minutes, not for an hour." in page


def test_memory_that_was_watched_for_an_hour_does_not():
    assert "not for an hour" not in rendered(figures(memory={"minutes": 60.1}), "{{plot_memory}}")


def test_memory_after_fewer_than_a_million_requests_does_not_count_as_met():
    curve = [{"mb": 70.0, "requests": 0}, {"mb": 80.0, "requests": 500_000}]

    page = rendered(figures(memory={"after": _after(curve), "minutes": 1.0}), "{{table}}")

    line = line_of(page, "memory after a million requests for 10,000 films, MB")
    assert line[1] == "80 MB; only 500,000 requests were made in the time"
    assert line[5] == "?"


def test_memory_after_a_million_requests_is_that_of_the_first_sample_then():
    curve = [{"mb": 80.0, "requests": REQUESTS - 1}, {"mb": 90.0, "requests": REQUESTS + 1}]

    found = _after([*curve, {"mb": 100.0, "requests": 2 * REQUESTS}])

    assert found["value"] == 90.0
    assert "missing" not in found


def test_neighbours_are_listed_from_the_fastest_to_those_that_are_missing():
    warm = {
        "slow": {"rate": 400.0, "p50": 20.0},
        "Varnish": {"missing": "Varnish is not installed"},
        "fast": {"rate": 40_000.0, "p50": 0.2},
    }

    page = rendered(figures(neighbours={"warm": warm}), "{{warm_neighbours}}")

    assert page.splitlines()[2:] == [
        "| fast | 40,000 | 0.20 |",
        "| slow | 400 | 20.00 |",
        "| Varnish | could not be measured: Varnish is not installed | |",
    ]


def test_parts_of_two_machines_name_both():
    parts = figures(warm={}, cold={})
    parts["cold"]["measured"] = CIRCUMSTANCES | {"machine": "N"}

    page = rendered(parts, "{{measured}}")

    assert "Machine of warm: M." in page
    assert "Machine of cold: N." in page


def test_the_template_can_be_rendered_without_any_figure():
    assert "{{" not in rendered({}, TEMPLATE.read_text())


# --- make bench-quick -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at_most", "now", "before", "is_worse"),
    [
        (False, 0.44, 0.9, True),
        (False, 0.46, 0.9, False),
        (False, 2.0, 0.9, False),
        (True, 1.6, 1.05, True),
        (True, 1.55, 1.05, False),
        (True, 0.1, 1.05, False),
    ],
)
def test_a_ratio_is_off_if_it_is_worse_by_more_than_half(at_most, now, before, is_worse):
    assert Row("a ratio", "a.b", 1, at_most=at_most).is_worse_by_half(now, before) is is_worse


def test_a_ratio_that_is_off_twice_fails(monkeypatch, capsys):
    status = run_quick(monkeypatch, first={"hit": 0.2}, second={"hit": 0.3})

    assert status == 1
    assert f"FAIL {ROWS[0].title}" in capsys.readouterr().out


def test_a_ratio_that_is_off_only_once_does_not_fail(monkeypatch, capsys):
    status = run_quick(monkeypatch, first={"hit": 0.2}, second={"hit": 0.8})

    assert status == 0
    assert "FAIL" not in capsys.readouterr().out


def test_a_ratio_without_a_stored_one_is_printed_and_does_not_fail(monkeypatch, capsys):
    status = run_quick(monkeypatch, first={"not_modified": 0.01}, second={})

    assert status == 0
    assert "new" in capsys.readouterr().out


def test_rates_are_compared_by_their_cpu_time_which_other_programs_hardly_change(capsys):
    stored = figures(warm={"hit": ratio(0.9) | {"cpu_value": 0.9}})

    off = quick.worse({"warm": {"hit": ratio(0.1) | {"cpu_value": 0.8}}}, stored)

    assert off == []
    assert "0.80, stored   0.90" in capsys.readouterr().out


def run_quick(monkeypatch, *, first, second):
    """Compare two measurements of `warm`, one after the other, with a stored hit of 0.9."""
    answers = iter([first, second])

    def measured(bench, rows):
        return {"warm": {name: ratio(value) for name, value in next(answers).items()}}

    monkeypatch.setattr(quick, "_measured", measured)
    monkeypatch.setattr(quick, "replace", lambda bench, **changes: bench)
    return quick.quick(None, figures(warm={"hit": ratio(0.9)}))


# --- load -------------------------------------------------------------------------------------


def test_a_request_that_a_stalled_server_delays_counts_from_when_it_was_due():
    schedule = Schedule(rate=10, number=3, started=100.0)
    # The server answers the first one after a second. Only then can the others be sent.
    first = schedule.send()
    schedule.answered(first, 101.0)
    for _ in range(2):
        schedule.answered(schedule.send(), 101.0)

    assert schedule.latencies == pytest.approx([1.0, 0.9, 0.8])


def test_requests_are_due_at_a_constant_rate_whatever_was_answered():
    schedule = Schedule(rate=4, number=3, started=10.0)

    due = [schedule.send() for _ in range(3)]

    assert due == [10.0, 10.25, 10.5]
    assert schedule.due_at == float("inf")
    assert not schedule.is_over


@pytest.mark.parametrize(("percent", "value"), [(50, 5), (99, 10), (100, 10), (1, 1)])
def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(percent, value):
    assert percentile(range(1, 11), percent) == value


WRK = """Running 4s test @ http://127.0.0.1:8000
  1 threads and 8 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.10ms  600.00us  20.00ms   90.00%
    Req/Sec     7.00k   500.00     8.00k    70.00%
  Latency Distribution
     50%  980.00us
     75%    1.20ms
     90%    1.60ms
     99%    3.50ms
  28000 requests in 4.00s, 500.00MB read
{more}Requests/sec:   7000.00
Transfer/sec:    125.00MB
"""


def test_the_rate_and_the_latencies_are_read_from_what_wrk_prints():
    load = parsed(WRK.format(more=""))

    assert (load.rate, load.p50, load.p99, load.requests) == (7000.0, 0.98, 3.5, 28_000)


@pytest.mark.parametrize(
    "more",
    [
        "  Socket errors: connect 0, read 3, write 0, timeout 0\n",
        "  Non-2xx or 3xx responses: 7\n",
    ],
)
def test_load_with_failed_requests_is_no_measurement(more):
    with pytest.raises(AssertionError):
        parsed(WRK.format(more=more))
