"""The errors that the service raises on purpose."""

import math

# ServiceError               the request cannot be answered as it was sent
# |- InvalidInput            the caller sent an invalid value
# |- Overloaded              the service is busy, or the caller is too fast
# `- UpstreamError           a film source failed
#    |- UpstreamNotFound        it has no such title
#    |- UpstreamUnavailable     it could not be asked; another attempt may succeed
#    |  |- UpstreamTimeout         no answer within the time of one attempt
#    |  |- DeadlineExceeded        no time left for the whole request
#    |  |- UpstreamRateLimited     it asks for fewer calls
#    |  |- UpstreamQuotaExhausted  the calls of the day or month are used up
#    |  |- UpstreamRejected        it rejects our key
#    |  `- UpstreamNotConfigured   no key is configured
#    |- RegionNotCovered        our plan does not include the region
#    `- UpstreamBadAnswer       an unusable answer: not JSON, wrong shape, another 4xx


class ServiceError(Exception):
    """The request cannot be answered as it was sent."""


class InvalidInput(ServiceError):
    """The caller sent an invalid value; the message names the parameter and the rule."""


class Overloaded(ServiceError):
    """The service takes no more work now; another attempt makes sense in `retry_after` seconds.

    `is_callers_fault` is true if this caller sends too many requests, false if the service is busy.
    """

    def __init__(self, message: str, *, retry_after: float, is_callers_fault: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.is_callers_fault = is_callers_fault

    @classmethod
    def for_caller(cls, retry_after: float) -> "Overloaded":
        """Return the error for a caller that sends too many requests."""
        message = f"Too many requests: try again in {math.ceil(retry_after)} s."
        return cls(message, retry_after=retry_after, is_callers_fault=True)


class UpstreamError(ServiceError):
    """A film source failed.

    `code` is the warning code that clients see, `reason` a short name for the logs, `source` the
    name of the source. `retry_after` is the number of seconds after which another attempt makes
    sense, None if it is unknown. None of them ever holds a URL or text that the source sent.
    """

    code = "unavailable"

    def __init__(self, source: str, reason: str, *, retry_after: float | None = None) -> None:
        super().__init__(f"{source}: {reason}")
        self.source = source
        self.reason = reason
        self.retry_after = retry_after

    @property
    def is_tls_failure(self) -> bool:
        """Whether TLS failed, as with an invalid certificate; another attempt does not help."""
        return self.reason.startswith("tls_")


class UpstreamNotFound(UpstreamError):
    """The source has no such title."""

    code = "not_found"


class UpstreamUnavailable(UpstreamError):
    """The source could not be asked, or failed to answer."""


class UpstreamTimeout(UpstreamUnavailable):
    """The source did not answer within the time of one attempt."""

    code = "timeout"


class DeadlineExceeded(UpstreamUnavailable):
    """The deadline of the whole request passed."""

    code = "deadline"


class UpstreamRateLimited(UpstreamUnavailable):
    """The source asks for fewer calls."""

    code = "rate_limited"


class UpstreamQuotaExhausted(UpstreamUnavailable):
    """The calls that the source allows in a day or month are used up."""

    code = "quota_exhausted"


class UpstreamRejected(UpstreamUnavailable):
    """The source rejects our key."""

    code = "rejected"


class UpstreamNotConfigured(UpstreamUnavailable):
    """The source needs a key and none is configured."""

    code = "not_configured"


class RegionNotCovered(UpstreamError):
    """Our plan does not include the requested region."""

    code = "region_not_covered"


class UpstreamBadAnswer(UpstreamError):
    """The answer of the source is unusable."""

    code = "bad_response"


_BY_CODE: dict[str, type[UpstreamError]] = {
    error.code: error
    for error in (
        UpstreamNotFound,
        UpstreamUnavailable,
        UpstreamTimeout,
        DeadlineExceeded,
        UpstreamRateLimited,
        UpstreamQuotaExhausted,
        UpstreamRejected,
        UpstreamNotConfigured,
        RegionNotCovered,
        UpstreamBadAnswer,
    )
}


def error_for_code(code: str) -> type[UpstreamError]:
    """Return the class with this `code`, `UpstreamUnavailable` if the code is unknown."""
    return _BY_CODE.get(code, UpstreamUnavailable)
