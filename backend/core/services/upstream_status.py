"""What somebody who looks after the service must know of a source, and do about it."""

from dataclasses import dataclass

from core.errors import UpstreamError, UpstreamRateLimited


@dataclass(frozen=True, slots=True)
class UpstreamStatus:
    """How a source answered one look at it; holds no key, no URL and no text from outside.

    `error` tells why the source cannot be used, None where it can. `is_reachable` is None where it
    was not asked, `key_accepted` where no key was shown or nobody knows, `covers_region` where the
    source knows no regions. `cost` is what the look used up, `advice` what somebody should do now.
    """

    source: str
    is_reachable: bool | None = True
    error: UpstreamError | None = None
    key_accepted: bool | None = None
    region: str = ""
    covers_region: bool | None = None
    cost: str = "-"
    advice: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SettingNames:
    """The settings that lead to a source: its address, its key ("" where it wants none)."""

    base: str
    key: str = ""


# An answer all the same, if only of what stands in front of the source.
_SPOKEN = frozenset({"http_5xx", "http_403", "no_data_yet"})


def is_silence(error: UpstreamError) -> bool:
    """Whether the error means that no answer came at all."""
    if error.code in {"timeout", "deadline"}:
        return True
    return error.code == "unavailable" and error.reason not in _SPOKEN


def advice_for(error: UpstreamError, names: SettingNames) -> str:
    """Return what somebody can do about an error, in one sentence without a stop."""
    if error.reason == "closed" or isinstance(error, UpstreamRateLimited):
        return f"wait {error.retry_after or 60:.0f} s ({error.code}), nobody is to call it before"
    by_code = {
        "not_configured": f"set {names.key}",
        "rejected": f"set another {names.key}: this one is refused",
        "quota_exhausted": "wait for the next period, or take a larger plan",
        "not_found": f"check {names.base}: a well-known film is not found there",
        "bad_response": f"check {names.base}: what answers is not this API ({error.reason})",
    }
    if error.code in by_code:
        return by_code[error.code]
    if error.reason == "dns_error":
        return f"check {names.base} and the name service: the host does not resolve"
    return f"check {names.base} and the network, or wait: {error.reason}"
