"""HTTP GET to the film sources, with retries, limits and one log line per attempt."""

import logging
import math
import re
import ssl
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, cast
from urllib.parse import quote, urlencode

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt
from tenacity.stop import stop_base
from tenacity.wait import wait_base, wait_random_exponential

from core import metrics, tracing
from core.deadline import Deadline, time_left
from core.errors import (
    DeadlineExceeded,
    UpstreamBadAnswer,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from core.services.decoding import TooLarge, Undecodable, decode_json, read_body
from core.services.retry_after import seconds_to_wait
from core.services.transport import DeadlineTransport, NameResolutionError
from core.utils.logging import correlation_id

logger = logging.getLogger(__name__)

# The largest real answers, 50 credits with image addresses, have about 100 KB.
MAX_BODY_BYTES = 2_000_000
# The names and values of all header fields, with the four bytes that end and separate each.
MAX_HEADER_BYTES = 65_536
# A shorter key may be part of ordinary words, and no source issues one.
MIN_SECRET_LENGTH = 6
# The statuses of a title that a source does not have, or may not show.
NOT_FOUND = frozenset({404, 410, 451})

# How attempts end, in metrics and logs: what `_outcome` returns, and the reasons of the errors.
OUTCOMES = (
    "ok",
    "not_found",
    "rate_limited",
    "http_4xx",
    "http_5xx",
    "redirect_refused",
    "http_protocol_error",
    "http_response_header_section_size",
    "http_response_body_size",
    "http_response_content_coding",
    "http_response_incomplete",
    "http_response_timeout",
    "connection_timeout",
    "connection_refused",
    "connection_terminated",
    "dns_error",
    "tls_certificate_error",
    "tls_protocol_error",
    "deadline",
    "unexpected",
)

# A parameter with several values is sent once for each.
QueryParams = Mapping[str, str | Sequence[str]]
TransportFactory = Callable[[Callable[[], float]], httpx.BaseTransport]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer with a status below 500.

    `headers` finds names in any case, `body` is free of its content coding, and `secrets` are the
    strings that `json` replaces.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    secrets: Collection[str] = field(default=(), repr=False)

    def json(self, decode: Callable[[bytes, Collection[str]], Any] = decode_json) -> Any:
        """Return the JSON value in the body, with `[redacted]` in place of our keys.

        Raises what `decode` raises, by default `Undecodable`.
        """
        return decode(self.body, self.secrets)

    def retry_after(self) -> float | None:
        """Return the seconds to wait from the `Retry-After` header, None without a usable one."""
        return _retry_after(self.headers)


class HttpClient:
    """HTTP GET for all sources; one instance per process, safe to share between threads.

    `timeout` limits one whole attempt, in seconds. After network errors and 5xx there are up to
    `attempts` attempts, with `wait` between them. The deadline of the current request
    (`core.deadline`) limits them all. `Retry-After` on a 5xx replaces `wait` if it ends within the
    deadline, otherwise there is no other attempt. Redirects are not followed; cookies and the
    proxies of the environment are not used.

    `secrets` are our keys for all sources: no JSON value from a reply contains them.

    Each thread has its own transport with a connection to each host: httpcore searches a pool that
    threads share on each request, so it slows down with the number of connections. All threads
    share `ssl_context`, because building one takes longer than a request.
    """

    def __init__(
        self,
        *,
        timeout: float,
        attempts: int,
        ssl_context: ssl.SSLContext,
        wait: wait_base = wait_random_exponential(multiplier=0.1, max=2),  # noqa: B008  (frozen)
        sleep: Callable[[float], None] = time.sleep,
        transport: TransportFactory | None = None,
        secrets: Collection[str] = (),
    ) -> None:
        self._timeout = timeout
        forms = {form for key in secrets for form in (key, quote(key, safe=""))}
        # The longest first, in case one contains another.
        self._secrets = sorted(
            (form for form in forms if len(form) >= MIN_SECRET_LENGTH), key=len, reverse=True
        )
        self._new_transport = transport or (
            lambda seconds_left: DeadlineTransport(
                ssl_context=ssl_context, seconds_left=seconds_left
            )
        )
        self._retrying = Retrying(
            stop=stop_after_attempt(attempts) | _DeadlinePassesFirst(),
            wait=_RetryAfterOr(wait),
            retry=retry_if_exception(_is_temporary),
            sleep=sleep,
            reraise=True,
        )
        self._thread = threading.local()

    def get(
        self,
        source: str,
        url: str,
        *,
        params: QueryParams | None = None,
        headers: Mapping[str, str] | None = None,
        attempt: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> Reply:
        """Return the answer of `url` with any status below 500 except a redirect.

        Each attempt is made inside `attempt()`, which may refuse it and records its failure
        (`CircuitBreaker.attempt`); the caller records what a reply means for the source.

        Raises `UpstreamUnavailable` (or `UpstreamTimeout`, `DeadlineExceeded`) for network errors
        and 5xx after the last attempt, `UpstreamBadAnswer` for redirects, protocol violations,
        headers or bodies that are too large, and undecodable bodies.
        """
        # tenacity keeps the state of a run per thread. A copy for each run would create, and remove
        # from all threads of the process, another `threading.local`.
        for trial in self._retrying:
            number = trial.retry_state.attempt_number
            with trial, attempt():
                return self._logged_attempt(source, url, params, headers, number)
        raise AssertionError("tenacity neither returned nor raised")

    def _logged_attempt(
        self,
        source: str,
        url: str,
        params: QueryParams | None,
        headers: Mapping[str, str] | None,
        number: int,
    ) -> Reply:
        started = time.monotonic()
        fields: dict[str, object] = {
            "source": source,
            "url": url.partition("?")[0],
            "attempt": number,
            # The outcome if an exception is not handled below; it is logged and propagates.
            "outcome": "unexpected",
        }
        level = logging.ERROR
        with tracing.upstream_call(fields):
            try:
                reply = self._attempt(source, url, params, headers)
            except UpstreamError as exc:
                level = logging.ERROR if exc.is_tls_failure else logging.WARNING
                fields |= {"outcome": exc.reason, "status": getattr(exc.__cause__, "status", None)}
                raise
            else:
                level = logging.INFO if reply.status < 400 else logging.WARNING
                fields |= {"outcome": _outcome(reply.status), "status": reply.status}
                return reply
            finally:
                seconds = time.monotonic() - started
                labels = source, str(fields["outcome"])
                metrics.UPSTREAM_CALLS.labels(*labels).inc()
                metrics.UPSTREAM_REQUEST_DURATION.labels(*labels).observe(seconds)
                fields["ms"] = round(seconds * 1000, 1)
                logger.log(level, "upstream call", extra=fields)

    def _attempt(
        self,
        source: str,
        url: str,
        params: QueryParams | None,
        headers: Mapping[str, str] | None,
    ) -> Reply:
        seconds = time_left(self._timeout)
        if seconds <= 0:
            raise DeadlineExceeded(source, "deadline")
        self._thread.deadline = Deadline(seconds)
        try:
            target = httpx.URL(f"{url}?{urlencode(params, doseq=True)}" if params else url)
            request = httpx.Request(
                "GET",
                target,
                headers={
                    "Host": target.netloc.decode("ascii"),
                    "Accept": "application/json",
                    # The codings that `read_body` decodes under a limit.
                    "Accept-Encoding": "gzip, deflate",
                    "User-Agent": "Filmosphere/1.0",
                    "X-Correlation-ID": correlation_id.get(),
                    **tracing.outgoing_headers(),
                    **(headers or {}),
                },
                # Without a stream, httpx would look for a body and build the headers again.
                stream=httpx.ByteStream(b""),
            )
            with closing(self._transport().handle_request(request)) as response:
                _refuse_unusable(source, response)
                body = read_body(
                    # `iter_raw` would only count the bytes.
                    cast("Iterable[bytes]", response.stream),
                    response.headers.get("content-encoding", "").strip().lower(),
                    MAX_BODY_BYTES,
                )
                return Reply(response.status_code, response.headers, body, self._secrets)
        except TooLarge as exc:
            raise UpstreamBadAnswer(source, "http_response_body_size") from exc
        except Undecodable as exc:
            raise UpstreamBadAnswer(source, "http_response_content_coding") from exc
        except (httpx.RequestError, httpx.InvalidURL) as exc:
            raise _error_of(source, exc) from exc

    def _transport(self) -> httpx.BaseTransport:
        """Return the transport of this thread.

        `httpx.Client` would add cookies, redirects, proxies and time limits of its own, which must
        all be off, and takes an eighth of the time of a call.
        """
        local = self._thread
        if not hasattr(local, "transport"):
            # The deadline is looked up on each call, because each attempt has its own.
            local.transport = self._new_transport(lambda: local.deadline.left())  # noqa: PLW0108
        transport: httpx.BaseTransport = local.transport
        return transport


class _ServerError(Exception):
    """The cause of an `UpstreamUnavailable`: it carries the status to the log line."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def _refuse_unusable(source: str, response: httpx.Response) -> None:
    header_bytes = sum(len(name) + len(value) + 4 for name, value in response.headers.raw)
    if header_bytes > MAX_HEADER_BYTES:
        raise UpstreamBadAnswer(source, "http_response_header_section_size")
    status = response.status_code
    if 300 <= status < 400:
        raise UpstreamBadAnswer(source, "redirect_refused")
    if 500 <= status < 600:
        wait = _retry_after(response.headers)
        raise UpstreamUnavailable(source, "http_5xx", retry_after=wait) from _ServerError(status)
    if not 200 <= status < 500:
        raise UpstreamBadAnswer(source, "http_protocol_error")


def _retry_after(headers: Mapping[str, str]) -> float | None:
    return seconds_to_wait(headers.get("retry-after"), datetime.now(timezone.utc))


def _outcome(status: int) -> str:
    if status < 400:
        return "ok"
    if status in NOT_FOUND:
        return "not_found"
    return "rate_limited" if status == 429 else "http_4xx"


def _is_temporary(error: BaseException) -> bool:
    if not isinstance(error, UpstreamUnavailable) or isinstance(error, DeadlineExceeded):
        return False
    if error.is_tls_failure:
        return False
    if error.retry_after is None:
        return True
    # A wait that an answer asks for may end within the deadline. Without a deadline the caller
    # does not expect such a wait, and an attempt that was not admitted fails at once.
    return isinstance(error.__cause__, _ServerError) and math.isfinite(time_left(math.inf))


class _RetryAfterOr(wait_base):
    """Waits as long as the source asked for, otherwise as `wait` says."""

    def __init__(self, wait: wait_base) -> None:
        self._wait = wait

    def __call__(self, retry_state: RetryCallState) -> float:
        error = retry_state.outcome and retry_state.outcome.exception()
        asked = error.retry_after if isinstance(error, UpstreamUnavailable) else None
        return asked or self._wait(retry_state)


class _DeadlinePassesFirst(stop_base):
    """Stops if the deadline passes before the next attempt."""

    def __call__(self, retry_state: RetryCallState) -> bool:
        return time_left(math.inf) <= retry_state.upcoming_sleep


def _error_of(source: str, exc: Exception) -> UpstreamError:
    """Return the error for an httpx exception, whose own text may contain the URL with a key."""
    if isinstance(exc, httpx.TimeoutException):
        if time_left(math.inf) <= 0:
            return DeadlineExceeded(source, "deadline")
        connecting = isinstance(exc, httpx.ConnectTimeout)
        return UpstreamTimeout(
            source, "connection_timeout" if connecting else "http_response_timeout"
        )
    causes = _causes(exc)
    if any(isinstance(cause, NameResolutionError) for cause in causes):
        return UpstreamUnavailable(source, "dns_error")
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return UpstreamUnavailable(source, "tls_certificate_error")
    # A connection that ends during the handshake is a network error, not a TLS error.
    cut_short = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
    if any(isinstance(c, ssl.SSLError) and not isinstance(c, cut_short) for c in causes):
        return UpstreamUnavailable(source, "tls_protocol_error")
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return UpstreamUnavailable(source, "connection_refused")
    if isinstance(exc, httpx.RemoteProtocolError):
        return _broken_protocol(source, str(exc))
    if isinstance(exc, httpx.NetworkError):
        return UpstreamUnavailable(source, "connection_terminated")
    return UpstreamBadAnswer(source, "http_protocol_error")


def _broken_protocol(source: str, text: str) -> UpstreamError:
    if "without sending a response" in text or "sending complete" in text:
        cut = "incomplete" in text or "message body" in text
        return UpstreamUnavailable(
            source, "http_response_incomplete" if cut else "connection_terminated"
        )
    if re.search(r"too (long|large|many)|exceed", text, re.IGNORECASE):
        return UpstreamBadAnswer(source, "http_response_header_section_size")
    return UpstreamBadAnswer(source, "http_protocol_error")


def _causes(exc: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    while exc.__cause__ or exc.__context__:
        exc = exc.__cause__ or exc.__context__  # type: ignore[assignment]  # checked above
        if exc in chain:
            break
        chain.append(exc)
    return chain
