"""A film payload: its sections, how they are merged, and the bytes that clients get."""

import gzip
import hashlib
import json
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property, lru_cache
from typing import Any

from core.errors import UpstreamBadAnswer, UpstreamError, UpstreamNotFound

logger = logging.getLogger(__name__)

# The value of a section, or the error for which there is none.
Outcome = Any | UpstreamError


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the payload: its source, its empty value, and its turn among calls to the source.

    Turns follow what a screen shows first; `metadata` has turn 0.
    """

    name: str
    source: str
    turn: int = 0
    empty: Callable[[], Any] = dict


METADATA = Section("metadata", "imdbapi")
TRAILER = Section("trailer", "kinocheck", empty=lambda: None)
STREAMING = Section("streaming", "watchmode", empty=list)

# In the order in which clients see them.
SECTIONS = (
    METADATA,
    Section("credits", "imdbapi", turn=1),
    Section("images", "imdbapi", turn=4),
    Section("videos", "imdbapi", turn=5),
    Section("parents_guide", "imdbapi", turn=6),
    Section("certificates", "imdbapi", turn=2),
    Section("release_dates", "imdbapi", turn=3),
    TRAILER,
    STREAMING,
)
SECTION_NAMES = tuple(section.name for section in SECTIONS)
SOURCE_OF = {section.name: section.source for section in SECTIONS}
# The source of each call that a whole film takes.
FILM_CALLS = tuple(SOURCE_OF.values())
KEYS = ("imdb_id", "title", *SECTION_NAMES, "warnings")

# Another fetch does not help: the settings or the plan have to change.
PERMANENT_CODES = frozenset({"not_configured", "region_not_covered"})
# A fetch that comes soon may remove the warning.
HEALING_CODES = frozenset(
    {"timeout", "unavailable", "rate_limited", "bad_response", "deadline", "stale"}
)

_SENTENCES = {
    "not_found": "The source has no such title.",
    "timeout": "The source did not answer in time.",
    "unavailable": "The source could not be reached.",
    "rate_limited": "The source asked us to slow down.",
    "quota_exhausted": "The calls that the source grants us are used up for now.",
    "not_configured": "No key for the source is set.",
    "rejected": "The source rejected our key.",
    "region_not_covered": "Our plan with the source does not cover the region.",
    "bad_response": "The source sent a response that cannot be used.",
    "expired": "The offers are older than the terms of the source allow.",
    "deadline": "The section was not fetched in the time of this request; it follows soon.",
}


# The largest size of all sections of a film together, in bytes of JSON.
MAX_FILM_BYTES = 2_000_000


@dataclass(frozen=True, slots=True)
class SectionAnswer:
    """What a source answered for a section, if that is more than its value.

    `extra` is kept beside the payload. `error` says why `value` is empty although the source has an
    `extra`.
    """

    value: Any
    extra: Any = None
    error: UpstreamError | None = None


@dataclass(frozen=True, slots=True)
class SectionState:
    """When a section was last fetched, how often in a row it failed since, and when to try again.

    `fetched_at` is None if it was never fetched or it is not known when, `retry_at` if no failure
    is to be repaired.
    """

    fetched_at: datetime | None = None
    failures: int = 0
    retry_at: datetime | None = None


class FilmPayload(dict[str, Any]):
    """The twelve keys that clients get, and beside them how and when they were obtained.

    `cached_at` is when the metadata was fetched. `states` has the state of each section.
    `is_fresh` says that the time to live is not over, `is_stored` that other processes have the
    payload, `was_fetched` that it comes from the sources rather than from storage. `extras` has, by
    section, what the source sent beyond the value (`SectionAnswer`). `failures` has the code of
    each section that failed in the fetch that made the payload.
    """

    def __init__(
        self,
        keys: Mapping[str, Any],
        *,
        cached_at: datetime,
        states: Mapping[str, SectionState] | None = None,
        extras: Mapping[str, Any] | None = None,
        is_fresh: bool = True,
        is_stored: bool = True,
        was_fetched: bool = False,
    ) -> None:
        super().__init__(keys)
        self.cached_at = cached_at
        self.states: dict[str, SectionState] = dict(states or {})
        self.extras: dict[str, Any] = dict(extras or {})
        self.is_fresh = is_fresh
        self.is_stored = is_stored
        self.was_fetched = was_fetched
        self.failures: dict[str, str] = {}
        # The bytes, if the payload was rendered; nothing changes its keys and states after that.
        self.body: FilmBody | None = None

    @classmethod
    def of(cls, payload: Mapping[str, Any], now: datetime) -> "FilmPayload":
        """Return `payload` itself, or a plain dictionary as a payload that is as old as `now`."""
        if isinstance(payload, FilmPayload):
            return payload
        states = dict.fromkeys(SECTION_NAMES, SectionState(fetched_at=now))
        return cls(payload, cached_at=now, states=states)

    @property
    def warning_codes(self) -> dict[str, str]:
        """The code of each section that has a warning."""
        return {warning["section"]: warning["code"] for warning in self["warnings"]}

    @property
    def cache_outcome(self) -> str:
        """Where the payload came from, as one of `core.cache_outcome.OUTCOMES`."""
        if not self.is_fresh:
            return "stale"
        if not self.was_fetched:
            return "row"
        return "miss" if set(self.failures.values()) <= PERMANENT_CODES else "partial"

    def has_good(self, section: Section) -> bool:
        """Whether the payload holds what the source once answered, even if that was nothing."""
        if section is METADATA and not self["metadata"]:
            return False
        return self.warning_codes.get(section.name, "stale") == "stale"

    def repairable(self) -> list[str]:
        """Return the names of the sections that another fetch may repair."""
        return [name for name, code in self.warning_codes.items() if code not in PERMANENT_CODES]

    def retries(
        self, sections: Collection[str] = SECTION_NAMES
    ) -> tuple[tuple[str, float | None], ...]:
        """Return the code of each warning of `sections`, with the time of the next attempt.

        It is a Unix time, None if it is not known.
        """
        states = {name: self.states.get(name, SectionState()) for name in self.warning_codes}
        return tuple(
            (code, moment.timestamp() if (moment := states[name].retry_at) else None)
            for name, code in self.warning_codes.items()
            if name in sections
        )

    def as_stale(self, retry_at: datetime | None) -> "FilmPayload":
        """Return the payload of an expired film: each section without a warning gets `stale`.

        `retry_at` is when the film is fetched again.
        """
        warned = {warning["section"]: warning for warning in self["warnings"]}
        warnings = [
            warned.get(section.name) or _warning(section, "stale", "An older copy is shown.")
            for section in SECTIONS
        ]
        return FilmPayload(
            {**self, "warnings": warnings},
            cached_at=self.cached_at,
            states={
                name: replace(self.states.get(name, SectionState()), retry_at=retry_at)
                for name in SECTION_NAMES
            },
            extras=self.extras,
            is_fresh=False,
        )

    def without_old_offers(self, now: datetime, max_age: timedelta | None) -> "FilmPayload":
        """Return the payload without offers that were fetched longer ago than `max_age`.

        Those of all regions are removed; if it is not known when they were fetched, they are too
        old.
        """
        extra = self.extras.get(STREAMING.name) or {}
        if max_age is None or not (self[STREAMING.name] or extra.get("offers")):
            return self
        state = self.states.get(STREAMING.name, SectionState())
        if state.fetched_at is not None and now - state.fetched_at < max_age:
            return self
        others = [each for each in self["warnings"] if each["section"] != STREAMING.name]
        warning = _warning(STREAMING, "expired", _SENTENCES["expired"])
        return FilmPayload(
            {**self, STREAMING.name: [], "warnings": [*others, warning]},
            cached_at=self.cached_at,
            states={**self.states, STREAMING.name: SectionState()},
            extras={**self.extras, STREAMING.name: None},
            is_fresh=self.is_fresh,
        )


# By how much the clocks of two machines may differ.
CLOCK_SKEW = timedelta(seconds=10)
# For how long at least it is believed that a source has another title under an id.
_OTHER_TITLE_TIME = timedelta(hours=1)
# The longest time after which a failed section is fetched again.
LONGEST_RETRY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """A failed section is fetched again after `first`, then after twice that, up to `longest`."""

    first: timedelta
    longest: timedelta = LONGEST_RETRY

    def delay(self, failures: int) -> timedelta:
        """Return how long to wait after the given number of consecutive failures."""
        doubled: timedelta = self.first * 2 ** min(max(failures - 1, 0), 20)
        return min(doubled, self.longest)


def merge(
    imdb_id: str,
    outcomes: Mapping[str, Outcome],
    last: FilmPayload | None,
    *,
    now: datetime,
    retry: RetryPolicy,
    is_renewal: bool = False,
    metadata_retry_at: datetime | None = None,
) -> FilmPayload:
    """Return the payload made of the outcomes of a fetch and the payload stored before, rendered.

    `outcomes` has the value or the `UpstreamError` of each section that was fetched. A section that
    was not fetched stays as it was. One that failed keeps its last good value with a `stale`
    warning; without one it is empty, with a warning that says why. A source that has nothing for a
    section is not a failure. If metadata was fetched, or a renewal did not need it, the film is as
    new as `now`. If it failed, it is fetched again at `metadata_retry_at`, by default as `retry`
    says.
    If the film would exceed `MAX_FILM_BYTES`, its largest new sections count as failed.
    Raises the error of `metadata` if there is no last good one: without it there is no film.
    """
    bounded = dict(outcomes)
    while True:
        payload = _merged(imdb_id, bounded, last, now=now, retry=retry, is_renewal=is_renewal)
        if metadata_retry_at is not None:
            state = payload.states[METADATA.name]
            payload.states[METADATA.name] = replace(state, retry_at=metadata_retry_at)
        payload.body = render(payload)
        sizes = {name: part.end - part.start for name, part in payload.body.parts.items()}
        new = [
            name
            for name in sizes
            if name in bounded.keys() - {METADATA.name}
            and not isinstance(bounded[name], UpstreamError)
        ]
        if sum(sizes.values()) <= MAX_FILM_BYTES or not new:
            return payload
        largest = max(new, key=sizes.__getitem__)
        bounded[largest] = UpstreamBadAnswer(SOURCE_OF[largest], "film_too_large")
        logger.warning("section left out", extra={"section": largest, "outcome": "film_too_large"})


def _merged(
    imdb_id: str,
    outcomes: Mapping[str, Outcome],
    last: FilmPayload | None,
    *,
    now: datetime,
    retry: RetryPolicy,
    is_renewal: bool,
) -> FilmPayload:
    values: dict[str, Any] = {}
    old_warnings = {warning["section"]: warning for warning in (last["warnings"] if last else [])}
    warnings: list[dict[str, str]] = []
    states: dict[str, SectionState] = dict(last.states) if last else {}
    extras: dict[str, Any] = dict(last.extras) if last else {}
    failures: dict[str, str] = {}
    for section in SECTIONS:
        name = section.name
        if name not in outcomes:
            values[name] = last[name] if last else section.empty()
            if name in old_warnings:
                warnings.append(old_warnings[name])
            continue
        outcome = outcomes[name]
        is_answer = isinstance(outcome, SectionAnswer)
        if isinstance(outcome, SectionAnswer):
            extras[name] = outcome.extra
            outcome = outcome.error or outcome.value
        if isinstance(outcome, UpstreamNotFound) and section is not METADATA:
            outcome = section.empty()
        if not isinstance(outcome, UpstreamError):
            values[name] = outcome
            states[name] = SectionState(fetched_at=now)
            continue
        failures[name] = outcome.code
        states[name] = _failed(states.get(name, SectionState()), outcome, now, retry)
        if last is not None and last.has_good(section):
            values[name] = last[name]
            text = f"An older copy is shown. {_SENTENCES[outcome.code]}"
            warnings.append(_warning(section, "stale", text))
        elif section is METADATA:
            raise outcome
        else:
            values[name] = section.empty()
            warnings.append(_warning(section, outcome.code, _SENTENCES[outcome.code]))
            if is_answer:
                # The extra is as new as the answer.
                states[name] = replace(states[name], fetched_at=now)
    metadata_failed = isinstance(outcomes.get("metadata"), UpstreamError)
    is_repair = "metadata" not in outcomes and not is_renewal
    keeps_age = last is not None and (is_repair or metadata_failed)
    payload = FilmPayload(
        {
            "imdb_id": imdb_id,
            "title": values["metadata"].get("primaryTitle", ""),
            **values,
            "warnings": warnings,
        },
        cached_at=last.cached_at if last is not None and keeps_age else now,
        states=states,
        extras=extras,
        is_fresh=not metadata_failed,
        was_fetched=True,
    )
    payload.failures = failures
    return payload


def _failed(
    state: SectionState, error: UpstreamError, now: datetime, retry: RetryPolicy
) -> SectionState:
    if error.code == "deadline":
        # The call was not made, so it says nothing about the source.
        return replace(state, retry_at=now)
    failures = state.failures + 1
    delay = retry.delay(failures)
    if error.reason == "other_title":
        delay = max(delay, _OTHER_TITLE_TIME)
    return replace(state, failures=failures, retry_at=now + delay)


def _warning(section: Section, code: str, message: str) -> dict[str, str]:
    return {"section": section.name, "source": section.source, "code": code, "message": message}


# --- Bytes --------------------------------------------------------------------------------------

_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True)
_VERSION_LENGTH = 32


@dataclass(frozen=True, slots=True)
class Part:
    """Where a section is in the body, the code of its warning ("" without one), and its state.

    Times are Unix times; see `SectionState`.
    """

    start: int
    end: int
    code: str = ""
    fetched_at: float | None = None
    failures: int = 0
    retry_at: float | None = None


def repair_at(warnings: Iterable[tuple[str, float | None]]) -> float | None:
    """Return the Unix time from which a failed section is to be fetched again, None without one.

    A warning is its code and the time of the next attempt; without a time it is due now.
    """
    return min(
        (retry_at or 0.0 for code, retry_at in warnings if code and code not in PERMANENT_CODES),
        default=None,
    )


@dataclass(frozen=True)
class Body:
    """The bytes of an answer; its version and its compressed form are computed once.

    `version` is the SHA-256 of the bytes in hexadecimal, cut to 32 digits: equal for equal answers,
    in every process.
    """

    plain: bytes

    @cached_property
    def version(self) -> str:
        """The version that the `ETag` names."""
        return version_of(self.plain)

    @cached_property
    def gzipped(self) -> bytes:
        """The bytes compressed with gzip."""
        return compress(self.plain)


@dataclass(frozen=True)
class FilmBody(Body):
    """The bytes of a film; `parts` finds each section in them without parsing them."""

    parts: Mapping[str, Part]


def section_body(imdb_id: str, name: str, value: bytes) -> bytes:
    """Return the answer with one section, given the JSON of its value."""
    return b'{"imdb_id":"%b","%b":%b}' % (imdb_id.encode(), name.encode(), value)


# Below this size gzip saves no packet.
SMALLEST_GZIPPED = 1_400


def to_json(value: Any) -> bytes:
    """Return a value as JSON, in the form in which it is in a film's body."""
    return _JSON.encode(value).encode()


