"""The HTTP server. It uses asyncio.Protocol, because a framework cannot send half a header
and reset the connection."""

import asyncio
import socket
import struct
from collections import deque

import httptools

from sandbox.call_log import Call, CallLog
from sandbox.catalogue import Catalogue
from sandbox.control import Control
from sandbox.fault_kinds import Exchange
from sandbox.faults import Fault, FaultRegistry
from sandbox.imdbapi import Imdbapi
from sandbox.kinocheck import Kinocheck
from sandbox.messages import Request, Response, split_target, to_json
from sandbox.omdb import Omdb
from sandbox.upstream import Upstream
from sandbox.watchmode import Watchmode

UPSTREAMS: tuple[type[Upstream], ...] = (Imdbapi, Kinocheck, Watchmode, Omdb)
LARGEST_BODY = 16 * 1024 * 1024
# l_onoff=1, l_linger=0: close() sends RST instead of FIN.
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Sandbox:
    """The state that all connections share."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.upstreams: dict[str, Upstream] = {kind.name: kind(catalogue) for kind in UPSTREAMS}
        names = tuple(self.upstreams)
        self.faults, self.call_log = FaultRegistry(names), CallLog(names)
        self.control = Control(upstreams=self.upstreams, faults=self.faults, call_log=self.call_log)
        self.prefixes = (*names, "control")
        self.connections: set[Connection] = set()

    def close_connections(self) -> None:
        for connection in tuple(self.connections):
            connection.abort()


class Connection(asyncio.Protocol):
    """One client connection. Pipelined requests are answered in order, one at a time."""

    _transport: asyncio.Transport

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[Request] = deque()
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._generation: object = None

    # Called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._sandbox.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._sandbox.connections.discard(self)
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            raise  # a bug in the sandbox: asyncio logs it and closes
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._write(Response(400, to_json({"error": "not HTTP/1.1"})), keep_alive=False)

    # Called by the parser

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body = bytearray()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body += body
        if len(self._body) > LARGEST_BODY:
            self.abort()

    def on_message_complete(self) -> None:
        target = self._url.decode("utf-8", "replace")
        source, path, query = split_target(target, self._sandbox.prefixes)
        method = self._parser.get_method().decode("ascii")
        keep_alive = self._parser.should_keep_alive()
        request = Request(method, source, path, query, self._headers, bytes(self._body), keep_alive)
        self._waiting.append(request)
        self._serve_waiting()

    # Serving

    def _serve_waiting(self) -> None:
        while self._waiting and self._task is None and not self._transport.is_closing():
            self._serve(self._waiting.popleft())

    def _serve(self, request: Request) -> None:
        if request.source == "control":
            self._reply(request, self._sandbox.control.answer(request))
            return
        call_log = self._sandbox.call_log
        self._generation = call_log.count_connection(self._generation)
        call = call_log.begin(request)
        upstream = self._sandbox.upstreams.get(request.source)
        if upstream is None:
            call.status = 404
            self._reply(request, Response(404, to_json({"error": "unknown source"})))
            call_log.end(call)
            return
        wait, fault = self._sandbox.faults.choose(call)
        wait += upstream.delay(request.path)
        exchange = Exchange(request, upstream, call)
        if wait or fault:
            self._task = asyncio.get_running_loop().create_task(
                self._serve_slowly(exchange, wait, fault)
            )
            self._task.add_done_callback(lambda task: self._done(task, call))
            return
        try:
            self._reply_to(exchange, exchange.healthy())
        finally:
            call_log.end(call)

    async def _serve_slowly(self, exchange: Exchange, wait: float, fault: Fault | None) -> None:
        answer = None if fault else exchange.healthy()  # quotas and rate limits count at arrival
        if wait:
            await asyncio.sleep(wait)
        if fault and fault.definition.take_over:
            await fault.definition.take_over(self, exchange, fault.options)
            self._transport.close()
            return
        if fault and fault.definition.respond:
            answer = fault.definition.respond(exchange, fault.options)
        self._reply_to(exchange, answer or exchange.healthy())

    def _done(self, task: asyncio.Task[None], call: Call) -> None:
        self._sandbox.call_log.end(call)
        self._task = None
        if task.cancelled():
            return
        if task.exception():
            self.abort()
            task.result()  # a bug in the sandbox: asyncio logs it
        self._serve_waiting()

    def _reply_to(self, exchange: Exchange, answer: Response) -> None:
        exchange.call.status = answer.status
        self._reply(exchange.request, answer)

    def _reply(self, request: Request, answer: Response) -> None:
        with_body = request.method != "HEAD"
        self._write(answer, keep_alive=request.keep_alive, with_body=with_body)

    def _write(self, answer: Response, *, keep_alive: bool, with_body: bool = True) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(answer.render(keep_alive=keep_alive, with_body=with_body))
        if not keep_alive:
            self._transport.close()

    # The Wire protocol, for faults

    async def send(self, data: bytes) -> None:
        self._transport.write(data)
        # A closed transport accepts bytes and never pauses. Let the event loop run, so that
        # connection_lost() is called and cancels the sender.
        await asyncio.sleep(0)
        await self._writable.wait()

    def reset(self) -> None:
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self._transport.abort()

    def abort(self) -> None:
        self._transport.abort()
