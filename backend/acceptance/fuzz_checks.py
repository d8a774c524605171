"""What every answer has, beyond its OpenAPI description; loaded by schemathesis."""

import os

import schemathesis

CANARIES = os.environ["FUZZ_CANARIES"].encode().split()


@schemathesis.check
def manners(ctx, response, case):
    headers = response.headers
    assert headers["x-content-type-options"] == ["nosniff"], headers
    assert headers["x-correlation-id"], headers
    assert headers["content-type"], headers
    if response.status_code >= 400:
        assert headers["cache-control"] == ["no-store"], headers
        assert headers["content-type"] == ["application/json"], headers
        assert set(response.json()) == {"error_code", "message"}, response.text


@schemathesis.check
def no_key_shows(ctx, response, case):
    sent = response.content + repr(response.headers).encode()
    assert not [canary for canary in CANARIES if canary in sent]


@schemathesis.check
def only_too_many_matches(ctx, response, case):
    is_fit = case.meta and case.meta.generation.mode.is_positive
    if is_fit and response.status_code == 400:
        assert "Too many titles match" in response.text
