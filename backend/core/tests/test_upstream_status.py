"""What a look at a source tells, what it costs, and what it advises."""

import ssl
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx
import pytest
import respx

from core.budgets import Pace, Quota, UpstreamBudgets
from core.errors import (
    UpstreamQuotaExhausted,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamUnavailable,
)
from core.models import UpstreamState
from core.services.gate import Gate
from core.services.http_client import HttpClient
from core.services.imdb_service import IMDbService
from core.services.kinocheck_service import KinoCheckService
from core.services.omdb_service import OmdbService
from core.services.upstream import UpstreamService
from core.services.upstream_status import UpstreamStatus
from core.services.watchmode_service import WatchmodeService
from core.tests.support import CANARY
from core.upstream_checks import Finding, budgeted, findings

SSL_CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
NOW = datetime(2026, 3, 10, 12, tzinfo=timezone.utc)

TITLE = {"id": "tt1375666", "primaryTitle": "Inception"}
KINO_FILM = {"id": "ly4", "imdb_id": "tt4154796", "trailer": None}
REGIONS = [
    {"country": "US", "name": "USA", "plan_enabled": True},
    {"country": "TR", "name": "Turkey", "plan_enabled": False},
    {"country": "<script>", "plan_enabled": True},
]


@pytest.fixture
def upstream() -> Iterator[respx.MockRouter]:
    with respx.mock(assert_all_called=False) as router:
        yield router


@pytest.fixture
def http() -> HttpClient:
    return HttpClient(timeout=5, attempts=1, ssl_context=SSL_CONTEXT, sleep=lambda _: None)


def service(cls: type[UpstreamService], http: HttpClient, **options: Any) -> UpstreamService:
    given = {
        IMDbService: {"base_url": "https://imdb.test"},
        KinoCheckService: {
            "base_url": "https://kino.test",
            "api_key": CANARY,
            "language": "en",
        },
        WatchmodeService: {
            "base_url": "https://watch.test/v1",
            "api_key": CANARY,
            "region": "US",
        },
        OmdbService: {"base_url": "https://omdb.test", "api_key": CANARY},
    }[cls]
    return cls(http=http, **(given | options))


def answer_well(upstream: respx.MockRouter) -> None:
    upstream.get("https://imdb.test/titles/tt1375666").respond(json=TITLE)
    upstream.get("https://kino.test/movies").respond(json=KINO_FILM)
    upstream.get("https://watch.test/v1/status/").respond(json={"quota": 1000, "quotaUsed": 42})
    upstream.get("https://watch.test/v1/regions/").respond(json=REGIONS)
    upstream.get("https://omdb.test/").respond(json={"Title": "Inception", "Response": "True"})


ALL = [IMDbService, KinoCheckService, WatchmodeService, OmdbService]
WITH_KEY = ALL[1:]


@pytest.mark.parametrize(
    ("cls", "calls", "key_accepted"),
    [
        (IMDbService, 1, None),
        (KinoCheckService, 1, True),
        (WatchmodeService, 2, True),
        (OmdbService, 1, True),
    ],
)
def test_a_source_that_answers_needs_nothing(upstream, http, cls, calls, key_accepted):
    answer_well(upstream)

    status = service(cls, http).get_status()

    assert status.is_reachable
    assert status.error is None
    assert status.key_accepted is key_accepted
    assert status.advice == ()
    assert len(upstream.calls) == calls


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize(
    ("answer", "reachable", "advice"),
    [
        (httpx.ConnectError("refused"), False, "check {base} and the network"),
        (httpx.ReadTimeout("slow"), False, "check {base} and the network"),
        (httpx.Response(503), True, "check {base} and the network, or wait: http_5xx"),
        (httpx.Response(200, text="<html>"), True, "check {base}: what answers is not this API"),
        (httpx.Response(429, json={}), True, "wait "),
    ],
)
def test_a_source_that_fails_comes_with_advice(upstream, http, cls, answer, reachable, advice):
    if isinstance(answer, Exception):
        upstream.get().mock(side_effect=answer)
    else:
        stream = httpx.ByteStream(answer.content)
        upstream.get().mock(return_value=httpx.Response(answer.status_code, stream=stream))

    status = service(cls, http).get_status()

    assert status.is_reachable is reachable
    assert status.error is not None
    assert status.advice[0].startswith(advice.format(base=cls.setting_names.base))


@pytest.mark.parametrize("cls", WITH_KEY)
def test_a_refused_key_is_told_by_the_name_of_its_setting_and_never_shown(upstream, http, cls):
    upstream.get().mock(
        return_value=httpx.Response(
            401, json={"Response": "False", "Error": f"Invalid API key! {CANARY}"}
        )
    )

    status = service(cls, http).get_status()

    assert status.is_reachable
    assert status.key_accepted is False
    assert status.advice == (f"set another {cls.setting_names.key}: this one is refused",)
    assert CANARY not in repr(status)


@pytest.mark.parametrize("cls", [WatchmodeService, OmdbService])
def test_a_missing_key_asks_nobody(upstream, http, cls):
    status = service(cls, http, api_key="").get_status()

    assert status.is_reachable is None
    assert status.advice == (f"set {cls.setting_names.key}",)
    assert len(upstream.calls) == 0


def test_kinocheck_does_without_a_key(upstream, http):
    answer_well(upstream)

    status = service(KinoCheckService, http, api_key="").get_status()

    assert status.key_accepted is None
    assert status.advice == ()


@pytest.mark.parametrize(
    ("cls", "host"),
    [(IMDbService, "https://api.tiffara.com"), (KinoCheckService, "https://api.kinocheck.com")],
)
def test_a_host_that_is_gone_comes_with_the_name_of_another(upstream, http, cls, host):
    upstream.get().mock(side_effect=httpx.ConnectError("no such host"))

    assert host in service(cls, http).get_status().advice[0]


