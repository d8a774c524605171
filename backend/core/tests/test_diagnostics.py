"""What a check of a source finds out, what it costs, and what it advises."""

import ssl
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx
import pytest
import respx

from core.errors import (
    UpstreamError,
    UpstreamQuotaExhausted,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamUnavailable,
)
from core.models import UpstreamState
from core.services.diagnostics import Finding, check_sources
from core.services.http_client import HttpClient
from core.services.imdb_service import IMDbService
from core.services.kinocheck_service import KinoCheckService
from core.services.limits import Quota, Rate, UpstreamLimits, plan_of
from core.services.omdb_service import OmdbService
from core.services.upstream import UpstreamService
from core.services.upstream_status import UpstreamStatus
from core.services.watchmode_service import WatchmodeService
from core.tests.support import CANARY

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
def http() -> HttpClient:
    return HttpClient(timeout=5, attempts=1, ssl_context=SSL_CONTEXT, sleep=lambda _: None)


def service(cls: type[UpstreamService], http: HttpClient, **options: Any) -> UpstreamService:
    given = {
        IMDbService: {"base_url": "https://imdb.test"},
        KinoCheckService: {
            "base_url": "https://kino.test",
            "api_key": CANARY,
            "languages": ["en"],
        },
        WatchmodeService: {
            "base_url": "https://watch.test/v1",
            "api_key": CANARY,
            "regions": ["US"],
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
def test_a_source_that_answers_needs_no_action(upstream, http, cls, calls, key_accepted):
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
        (
            httpx.Response(200, text="<html>"),
            True,
            "check {base}: the answer is not that of this API",
        ),
        (httpx.Response(429, json={}), True, "wait "),
    ],
)
def test_a_source_that_fails_is_reported_with_advice(
    upstream, http, cls, answer, reachable, advice
):
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
def test_a_rejected_key_is_reported_by_the_name_of_its_setting_and_never_shown(upstream, http, cls):
    upstream.get().mock(
        return_value=httpx.Response(
            401, json={"Response": "False", "Error": f"Invalid API key! {CANARY}"}
        )
    )

    status = service(cls, http).get_status()

    assert status.is_reachable
    assert status.key_accepted is False
    assert status.advice == (f"set another {cls.setting_names.key}: this one is rejected",)
    assert CANARY not in repr(status)


@pytest.mark.parametrize("cls", [WatchmodeService, OmdbService])
def test_without_its_key_no_call_is_made(upstream, http, cls):
    status = service(cls, http, api_key="").get_status()

    assert status.is_reachable is None
    assert status.advice == (f"set {cls.setting_names.key}",)
    assert len(upstream.calls) == 0


def test_kinocheck_needs_no_key(upstream, http):
    answer_well(upstream)

    status = service(KinoCheckService, http, api_key="").get_status()

    assert status.key_accepted is None
    assert status.advice == ()


@pytest.mark.parametrize(
    ("cls", "host"),
    [(IMDbService, "https://api.tiffara.com"), (KinoCheckService, "https://api.kinocheck.com")],
)
def test_an_unreachable_host_is_reported_with_the_name_of_another_one(upstream, http, cls, host):
    upstream.get().mock(side_effect=httpx.ConnectError("no such host"))

    assert host in service(cls, http).get_status().advice[0]


def test_a_region_outside_the_plan_is_reported_with_those_inside(upstream, http):
    answer_well(upstream)

    status = service(WatchmodeService, http, regions=["TR"]).get_status()

    assert (status.region, status.covers_region) == ("TR", False)
    assert "to regions that it has (US)" in status.advice[0]


def test_without_credits_the_regions_are_not_read(upstream, http):
    answer_well(upstream)
    upstream.get("https://watch.test/v1/status/").respond(json={"quota": 1000, "quotaUsed": 1000})

    status = service(WatchmodeService, http).get_status()

    assert isinstance(status.error, UpstreamQuotaExhausted)
    assert status.is_reachable
    assert len(upstream.calls) == 1


@pytest.mark.parametrize(
    "body", [{}, [], {"quota": "many"}, {"quota": 5, "quotaUsed": -1}, {"quota": True}]
)
def test_an_account_with_invalid_numbers_is_a_bad_answer(upstream, http, body):
    upstream.get("https://watch.test/v1/status/").respond(json=body)

    status = service(WatchmodeService, http).get_status()

    assert status.error.code == "bad_response"


# With the limits


class Checks:
    """Checks of single sources; time passes only while a check waits."""

    def __init__(self, http: HttpClient, **limits: Any) -> None:
        self.http = http
        self.slept: list[float] = []
        quotas = {
            "kinocheck": Quota("%Y-%m-%d", 1000),
            "watchmode": Quota("%Y-%m", None),
        }
        self.limits = UpstreamLimits(**{"rates": {}, "quotas": quotas, "now": self.now, **limits})

    def now(self) -> datetime:
        return NOW + timedelta(seconds=sum(self.slept))

    def of(self, cls: type[UpstreamService], **options: Any) -> Finding:
        services = [service(cls, self.http, **options)]
        (finding,) = check_sources(
            services, self.limits, deadline_seconds=15, sleep=self.slept.append
        )
        return finding


