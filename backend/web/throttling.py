"""Limits per client address, and the headers that report them."""

import math
from collections.abc import Mapping
from typing import Any, Protocol

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.settings import api_settings
from rest_framework.throttling import BaseThrottle, SimpleRateThrottle
from rest_framework.views import APIView

from web.api import JSONView
from web.client_address import client_address


class AddressThrottle(SimpleRateThrottle):
    """Counts requests per client address.

    `scope` names the rate in `DEFAULT_THROTTLE_RATES` of REST framework's settings; None there
    means no limit.
    """

    scope: str
    num_requests: int
    duration: int

    def get_rate(self) -> str | None:
        """Return the rate of the scope, None for no limit."""
        rates: Mapping[str, Any] = api_settings.DEFAULT_THROTTLE_RATES
        rate: str | None = rates[self.scope]
        return rate

    def get_cache_key(self, request: Request, view: APIView | None) -> str:
        """Return the key under which this client is counted."""
        return f"throttle_{self.scope}_{client_address(request)}"

    def allow_request(self, request: Request, view: APIView | None) -> bool:
        """Count the request and return True, or return False if the limit is reached."""
        if self.rate is None:
            return True
        self.key = self.get_cache_key(request, view)
        self.now = self.timer()
        self.history = self._counted(self.cache.get(self.key))
        if len(self.history) >= self.num_requests:
            return self.throttle_failure()
        return self.throttle_success()

    def _counted(self, stored: Any) -> list[float]:
        """Return the times of the counted requests, newest first.

        The cache may hold anything under the key. After a clock was set back, times lie in the
        future; they count if they are near.
        """
        if not isinstance(stored, list):
            return []
        times = [time for time in stored if isinstance(time, float)]
        return sorted(
            (time for time in times if abs(time - self.now) < self.duration), reverse=True
        )

    def headers(self) -> dict[str, str]:
        """Return the limit, what is left of it, and the seconds until all of it is back.

        Empty if there is no limit, or no request was counted.
        """
        if self.rate is None or not hasattr(self, "history"):
            return {}
        oldest = self.history[-1] if self.history else self.now
        return rate_limit_headers(
            limit=self.num_requests,
            remaining=self.num_requests - len(self.history),
            reset=oldest + self.duration - self.now,
        )


class ReportsLimit(Protocol):
    """A throttle whose limit callers can read from headers."""

    def headers(self) -> dict[str, str]:
        """Return the headers of `rate_limit_headers`; empty if no request was counted."""


class ThrottledView(JSONView):
    """An endpoint whose responses report the limit by which the request was counted, if any."""

    _throttle: ReportsLimit | None = None

    def get_throttles(self) -> list[BaseThrottle]:
        """Return the throttles of the class; the last one is reported."""
        throttles = super().get_throttles()
        for throttle in throttles:
            if isinstance(throttle, AddressThrottle):
                self.counted_by(throttle)
        return throttles

    def counted_by(self, throttle: ReportsLimit) -> None:
        """Report the limit of this throttle in the response."""
        self._throttle = throttle

    def finalize_response(
        self, request: Request, response: Response, *args: Any, **kwargs: Any
    ) -> Response:
        """Return the response with the headers of the throttle that counted the request."""
        finished = super().finalize_response(request, response, *args, **kwargs)
        if self._throttle:
            for name, value in self._throttle.headers().items():
                finished[name] = value
        return finished


def rate_limit_headers(*, limit: int, remaining: int, reset: float) -> dict[str, str]:
    """Return the three headers; `reset` is in seconds from now."""
    return {
        "X-RateLimit-Limit": str(limit),
        "X-RateLimit-Remaining": str(max(0, remaining)),
        "X-RateLimit-Reset": str(max(0, math.ceil(reset))),
    }
