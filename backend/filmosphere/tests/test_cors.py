"""Pages on other origins."""

import pytest
from django.test import Client

ORIGIN = "https://app.example"


@pytest.fixture(autouse=True)
def _origin_is_allowed(settings):
    settings.CORS_ALLOWED_ORIGINS = [ORIGIN]


def test_a_page_on_an_allowed_origin_may_read_the_answer_and_its_headers():
    response = Client().get("/api/films/abc", headers={"origin": ORIGIN})

    assert response["Access-Control-Allow-Origin"] == ORIGIN
    exposed = response["Access-Control-Expose-Headers"]
    for name in ("ETag", "Age", "Retry-After", "X-Correlation-ID", "X-RateLimit-Remaining"):
        assert name in exposed


def test_a_page_on_another_origin_may_not():
    response = Client().get("/api/films/abc", headers={"origin": "https://evil.example"})

    assert "Access-Control-Allow-Origin" not in response


def test_a_preflight_is_answered_without_asking_anybody():
    response = Client().options(
        "/api/films/tt1375666",
        headers={
            "origin": ORIGIN,
            "access-control-request-method": "GET",
            "access-control-request-headers": "if-none-match",
        },
    )

    assert response.status_code == 200
    assert response["Access-Control-Allow-Origin"] == ORIGIN
    assert "if-none-match" in response["Access-Control-Allow-Headers"]
    assert response["X-Correlation-ID"]