@pytest.fixture
def checks(db, http, upstream) -> Checks:
    answer_well(upstream)
    return Checks(http)


def opened(source: str, error: type[UpstreamError], seconds: float = 100) -> None:
    UpstreamState.objects.create(
        source=source, open_until=NOW + timedelta(seconds=seconds), code=error.code, trips=1
    )


def used(source: str) -> int:
    return UpstreamState.objects.get(source=source).quota_used


def test_our_own_count_says_what_is_left_after_the_check(checks):
    UpstreamState.objects.create(source="kinocheck", quota_period="2026-03-10", quota_used=500)

    finding = checks.of(KinoCheckService)

    assert (finding.shared.left, finding.shared.period) == (499, "today")
    assert finding.advice == ()


def test_the_count_of_another_day_is_over(checks):
    UpstreamState.objects.create(source="kinocheck", quota_period="2026-03-09", quota_used=1000)

    assert checks.of(KinoCheckService).shared.left == 999


def test_further_attempts_of_a_check_are_counted(db, upstream):
    upstream.get("https://kino.test/movies").respond(status_code=503)
    http = HttpClient(timeout=5, attempts=3, ssl_context=SSL_CONTEXT, sleep=lambda _: None)
    checks = Checks(http, rates={"kinocheck": Rate(10, 1e9)})

    checks.of(KinoCheckService)

    assert used("kinocheck") == 3
    assert checks.limits.take_tokens("kinocheck", 100)[0] == 7


def test_a_check_that_makes_no_call_counts_as_none(db, http, upstream):
    checks = Checks(http, rates={"kinocheck": Rate(1, 400)})
    checks.limits.take_tokens("kinocheck", 1)

    finding = checks.of(KinoCheckService)

    assert finding.status.error.code == "deadline"
    assert used("kinocheck") == 0
    assert len(upstream.calls) == 0


def test_a_check_without_a_key_costs_nothing(db, http, upstream):
    checks = Checks(http, quotas={"omdb": Quota("%Y-%m-%d", 1000)})

    finding = checks.of(OmdbService, api_key="")

    assert finding.status.error.code == "not_configured"
    assert finding.shared.used == 0


def test_the_account_that_watchmode_reports_is_stored_for_all_processes(checks):
    finding = checks.of(WatchmodeService)

    assert (finding.shared.left, finding.shared.period) == (958, "this month")
    assert used("watchmode") == 42


def test_a_used_up_quota_is_reported_without_a_call(checks, upstream):
    UpstreamState.objects.create(source="kinocheck", quota_period="2026-03-10", quota_used=1000)

    finding = checks.of(KinoCheckService)

    assert finding.status.is_reachable is None
    assert finding.advice == ("wait for the next period, or take a larger plan",)
    assert len(upstream.calls) == 0


@pytest.mark.parametrize(
    ("used", "advice"),
    [
        (898, ()),
        (899, ("what is left for today is kept for films that are stored",)),
        (999, ("the quota of today is used up",)),
    ],
)
def test_a_quota_of_which_only_the_reserve_is_left_needs_attention(checks, used, advice):
    UpstreamState.objects.create(source="kinocheck", quota_period="2026-03-10", quota_used=used)

    found = checks.of(KinoCheckService).advice

    assert found == tuple(f"{text}: wait, or take a larger plan" for text in advice)


def test_a_cool_down_that_the_source_asked_for_holds_for_the_check_too(checks, upstream):
    opened("imdbapi", UpstreamRateLimited)

    finding = checks.of(IMDbService)

    assert finding.status.is_reachable is None
    assert finding.advice == ("wait 100 s (rate_limited), no call is made before",)
    assert len(upstream.calls) == 0


@pytest.mark.parametrize("error", [UpstreamRejected, UpstreamUnavailable])
def test_another_open_breaker_does_not_keep_a_check_from_finding_out_whether_it_is_over(
    checks, error
):
    opened("watchmode", error)

    finding = checks.of(WatchmodeService)

    assert finding.status == UpstreamStatus(
        "watchmode", key_accepted=True, region="US", covers_region=True, cost="1 credit"
    )
    assert finding.advice == ()
    assert finding.notes == (f"answers again; films use it again within 100 s ({error.code})",)


def test_the_plan_that_a_check_reads_is_used_for_films(checks):
    checks.of(WatchmodeService)

    row = checks.limits.read(["watchmode"])["watchmode"]
    assert plan_of(row).regions == {"US"}


def test_a_check_waits_for_a_token_of_a_source_with_a_rate(db, http, upstream):
    answer_well(upstream)
    checks = Checks(http, rates={"imdbapi": Rate(1, 4)})
    checks.limits.take_tokens("imdbapi", 1)

    assert checks.of(IMDbService).advice == ()

    assert checks.slept == [4]
    assert checks.limits.take_tokens("imdbapi", 1)[0] == 0


def test_a_check_whose_token_does_not_come_in_time_makes_no_call(db, http, upstream):
    checks = Checks(http, rates={"imdbapi": Rate(1, 400)})
    checks.limits.take_tokens("imdbapi", 1)

    assert checks.of(IMDbService).status.error.code == "deadline"

    assert checks.slept == []
    assert len(upstream.calls) == 0