def compress(body: bytes) -> bytes:
    """Return the body compressed with gzip, the same bytes in every process."""
    # Without a time in the header.
    return gzip.compress(body, compresslevel=6, mtime=0)


def version_of(body: bytes) -> str:
    """Return the version of a body."""
    return hashlib.sha256(body).hexdigest()[:_VERSION_LENGTH]


def render(payload: FilmPayload) -> FilmBody:
    """Return the bytes of a payload: the same, whether it comes from the sources or the database.

    A `jsonb` column does not keep the order of keys, so inside the sections they are sorted.
    """
    codes = payload.warning_codes
    chunks: list[bytes] = []
    parts: dict[str, Part] = {}
    size = 1
    for key in KEYS:
        value = to_json(payload[key])
        start = size + len(key) + 3
        size = start + len(value) + 1
        chunks.append(b'"%b":%b' % (key.encode(), value))
        if key in SECTION_NAMES:
            state = payload.states.get(key, SectionState())
            parts[key] = Part(
                start,
                size - 1,
                codes.get(key, ""),
                state.fetched_at.timestamp() if state.fetched_at else None,
                state.failures,
                state.retry_at.timestamp() if state.retry_at else None,
            )
    body = b"{" + b",".join(chunks) + b"}"
    return FilmBody(body, parts)


