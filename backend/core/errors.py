"""What can go wrong between a caller, us and a film source."""

# ServiceError               a request that cannot be answered as asked
# |- InvalidInput            the caller sent something that cannot be meant
# |- Overloaded              too much to do already; the caller is to come back
# `- UpstreamError           a film source let us down
#    |- UpstreamNotFound        it answered: no such title
#    |- UpstreamUnavailable     could not look; another try may help
#    |  |- UpstreamTimeout         no answer in the time of one attempt
#    |  |- DeadlineExceeded        the time of the whole request ran out
#    |  |- UpstreamRateLimited     it asks us to slow down
#    |  |- UpstreamQuotaExhausted  the calls of the day or month are used up
#    |  |- UpstreamRejected        it refuses our key
#    |  `- UpstreamNotConfigured   we have no key to show it
#    |- RegionNotCovered        our plan there has no offers for the region
#    `- UpstreamBadAnswer       an answer that cannot be used: not JSON, wrong shape, other 4xx


class ServiceError(Exception):
    """A request that cannot be answered as asked."""


class InvalidInput(ServiceError):
    """The caller's input is at fault; the message tells the caller how."""


class Overloaded(ServiceError):
    """There is too much to do already, for everybody or for this caller; `retry_after` in seconds.

    `is_callers_fault` tells a caller who is too fast from a service that is too busy.
    """

    def __init__(self, message: str, *, retry_after: float, is_callers_fault: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.is_callers_fault = is_callers_fault


class UpstreamError(ServiceError):
    """A film source let us down.

    `code` is the warning code that clients see, `reason` a short name for the logs, `source` the
    name of the upstream. `retry_after` is the number of seconds after which another try makes
    sense, None where nobody knows. None of them ever holds a URL or text sent by the upstream.
    """

    code = "unavailable"

    def __init__(self, source: str, reason: str, *, retry_after: float | None = None) -> None:
        super().__init__(f"{source}: {reason}")
        self.source = source
        self.reason = reason
        self.retry_after = retry_after


class UpstreamNotFound(UpstreamError):
    """The source answered that there is no such title."""

    code = "not_found"


class UpstreamUnavailable(UpstreamError):
    """The source could not be asked, or failed while answering."""


class UpstreamTimeout(UpstreamUnavailable):
    """The source did not answer within the time of one attempt."""

    code = "timeout"


class DeadlineExceeded(UpstreamUnavailable):
    """The time that the whole request may take ran out first."""

    code = "deadline"


class UpstreamRateLimited(UpstreamUnavailable):
    """The source asks us to slow down."""

    code = "rate_limited"


class UpstreamQuotaExhausted(UpstreamUnavailable):
    """The calls that the source grants us in a day or month are used up."""

    code = "quota_exhausted"


class UpstreamRejected(UpstreamUnavailable):
    """The source refuses our key."""

    code = "rejected"


class UpstreamNotConfigured(UpstreamUnavailable):
    """The source wants a key and none is set."""

    code = "not_configured"


class RegionNotCovered(UpstreamError):
    """Our plan with the source does not include the region asked for."""

    code = "region_not_covered"


class UpstreamBadAnswer(UpstreamError):
    """The source answered something that cannot be used."""

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
    """Return the class whose `code` this is, `UpstreamUnavailable` for one that nobody has."""
    return _BY_CODE.get(code, UpstreamUnavailable)
