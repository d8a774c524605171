"""Watchmode: where a title can be streamed (https://api.watchmode.com/docs)."""

import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from core.errors import (
    RegionNotCovered,
    UpstreamBadAnswer,
    UpstreamError,
    UpstreamNotConfigured,
    UpstreamQuotaExhausted,
)
from core.services.conformity import conforming
from core.services.gate import Gate
from core.services.http_client import HttpClient, Reply
from core.services.upstream import UpstreamService, error_for_status
from core.services.upstream_status import SettingNames, UpstreamStatus
from core.source_shapes import StreamingSourceSerializer

# A plan's regions change when somebody changes the plan; a day late is soon enough.
_REGIONS_TTL = 86_400.0


class WatchmodeService(UpstreamService):
    """Reads Watchmode for one `region` (ISO 3166-1 alpha-2) with a key sent in a header.

    Without a key every method raises `UpstreamNotConfigured` and asks nobody.
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
        region: str,
        gate: Gate | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(http=http, base_url=base_url, gate=gate)
        self._api_key = api_key
        self._region = region
        self._clock = clock
        self._uncovered_until = 0.0

    def lookup_title_id(self, imdb_id: str) -> int | None:
        """Return Watchmode's number for the title, None where it does not know the title.

        Costs one credit. Source: `GET /v1/search/`.
        """
        self._refuse_uncovered_region()
        params = {"search_field": "imdb_id", "search_value": imdb_id}
        answer = self._object(self._ask("/search/", params))
        # The list may be left out, so an error with status 200 would pass for "unknown title".
        if answer.get("success") is False:
            raise self._unusable("bad_shape")
        for title in self._rows_of(answer, "title_results", beside=("people_results",)):
            # Every field of a result is optional, its IMDb id too.
            if title.get("imdb_id") in (None, imdb_id) and _is_number(title.get("id")):
                number = int(title["id"])
                # What no column can hold is no number of theirs.
                if 0 < number < 2**63:
                    return number
        return None

    def get_streaming_sources(self, watchmode_id: int) -> list[dict[str, Any]]:
        """Return a row per service, type, format and price in the region; `[]` for no offer.

        What does not fit `StreamingSourceSerializer` is null or left out. Costs one credit. Raises
        `RegionNotCovered` where the plan leaves the region out, and `UpstreamNotFound` where the
        number is not known (any more).
        Source: `GET /v1/title/{title_id}/sources/`.
        """
        self._refuse_uncovered_region()
        try:
            rows = self._ask(f"/title/{watchmode_id}/sources/", {"regions": self._region})
            if rows is None:
                # Within an object null stands for an empty list, as a whole answer for nothing.
                raise self._unusable("bad_shape")
            offers = self._rows(rows)
        except UpstreamBadAnswer as exc:
            # A region outside the plan is a plain 400, as is any other mistake in the request.
            if exc.reason == "http_4xx" and self._region not in self._plan_regions():
                self._uncovered_until = self._clock() + _REGIONS_TTL
                raise RegionNotCovered(self.source, "region_not_covered") from exc
            raise
        fit: list[dict[str, Any]] = conforming(
            offers, StreamingSourceSerializer, source=self.source
        )
        return fit

    def refusal(self, reply: Reply) -> UpstreamError | None:
        """Tell a used-up quota from a burst limit and a bad key: by the account's own counters."""
        account = _account(reply.headers)
        if account:
            self._gate.note_account(*account)
        if reply.status in {401, 402, 403, 429} and account and account[1] >= account[0] > 0:
            return UpstreamQuotaExhausted(self.source, "quota", retry_after=reply.retry_after())
        return error_for_status(self.source, reply)

    def _look(self) -> UpstreamStatus:
        """Ask for the account, free of charge, and where credits are left for the regions, for one.

        Source: `GET /v1/status` (`{"quota", "quotaUsed"}`) and `GET /v1/regions`.
        """
        answer = self._object(self._ask("/status/", {}))
        quota, used = (self._count(answer.get(name)) for name in ("quota", "quotaUsed"))
        self._gate.note_account(quota, used)
        if used >= quota:
            raise UpstreamQuotaExhausted(self.source, "quota")
        covered = self._plan_regions()
        covers = self._region in covered
        others = ", ".join(sorted(covered)) or "none"
        advice = (
            f"the plan leaves out {self._region}: set WATCHMODE_REGION to one that it has "
            f"({others}), or change the plan"
        )
        return UpstreamStatus(
            self.source,
            key_accepted=True,
            region=self._region,
            covers_region=covers,
            cost="1 credit",
            advice=() if covers else (advice,),
        )

    def _ask(self, path: str, params: Mapping[str, str]) -> Any:
        if not self._api_key:
            raise UpstreamNotConfigured(self.source, "not_configured")
        return self._get(path, params=params, headers={"X-API-Key": self._api_key})

    def _count(self, value: Any) -> int:
        if not _is_number(value) or not 0 <= value < 10**15:
            raise self._unusable("bad_shape")
        return int(value)

    def _plan_regions(self) -> set[str]:
        return {
            str(region["country"])
            for region in self._rows(self._ask("/regions/", {}))
            if region.get("plan_enabled") is True
            and re.fullmatch(r"[A-Z]{2}", str(region.get("country")), re.ASCII)
        }

    def _refuse_uncovered_region(self) -> None:
        if self._clock() < self._uncovered_until:
            raise RegionNotCovered(self.source, "region_not_covered")


def _account(headers: Mapping[str, str]) -> tuple[int, int] | None:
    """Return the credits granted and used this month, None where the headers do not tell."""
    quota, used = headers.get("x-account-quota", ""), headers.get("x-account-quota-used", "")
    if not (re.fullmatch(r"[0-9]{1,15}", quota) and re.fullmatch(r"[0-9]{1,15}", used)):
        return None
    return int(quota), int(used)


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
