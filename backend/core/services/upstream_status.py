"""The state of a source for an operator, and advice on what to do."""

from dataclasses import dataclass

from core.errors import UpstreamError, UpstreamRateLimited


@dataclass(frozen=True, slots=True)
class UpstreamStatus:
    """The result of one check of a source; holds no key, no URL and no text that the source sent.

    `error` says why the source cannot be used, None if it can. `is_reachable` is None if it was not
    called, `key_accepted` if no key was sent or the answer does not depend on it, `covers_region`
    if the source has no regions. `cost` is what the check used up, `advice` what to do now.
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
    """The names of the settings of a source: its address, and its key ("" if it needs none)."""

    base: str
    key: str = ""


# The source, or a proxy in front of it, did answer.
_ANSWERED = frozenset({"http_5xx", "http_403", "no_data_yet"})


def is_silence(error: UpstreamError) -> bool:
    """Whether the error means that there was no answer at all."""
    if error.code in {"timeout", "deadline"}:
        return True
    return error.code == "unavailable" and error.reason not in _ANSWERED


def advice_for(error: UpstreamError, names: SettingNames) -> str:
    """Return what an operator can do about an error, in one sentence without a full stop."""
    if error.reason == "circuit_open" or isinstance(error, UpstreamRateLimited):
        return f"wait {error.retry_after or 60:.0f} s ({error.code}), no call is made before"
    by_code = {
        "not_configured": f"set {names.key}",
        "rejected": f"set another {names.key}: this one is rejected",
        "quota_exhausted": "wait for the next period, or take a larger plan",
        "not_found": f"check {names.base}: a well-known film is not found there",
        "bad_response": f"check {names.base}: the answer is not that of this API ({error.reason})",
    }
    if error.code in by_code:
        return by_code[error.code]
    if error.reason == "dns_error":
        return f"check {names.base} and the DNS: the host name does not resolve"
    return f"check {names.base} and the network, or wait: {error.reason}"
