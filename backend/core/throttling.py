"""Limits per client address, and how callers learn of them."""

import math
from typing import Any, Protocol, runtime_checkable

from django.conf import settings
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import BaseThrottle, SimpleRateThrottle
from rest_framework.views import APIView

from core.api import JSONView


class AddressThrottle(SimpleRateThrottle):
    """Counts something per client address; `rate_setting` names the setting with the rate.

    The address is that of the connection, or the one that the last of `NUM_PROXIES` trusted
    proxies saw.
    """

    rate_setting: str
    num_requests: int
    duration: int

    def get_rate(self) -> str | None:
        """Return the rate, None for no limit."""
        rate: str | None = getattr(settings, self.rate_setting)
        return rate

    def get_cache_key(self, request: Request, view: APIView) -> str:
        """Return the key under which this client is counted."""
        return f"throttle_{self.scope}_{self.get_ident(request)}"

    def headers(self) -> dict[str, str]:
        """Return limit, what is left of it, and the seconds until all of it is back.

        Empty where there is no limit, or nothing was counted.
        """
        if self.rate is None or not hasattr(self, "history"):
            return {}
        history: list[float] = self.history
        oldest = history[-1] if history else self.now
        return rate_limit_headers(
            limit=self.num_requests,
            remaining=self.num_requests - len(history),
            reset=oldest + self.duration - self.now,
        )


@runtime_checkable
class TellsItsLimit(Protocol):
    """A throttle that callers can see coming."""

    def headers(self) -> dict[str, str]:
        """Return what `rate_limit_headers` makes; empty where nothing was counted."""


class ThrottledView(JSONView):
    """An endpoint whose answers tell how much of a limit is left, where something was counted."""

    def get_throttles(self) -> list[BaseThrottle]:
        """Return the throttles of the class, remembered for their headers."""
        throttles = super().get_throttles()
        for throttle in throttles:
            self.counted_by(throttle)
        return throttles

    def counted_by(self, throttle: BaseThrottle) -> None:
        """Tell of this throttle in the answer."""
        self._throttle = throttle

    def finalize_response(
        self, request: Request, response: Response, *args: Any, **kwargs: Any
    ) -> Response:
        """Return the answer with the headers of the throttle that counted it."""
        finished = super().finalize_response(request, response, *args, **kwargs)
        throttle = getattr(self, "_throttle", None)
        if isinstance(throttle, TellsItsLimit):
            for name, value in throttle.headers().items():
                finished[name] = value
        return finished


def rate_limit_headers(*, limit: int, remaining: int, reset: float) -> dict[str, str]:
    """Return the three headers; `reset` is in seconds from now."""
    return {
        "X-RateLimit-Limit": str(limit),
        "X-RateLimit-Remaining": str(max(0, remaining)),
        "X-RateLimit-Reset": str(max(0, math.ceil(reset))),
    }
