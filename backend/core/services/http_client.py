"""The one way out of the process: HTTP GET with retries, limits and a log line per attempt."""

import logging
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt
from tenacity.stop import stop_base
from tenacity.wait import wait_base, wait_random_exponential

from core import metrics
from core.deadline import Deadline, time_left
from core.errors import (
    DeadlineExceeded,
    UpstreamBadAnswer,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from core.services.decoding import TooLarge, Undecodable, read_body
from core.services.gate import Gate
from core.services.retry_after import seconds_to_wait
from core.services.transport import DeadlineTransport, NameResolutionError
from core.utils.logging import correlation_id

logger = logging.getLogger(__name__)

# The longest real answers, 50 credits with pictures, are around 100 KB.
MAX_BODY_BYTES = 2_000_000

TransportFactory = Callable[[Callable[[], float]], httpx.BaseTransport]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer below status 500: status, headers (names in lower case) and decoded body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def retry_after(self) -> float | None:
        """Return the seconds that the `Retry-After` header asks to wait, None without one."""
        return seconds_to_wait(self.headers.get("retry-after"), datetime.now(timezone.utc))


class HttpClient:
    """HTTP GET for all upstream services of the process; safe to share between threads.

    `timeout` bounds one attempt as a whole, in seconds, `attempts` the tries on network errors
    and on 5xx without `Retry-After`. The deadline of the current request (`core.deadline`) bounds
    them all. Redirects are not followed; cookies and the proxies of the environment are not used.

    Each thread gets a small `httpx.Client` of its own: httpcore scans its whole pool on every
    request, so one pool shared by many threads gets slower the more it is used. `ssl_context` is
    shared by them all, because building one takes longer than a request.
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
    ) -> None:
        self._timeout = timeout
        self._transport = transport or (
            lambda seconds_left: DeadlineTransport(
                ssl_context=ssl_context, seconds_left=seconds_left
            )
        )
        self._retrying = Retrying(
            stop=stop_after_attempt(attempts) | _NoTimeForAnother(),
            wait=wait,
            retry=retry_if_exception(_can_heal),
            sleep=sleep,
            reraise=True,
        )
        self._thread = threading.local()

    def get(
        self,
        source: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        gate: Gate | None = None,
        before_attempt: Callable[[], None] | None = None,
    ) -> Reply:
        """Return what `url` answers, whatever its status below 500.

        `gate` is asked before each attempt and told of each that failed; what a reply says of the
        source is for the caller to tell it. `before_attempt` is called before each that goes out,
        for those who count them.

        Raises `UpstreamUnavailable` (or `UpstreamTimeout`, `DeadlineExceeded`) for network errors
        and 5xx once all attempts are used up, `UpstreamBadAnswer` for redirects, protocol
        violations and bodies that are too large or undecodable.
        """
        for attempt in self._retrying.copy():
            with attempt:
                number = attempt.retry_state.attempt_number
                with _admitted(gate):
                    if before_attempt:
                        before_attempt()
                    return self._logged_attempt(source, url, params, headers, number)
        raise AssertionError("tenacity neither returned nor raised")

    def _logged_attempt(
        self,
        source: str,
        url: str,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
        number: int,
    ) -> Reply:
        started = time.monotonic()
        fields: dict[str, object] = {
            "source": source,
            "url": url.partition("?")[0],
            "attempt": number,
            # What nobody foresaw is told too, and goes on its way.
            "outcome": "unexpected",
        }
        level = logging.ERROR
        try:
            reply = self._attempt(source, url, params, headers)
        except UpstreamError as exc:
            level = logging.ERROR if exc.reason.startswith("tls_") else logging.WARNING
            fields |= {"outcome": exc.reason, "status": getattr(exc.__cause__, "status", None)}
            raise
        else:
            level = logging.INFO if reply.status < 400 else logging.WARNING
            fields |= {"outcome": _outcome(reply.status), "status": reply.status}
            return reply
        finally:
            metrics.UPSTREAM_CALLS.labels(source, str(fields["outcome"])).inc()
            fields["ms"] = round((time.monotonic() - started) * 1000, 1)
            logger.log(level, "upstream call", extra=fields)

    def _attempt(
        self,
        source: str,
        url: str,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
    ) -> Reply:
        seconds = time_left(self._timeout)
        if seconds <= 0:
            raise DeadlineExceeded(source, "deadline")
        self._thread.deadline = Deadline(seconds)
        try:
            # The client would merge this with defaults of its own, of which there are none.
            request = httpx.Request("GET", url, params=params, headers=_request_headers(headers))
            with closing(self._client().send(request, stream=True)) as response:
                _refuse_unusable(source, response)
                body = read_body(
                    response.iter_raw(),
                    response.headers.get("content-encoding", "").strip().lower(),
                    MAX_BODY_BYTES,
                )
                return Reply(response.status_code, response.headers, body)
        except TooLarge as exc:
            raise UpstreamBadAnswer(source, "http_response_body_size") from exc
        except Undecodable as exc:
            raise UpstreamBadAnswer(source, "http_response_content_coding") from exc
        except (httpx.RequestError, httpx.InvalidURL) as exc:
            raise _named(source, exc) from exc

    def _client(self) -> httpx.Client:
        client = getattr(self._thread, "client", None)
        if client is None:
            local = self._thread
            client = local.client = httpx.Client(
                # Each attempt has a deadline of its own, hence the late look-up.
                transport=self._transport(lambda: local.deadline.left()),  # noqa: PLW0108
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
                follow_redirects=False,
                trust_env=False,
                timeout=None,  # noqa: S113  (the transport bounds each step and their sum)
            )
        return client


@contextmanager
def _admitted(gate: Gate | None) -> Iterator[None]:
    if gate is None:
        yield
        return
    gate.admit()
    try:
        yield
    except UpstreamUnavailable as exc:
        gate.record_failure(exc)
        raise
    except BaseException:
        gate.abandon()
        raise


class _ServerError(Exception):
    """The status that stands behind an `UpstreamUnavailable`, for the log line."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def _request_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    return {
        "Accept": "application/json",
        # The codings that `read_body` can undo under a limit.
        "Accept-Encoding": "gzip, deflate",
        "User-Agent": "Filmosphere/1.0",
        "X-Correlation-ID": correlation_id.get(),
        **(headers or {}),
    }