def parts_to_text(imdb_id: str, body: FilmBody) -> str:
    """Return the parts of a body as they are stored: JSON, and before it a hash of both."""
    text = _JSON.encode(
        {
            name: [p.start, p.end, p.code, p.fetched_at, p.failures, p.retry_at]
            for name, p in body.parts.items()
        }
    )
    return _sealed(text, imdb_id, body.version)


def parts_from_text(text: str, *, imdb_id: str, version: str, now: datetime) -> Mapping[str, Part]:
    """Return the parts in what `parts_to_text` returned for the body of this film and version.

    Raises `ValueError` for any other text. Times that are later than any rule allows come from a
    clock that was ahead, and are dropped: the section counts as never fetched, or as to be repaired
    now.
    """
    latest_fetch = (now + CLOCK_SKEW).timestamp()
    latest_retry = (now + LONGEST_RETRY + CLOCK_SKEW).timestamp()
    stored = _stored_parts(text, imdb_id, version)
    if stored.latest_fetch <= latest_fetch and stored.latest_retry <= latest_retry:
        return stored.parts
    parts = dict(stored.parts)
    for name, part in parts.items():
        if (part.fetched_at or 0.0) > latest_fetch:
            parts[name] = replace(parts[name], fetched_at=None)
        if (part.retry_at or 0.0) > latest_retry:
            parts[name] = replace(parts[name], retry_at=None)
    return parts


