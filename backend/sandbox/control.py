"""The control API: call counts, faults and settings as JSON.

Control requests are not counted and faults do not apply to them.
"""

import json
from collections.abc import Mapping
from typing import Any

from sandbox.call_log import CallLog
from sandbox.checks import InvalidRequest
from sandbox.faults import FaultRegistry
from sandbox.messages import Request, Response, to_json
from sandbox.upstream import Upstream


class Control:
    def __init__(
        self, *, upstreams: Mapping[str, Upstream], faults: FaultRegistry, call_log: CallLog
    ) -> None:
        self._upstreams, self._faults, self._call_log = upstreams, faults, call_log

    def answer(self, request: Request) -> Response:
        try:
            return self._route(request)
        except InvalidRequest as exc:
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
            404, to_json({"error": f"unknown control: {request.method} {request.path}"})
        )

    def _calls(self, request: Request) -> dict[str, Any]:
        allowed = ["path", "since", "source", "summary"]
        unknown = sorted(set(request.query) - set(allowed))
        if unknown:
            raise InvalidRequest(f"unknown filter {unknown[0]!r}", allowed)
        since = request.first("since", "0")
        if not (since.isascii() and since.isdigit()):
            raise InvalidRequest("'since' must be a sequence number")
        return self._call_log.report(
            source=request.first("source"),
            path=request.first("path"),
            since=int(since),
            summary=request.first("summary") in ("1", "true"),
        )

    def _reset(self) -> None:
        self._faults.clear()
        self._call_log.reset()
        for upstream in self._upstreams.values():
            upstream.reset()

    def _settings(self) -> dict[str, Any]:
        return {name: upstream.settings.as_json() for name, upstream in self._upstreams.items()}

    def _change(self, changes: Mapping[str, Any]) -> None:
        """Apply all changes, or none if one is invalid."""
        changed = {}
        for name, values in changes.items():
            if name not in self._upstreams:
                raise InvalidRequest(f"unknown source {name!r}", sorted(self._upstreams))
            if not isinstance(values, dict):
                raise InvalidRequest(f"{name!r} must be an object of options")
            changed[name] = self._upstreams[name].settings.changed(values, of=name)
        for name, settings in changed.items():
            self._upstreams[name].change(settings)


def _object(request: Request) -> dict[str, Any]:
    try:
        value = json.loads(request.body)
    except ValueError:
        raise InvalidRequest("the body must be JSON") from None
    if not isinstance(value, dict):
        raise InvalidRequest("the body must be a JSON object")
    return value