def _refuse_unusable(source: str, response: httpx.Response) -> None:
    status = response.status_code
    if 300 <= status < 400:
        raise UpstreamBadAnswer(source, "redirect_refused")
    if 500 <= status < 600:
        wait = seconds_to_wait(response.headers.get("retry-after"), datetime.now(timezone.utc))
        raise UpstreamUnavailable(source, "http_5xx", retry_after=wait) from _ServerError(status)
    if not 200 <= status < 500:
        raise UpstreamBadAnswer(source, "http_protocol_error")


def _outcome(status: int) -> str:
    if status < 400:
        return "ok"
    if status in {404, 410, 451}:
        return "not_found"
    return "rate_limited" if status == 429 else "http_4xx"


def _can_heal(error: BaseException) -> bool:
    return (
        isinstance(error, UpstreamUnavailable)
        and not isinstance(error, DeadlineExceeded)
        # A certificate does not get valid within seconds, and a wait that was asked for is due.
        and not error.reason.startswith("tls_")
        and error.retry_after is None
    )


class _NoTimeForAnother(stop_base):
    """Stops where the wait before another attempt would use up the deadline."""

    def __call__(self, retry_state: RetryCallState) -> bool:
        return time_left(float("inf")) <= retry_state.upcoming_sleep


def _named(source: str, exc: Exception) -> UpstreamError:
    """Name an httpx exception; its own text may hold the URL and with it a key."""
    if isinstance(exc, httpx.TimeoutException):
        if time_left(float("inf")) <= 0:
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
    # An end in the middle is the network's fault, not that of the handshake.
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