@dataclass(frozen=True, slots=True)
class _StoredParts:
    parts: Mapping[str, Part]
    latest_fetch: float
    latest_retry: float


# A film in use is read again and again with the same parts. An entry takes 2 KB.
@lru_cache(maxsize=1000)
def _stored_parts(text: str, imdb_id: str, version: str) -> _StoredParts:
    stored = json.loads(_unsealed(text, imdb_id, version))
    try:
        parts = {name: Part(*stored[name]) for name in SECTION_NAMES}
    except (KeyError, TypeError) as exc:
        raise ValueError("the parts of another version") from exc
    return _StoredParts(
        parts,
        max(part.fetched_at or 0.0 for part in parts.values()),
        max(part.retry_at or 0.0 for part in parts.values()),
    )


def extras_to_text(imdb_id: str, payload: FilmPayload, version: str) -> str:
    """Return the extras of a payload with this version as they are stored, in the same way."""
    text = json.dumps(payload.extras, ensure_ascii=False, separators=(",", ":"))
    return _sealed(text, imdb_id, version, "extras")


def extras_from_text(text: str, *, imdb_id: str, version: str) -> dict[str, Any]:
    """Return the extras in what `extras_to_text` returned for this film and version.

    Raises `ValueError` for any other text.
    """
    extras: dict[str, Any] = json.loads(_unsealed(text, imdb_id, version, "extras"))
    return extras


def _sealed(text: str, *belongs_to: str) -> str:
    return _seal(text, belongs_to) + text


def _unsealed(sealed: str, *belongs_to: str) -> str:
    seal, text = sealed[:_VERSION_LENGTH], sealed[_VERSION_LENGTH:]
    if seal != _seal(text, belongs_to):
        raise ValueError("not stored with this body")
    return text


def _seal(text: str, belongs_to: Iterable[str]) -> str:
    return version_of(" ".join([*belongs_to, text]).encode())
