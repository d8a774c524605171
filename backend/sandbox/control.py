"""The steering wheel: counts, faults and settings over JSON. Never counted, never faulted."""

import json
from collections.abc import Mapping
from typing import Any

from sandbox.checks import Refusal
from sandbox.faults import FaultBook
from sandbox.ledger import Ledger
from sandbox.messages import Request, Response, to_json
from sandbox.upstream import Upstream


class Control:
    def __init__(
        self, *, upstreams: Mapping[str, Upstream], faults: FaultBook, ledger: Ledger
    ) -> None:
        self._upstreams, self._faults, self._ledger = upstreams, faults, ledger

    def answer(self, request: Request) -> Response:
        try:
            return self._route(request)
        except Refusal as exc:
            body: dict[str, Any] = {"error": exc.reason}
            if exc.allowed is not None:
                body["allowed"] = exc.allowed
            return Response(400, to_json(body))

    def _route(self, request: Request) -> Response:
        match request.method, request.path.strip("/").split("/"):
            case "GET", ["calls"]:
                return Response(body=to_json(self._calls(request)))
            case "POST", ["reset"]:
                self._reset()
                return Response(body=b"{}")
            case "GET", ["faults"]:
                return Response(body=to_json(self._faults.as_json()))
            case "POST", ["faults"]:
                return Response(201, to_json({"id": self._faults.add(_object(request)).id}))
            case "DELETE", ["faults"]:
                return Response(body=to_json({"deleted": self._faults.clear()}))
            case "DELETE", ["faults", fault_id] if self._faults.remove(fault_id):
                return Response(body=to_json({"deleted": 1}))
            case "GET", ["settings"]:
                return Response(body=to_json(self._settings()))
            case "PATCH", ["settings"]:
                self._change(_object(request))
                return Response(body=to_json(self._settings()))
        return Response(
            404, to_json({"error": f"no such control: {request.method} {request.path}"})
        )

    def _calls(self, request: Request) -> dict[str, Any]:
        allowed = ["path", "since", "source", "summary"]
        unknown = sorted(set(request.query) - set(allowed))
        if unknown:
            raise Refusal(f"unknown filter {unknown[0]!r}", allowed)
        since = request.first("since", "0")
        if not (since.isascii() and since.isdigit()):
            raise Refusal("'since' must be a sequence number")
        return self._ledger.report(
            source=request.first("source"),
            path=request.first("path"),
            since=int(since),
            summary=request.first("summary") in ("1", "true"),
        )

    def _reset(self) -> None:
        self._faults.clear()
        self._ledger.restart()
        for upstream in self._upstreams.values():
            upstream.restart()

    def _settings(self) -> dict[str, Any]:
        return {name: upstream.settings.as_json() for name, upstream in self._upstreams.items()}

    def _change(self, wishes: Mapping[str, Any]) -> None:
        """All of it or nothing."""
        changed = {}
        for name, values in wishes.items():
            if name not in self._upstreams:
                raise Refusal(f"unknown source {name!r}", sorted(self._upstreams))
            if not isinstance(values, dict):
                raise Refusal(f"{name!r} must be an object of options")
            changed[name] = self._upstreams[name].settings.changed(values, of=name)
        for name, settings in changed.items():
            self._upstreams[name].change(settings)


def _object(request: Request) -> dict[str, Any]:
    try:
        value = json.loads(request.body)
    except ValueError:
        raise Refusal("the body must be JSON") from None
    if not isinstance(value, dict):
        raise Refusal("the body must be a JSON object")
    return value
