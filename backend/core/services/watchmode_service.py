"""Watchmode: where a title can be streamed (https://api.watchmode.com/docs)."""

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

from core.errors import (
    RegionNotCovered,
    UpstreamBadAnswer,
    UpstreamError,
    UpstreamNotConfigured,
    UpstreamQuotaExhausted,
)
from core.imdb_id import canonical_imdb_id
from core.services.circuit_breaker import CircuitBreaker, Plan
from core.services.http_client import HttpClient, Reply
from core.services.shapes import StreamingSource, sanitize
from core.services.upstream import UpstreamService, error_for_status
from core.services.upstream_status import SettingNames, UpstreamStatus

# The regions of a plan change rarely, and reading them costs a credit.
_PLAN_TTL = timedelta(days=7)
# How far the clock of the process that read the plan may be ahead.
_CLOCK_SKEW = timedelta(seconds=10)


class WatchmodeService(UpstreamService):
    """Reads Watchmode for `regions` (ISO 3166-1 alpha-2), with a key sent in a header.

    Regions that the plan does not include are left out once the source refused them: its plan is
    read then, at most once a week in all processes. If none is left, the methods raise
    `RegionNotCovered` and make no call. Without a key they raise `UpstreamNotConfigured`.
    """

    source = "watchmode"
    setting_names = SettingNames("WATCHMODE_BASE", "WATCHMODE_API_KEY")
    is_status_free = True

    def __init__(
        self,
        *,
        http: HttpClient,
        base_url: str,
        api_key: str,
        regions: Sequence[str],
        breaker: CircuitBreaker | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        super().__init__(http=http, base_url=base_url, breaker=breaker)
        self._api_key = api_key
        self.has_key = bool(api_key)
        self._regions = tuple(regions)
        self._now = now
        self._plan_lock = threading.Lock()

    @property
    def not_covered(self) -> tuple[str, ...]:
        """The regions that are known to be outside the plan, in the order of `regions`."""
        plan = self._known_plan()
        return () if plan is None else tuple(each for each in self._regions if each not in plan)

    def lookup_title_id(self, imdb_id: str) -> int | None:
        """Return Watchmode's id of the title, None if Watchmode does not know the title.

        Costs one credit. Source: `GET /v1/search/`.
        """
        self._covered()
        wanted = canonical_imdb_id(imdb_id) or imdb_id
        params = {"search_field": "imdb_id", "search_value": wanted}
        answer = self._object(self._ask("/search/", params))
        # The list may be left out, so an error with status 200 would pass for an unknown title.
        if answer.get("success") is False:
            raise self._unusable("bad_shape")
        for title in self._rows_of(answer, "title_results", beside=("people_results",)):
            # Rows of other titles, or without an id, may precede the one of this title.
            if canonical_imdb_id(title.get("imdb_id")) == wanted and _is_number(title.get("id")):
                number = int(title["id"])
                if 0 < number < 2**63:
                    return number
        return None

    def get_streaming_sources(self, watchmode_id: int) -> list[dict[str, Any]]:
        """Return a row per service, type, format, price and region; `[]` if there are no offers.

        The rows are those of all `regions` except the `not_covered` ones. Values that do not have
        the types in `core.services.shapes.StreamingSource` are null or removed. Costs one credit.
        Raises `RegionNotCovered` if the plan includes none of the regions, and `UpstreamNotFound`
        if the id is not known (any more).
        Source: `GET /v1/title/{title_id}/sources/`.
        """
        regions = self._covered()
        try:
            return self._offers(watchmode_id, regions)
        except UpstreamBadAnswer as exc:
            # The source answers 400 to a region outside the plan, as to any other mistake.
            if exc.reason != "http_4xx":
                raise
            self._learn_plan()
            covered = self._covered()
            if covered == regions:
                raise
        return self._offers(watchmode_id, covered)

    def _offers(self, watchmode_id: int, regions: tuple[str, ...]) -> list[dict[str, Any]]:
        path = f"/title/{watchmode_id}/sources/"
        rows = self._ask(path, {"regions": ",".join(regions)})
        if rows is None:
            # As a field null stands for an empty list; as the whole answer it is invalid.
            raise self._unusable("bad_shape")
        offers = sanitize(self._rows(rows), list[StreamingSource], source=self.source)
        if len(regions) == 1:
            # Rows may lack the only region that was asked for.
            offers = [{"region": regions[0], **offer} for offer in offers]
        return [offer for offer in offers if offer.get("region") in regions]

    def refusal(self, reply: Reply) -> UpstreamError | None:
        """Return the error of a reply; the account's counters distinguish a used-up quota."""
        account = _account(reply.headers)
        if account:
            self.breaker.usage.note_account(*account)
        if reply.status in {401, 402, 403, 429} and account and account[1] >= account[0] > 0:
            return UpstreamQuotaExhausted(self.source, "quota", retry_after=reply.retry_after())
        return error_for_status(self.source, reply)

    def _look(self) -> UpstreamStatus:
        """Read the account, which is free, and if credits are left the plan, for one credit.

        Source: `GET /v1/status` (`{"quota", "quotaUsed"}`) and `GET /v1/regions`.
        """
        answer = self._object(self._ask("/status/", {}))
        quota, used = (self._count(answer.get(name)) for name in ("quota", "quotaUsed"))
        self.breaker.usage.note_account(quota, used)
        if used >= quota:
            raise UpstreamQuotaExhausted(self.source, "quota")
        plan = self._read_plan()
        missing = [region for region in self._regions if region not in plan]
        advice = (
            f"the plan leaves out {', '.join(missing)}: set WATCHMODE_REGION and WATCHMODE_REGIONS "
            f"to regions that it has ({', '.join(sorted(plan)) or 'none'}), or change the plan"
        )
        return UpstreamStatus(
            self.source,
            key_accepted=True,
            region=",".join(missing or self._regions),
            covers_region=not missing,
            cost="1 credit",
            advice=(advice,) if missing else (),
        )

    def _ask(self, path: str, params: Mapping[str, str]) -> Any:
        if not self._api_key:
            raise UpstreamNotConfigured(self.source, "not_configured")
        return self._get(path, params=params, headers={"X-API-Key": self._api_key})

    def _count(self, value: Any) -> int:
        if not _is_number(value) or not 0 <= value < 10**15:
            raise self._unusable("bad_shape")
        return int(value)

    def _read_plan(self) -> frozenset[str]:
        regions = frozenset(
            str(region["country"])
            for region in self._rows(self._ask("/regions/", {}))
            if region.get("plan_enabled") is True
            and re.fullmatch(r"[A-Z]{2}", str(region.get("country")), re.ASCII)
        )
        self.breaker.usage.note_plan(Plan(regions, self._now()))
        return regions

    def _covered(self) -> tuple[str, ...]:
        """Return the regions to ask for; raises `RegionNotCovered` if there is none."""
        outside = self.not_covered
        covered = tuple(region for region in self._regions if region not in outside)
        if not covered:
            raise RegionNotCovered(self.source, "region_not_covered")
        return covered

    def _known_plan(self) -> frozenset[str] | None:
        plan = self.breaker.usage.plan
        if plan is None or not -_CLOCK_SKEW < self._now() - plan.read_at < _PLAN_TTL:
            return None
        return plan.regions

    def _learn_plan(self) -> None:
        with self._plan_lock:
            if self._known_plan() is None:
                self._read_plan()


def _account(headers: Mapping[str, str]) -> tuple[int, int] | None:
    """Return the credits granted and used this month, None if the headers have none."""
    quota, used = headers.get("x-account-quota", ""), headers.get("x-account-quota-used", "")
    if not (re.fullmatch(r"[0-9]{1,15}", quota) and re.fullmatch(r"[0-9]{1,15}", used)):
        return None
    return int(quota), int(used)


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