def test_a_region_outside_the_plan_is_told_with_those_inside(upstream, http):
    answer_well(upstream)

    status = service(WatchmodeService, http, region="TR").get_status()

    assert (status.region, status.covers_region) == ("TR", False)
    assert "set WATCHMODE_REGION to one that it has (US)" in status.advice[0]


def test_without_credits_the_regions_are_not_asked_for(upstream, http):
    answer_well(upstream)
    upstream.get("https://watch.test/v1/status/").respond(json={"quota": 1000, "quotaUsed": 1000})

    status = service(WatchmodeService, http).get_status()

    assert isinstance(status.error, UpstreamQuotaExhausted)
    assert status.is_reachable
    assert len(upstream.calls) == 1


@pytest.mark.parametrize(
    "body", [{}, [], {"quota": "many"}, {"quota": 5, "quotaUsed": -1}, {"quota": True}]
)
def test_an_account_that_makes_no_sense_is_a_bad_answer(upstream, http, body):
    upstream.get("https://watch.test/v1/status/").respond(json=body)

    status = service(WatchmodeService, http).get_status()

    assert status.error.code == "bad_response"


# With the budgets

GATES = ("imdbapi", "kinocheck", "watchmode")


class Looks:
    """The three sources with a budget, at a time that stands."""

    def __init__(self, http: HttpClient, **limits: Any) -> None:
        self.gates = {source: Gate(source, now=lambda: NOW) for source in GATES}
        self.slept: list[float] = []
        quotas = {"kinocheck": Quota("%Y-%m-%d", 1000), "watchmode": Quota("%Y-%m", None)}
        self.budgets = UpstreamBudgets(
            **{
                "gates": self.gates,
                "paces": {},
                "quotas": quotas,
                "probe_seconds": 5,
                "now": self.now,
                **limits,
            }
        )
        self.http = http

    def now(self) -> datetime:
        return NOW + timedelta(seconds=sum(self.slept))

    def at(self, cls: type[UpstreamService]) -> Finding:
        checked = service(cls, self.http, gate=self.gates[cls.source])
        check = budgeted(checked, self.budgets, sleep=self.slept.append)
        (finding,) = findings([check], deadline_seconds=15)
        return finding


@pytest.fixture
def looks(db, http, upstream) -> Looks:
    answer_well(upstream)
    return Looks(http)


def closed(source: str, error: type, seconds: float = 100) -> None:
    UpstreamState.objects.create(
        source=source, closed_until=NOW + timedelta(seconds=seconds), code=error.code, strikes=1
    )


def test_our_own_count_tells_what_is_left_the_look_included(looks):
    UpstreamState.objects.create(source="kinocheck", quota_period="2026-03-10", quota_used=500)

    finding = looks.at(KinoCheckService)

    assert (finding.standing.left, finding.standing.period) == (499, "today")
    assert finding.advice == ()


def test_a_count_of_another_day_is_over(looks):
    UpstreamState.objects.create(source="kinocheck", quota_period="2026-03-09", quota_used=1000)

    assert looks.at(KinoCheckService).standing.left == 999


def test_what_watchmode_says_of_our_account_is_kept_for_all_processes(looks):
    finding = looks.at(WatchmodeService)

    assert (finding.standing.left, finding.standing.period) == (958, "this month")
    assert UpstreamState.objects.get(source="watchmode").quota_used == 42


def test_a_used_up_day_is_told_without_a_call(looks, upstream):
    UpstreamState.objects.create(source="kinocheck", quota_period="2026-03-10", quota_used=1000)

    finding = looks.at(KinoCheckService)

    assert finding.status.is_reachable is None
    assert finding.advice
    assert len(upstream.calls) == 0


def test_a_reserve_that_is_touched_needs_attention(looks):
    UpstreamState.objects.create(source="kinocheck", quota_period="2026-03-10", quota_used=920)

    assert "is kept for films that are stored" in looks.at(KinoCheckService).advice[0]


def test_a_cool_down_that_the_source_asked_for_holds_for_the_look_too(looks, upstream):
    closed("imdbapi", UpstreamRateLimited)

    finding = looks.at(IMDbService)

    assert finding.status.is_reachable is None
    assert finding.advice == ("wait 100 s (rate_limited), nobody is to call it before",)
    assert len(upstream.calls) == 0


@pytest.mark.parametrize("error", [UpstreamRejected, UpstreamUnavailable])
def test_other_closures_do_not_keep_anybody_from_looking_whether_they_are_over(looks, error):
    closed("watchmode", error)

    finding = looks.at(WatchmodeService)

    assert finding.status == UpstreamStatus(
        "watchmode", key_accepted=True, region="US", covers_region=True, cost="1 credit"
    )
    assert finding.advice == ()
    assert finding.notes == (f"answers again; films ask it again within 100 s ({error.code})",)


def test_the_look_takes_its_turn_at_a_paced_source(db, http, upstream):
    answer_well(upstream)
    looks = Looks(http, paces={"imdbapi": Pace(1, 4)})
    looks.budgets.take("imdbapi", 1)

    assert looks.at(IMDbService).advice == ()

    assert looks.slept == [4]


def test_a_look_whose_turn_does_not_come_in_time_is_not_made(db, http, upstream):
    looks = Looks(http, paces={"imdbapi": Pace(1, 400)})
    looks.budgets.take("imdbapi", 1)

    assert looks.at(IMDbService).status.error.code == "deadline"
    assert len(upstream.calls) == 0
