"""What /api/sources says of what a source covers."""

from datetime import datetime, timezone

import pytest
from django.test import Client

from core.services.circuit_breaker import Plan
from filmosphere import wiring

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _regions(settings):
    settings.WATCHMODE_REGIONS = ("TR", "DE", "US")


def covered() -> list[str]:
    (watchmode,) = (
        source
        for source in Client().get("/api/sources").json()["sources"]
        if source["name"] == "watchmode"
    )
    return watchmode["covers"]


def test_all_configured_regions_are_covered_as_long_as_the_plan_is_not_known():
    assert covered() == ["TR", "DE", "US"]


@pytest.mark.parametrize(("plan", "regions"), [(["US", "DE", "FR"], ["DE", "US"]), ([], [])])
def test_regions_outside_the_plan_are_left_out(plan, regions):
    read_at = datetime.now(timezone.utc)
    wiring.upstream_limits().note_plan("watchmode", Plan(frozenset(plan), read_at))

    assert covered() == regions
