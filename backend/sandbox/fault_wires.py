"""Faults that take over the connection: transport errors, malformed and oversized responses.

The connection is closed when the fault ends.
"""

import asyncio
import base64
import itertools
import struct
import zlib
from functools import lru_cache

from sandbox import checks
from sandbox.fault_kinds import Exchange, Kind, Option, Options, Wire
from sandbox.messages import JSON, Response, head

BLOCK = 64 * 1024
BOMB_BLOCK = 1024 * 1024
# Gives the bytes already written time to leave, so that RST does not discard them.
SETTLE = 0.01

# Oversized bodies are valid JSON, so that only their size is wrong.
OPENING, CLOSING = b'{"padding":"', b'"}'


def _full_head(answer: Response, length: int | None) -> bytes:
    headers = [*answer.headers, ("Content-Type", answer.content_type)]
    if length is not None:
        headers.append(("Content-Length", str(length)))
    return head(answer.status, [*headers, ("Connection", "close")])


async def _hang(wire: Wire, exchange: Exchange, options: Options) -> None:
    await asyncio.Event().wait()  # cancelled when the client disconnects


async def _reset(wire: Wire, exchange: Exchange, options: Options) -> None:
    wire.reset()


async def _reset_in_headers(wire: Wire, exchange: Exchange, options: Options) -> None:
    await wire.send(b"HTTP/1.1 200 OK\r\nContent-Type: applica")
    await asyncio.sleep(SETTLE)
    wire.reset()


async def _reset_in_body(wire: Wire, exchange: Exchange, options: Options) -> None:
    await _half(wire, exchange, with_length=True)
    await asyncio.sleep(SETTLE)
    wire.reset()


async def _truncate(wire: Wire, exchange: Exchange, options: Options) -> None:
    await _half(wire, exchange, with_length=True)


async def _close_early(wire: Wire, exchange: Exchange, options: Options) -> None:
    await _half(wire, exchange, with_length=False)


async def _half(wire: Wire, exchange: Exchange, *, with_length: bool) -> None:
    healthy = exchange.healthy()
    exchange.call.status = healthy.status
    await wire.send(_full_head(healthy, len(healthy.body) if with_length else None))
    await wire.send(healthy.body[: len(healthy.body) // 2])


async def _drip_headers(wire: Wire, exchange: Exchange, options: Options) -> None:
    await wire.send(b"HTTP/1.1 200 OK\r\n")
    for number in itertools.count():
        await wire.send(f"X-Drip-{number}: drop\r\n".encode())
        await asyncio.sleep(options["interval"])


async def _drip_body(wire: Wire, exchange: Exchange, options: Options) -> None:
    healthy = exchange.healthy()
    exchange.call.status = healthy.status
    await wire.send(_full_head(healthy, len(healthy.body)))
    for byte in healthy.body:
        await wire.send(bytes([byte]))
        await asyncio.sleep(options["interval"])


async def _raw(wire: Wire, exchange: Exchange, options: Options) -> None:
    await wire.send(base64.b64decode(options["raw_b64"]))


async def _informational_flood(wire: Wire, exchange: Exchange, options: Options) -> None:
    batch = b"".join(head(status, ()) for status in (100, 102, 103)) * 8
    while True:
        await wire.send(batch)
        await asyncio.sleep(options["interval"])


async def _many_headers(wire: Wire, exchange: Exchange, options: Options) -> None:
    healthy = exchange.healthy()
    extra = tuple((f"X-Header-{number}", "value") for number in range(options["count"]))
    await _whole(
        wire, exchange, Response(healthy.status, healthy.body, healthy.content_type, extra)
    )


async def _big_header(wire: Wire, exchange: Exchange, options: Options) -> None:
    healthy = exchange.healthy()
    extra = (("X-Big", "x" * options["bytes"]),)
    await _whole(
        wire, exchange, Response(healthy.status, healthy.body, healthy.content_type, extra)
    )


async def _whole(wire: Wire, exchange: Exchange, answer: Response) -> None:
    exchange.call.status = answer.status
    await wire.send(answer.render(keep_alive=False))


async def _huge(wire: Wire, exchange: Exchange, options: Options) -> None:
    exchange.call.status = 200
    await wire.send(_full_head(Response(), options["bytes"]) + OPENING)
    left = options["bytes"] - len(OPENING) - len(CLOSING)
    block = b"x" * BLOCK
    while left > 0:
        await wire.send(block[:left])
        left -= BLOCK
    await wire.send(CLOSING)


async def _endless(wire: Wire, exchange: Exchange, options: Options) -> None:
    exchange.call.status = 200
    headers = (("Content-Type", JSON), ("Transfer-Encoding", "chunked"))
    await wire.send(head(200, headers) + _chunk(OPENING))
    block = _chunk(b"x" * BLOCK)
    while True:
        await wire.send(block)
        await asyncio.sleep(options["interval"])


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


async def _gzip_bomb(wire: Wire, exchange: Exchange, options: Options) -> None:
    """Send one gzip member that repeats one compressed megabyte; its checksum is correct."""
    exchange.call.status = 200
    blocks, rest = divmod(options["decoded"] - len(OPENING) - len(CLOSING), BOMB_BLOCK)
    block = b"x" * BOMB_BLOCK
    start, end = _deflated(OPENING), _deflated(b"x" * rest + CLOSING, last=True)
    packed = _packed_block()
    gzip_head = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
    length = len(gzip_head) + len(start) + blocks * len(packed) + len(end) + 8
    answer = Response(headers=(("Content-Encoding", "gzip"),))
    await wire.send(_full_head(answer, length) + gzip_head + start)
    checksum = zlib.crc32(OPENING)
    for _ in range(blocks):
        checksum = zlib.crc32(block, checksum)
        await wire.send(packed)
        await asyncio.sleep(0)
    checksum = zlib.crc32(b"x" * rest + CLOSING, checksum)
    await wire.send(end + struct.pack("<II", checksum, options["decoded"] % 2**32))


def _deflated(data: bytes, *, last: bool = False) -> bytes:
    """Return deflate blocks that end on a byte boundary and do not refer to earlier data."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush(zlib.Z_FINISH if last else zlib.Z_FULL_FLUSH)


@lru_cache(1)
def _packed_block() -> bytes:
    return _deflated(b"x" * BOMB_BLOCK)


def _interval(default: float) -> dict[str, Option]:
    return {"interval": Option(checks.number(0), default)}


SMALLEST_DOCUMENT = checks.whole(len(OPENING) + len(CLOSING))

KINDS = {
    "delay": Kind({"seconds": Option(checks.number(0))}),
    "hang": Kind({}, take_over=_hang),
    "reset": Kind({}, take_over=_reset),
    "reset_in_headers": Kind({}, take_over=_reset_in_headers),
    "reset_in_body": Kind({}, take_over=_reset_in_body),
    "truncate": Kind({}, take_over=_truncate),
    "close_early": Kind({}, take_over=_close_early),
    "drip_headers": Kind(_interval(0.3), take_over=_drip_headers),
    "drip_body": Kind(_interval(0.5), take_over=_drip_body),
    "raw": Kind({"raw_b64": Option(checks.encoded)}, take_over=_raw),
    "informational_flood": Kind(_interval(0.005), take_over=_informational_flood),
    "many_headers": Kind({"count": Option(checks.whole(1), 10_000)}, take_over=_many_headers),
    "big_header": Kind({"bytes": Option(checks.whole(1), 1024 * 1024)}, take_over=_big_header),
    "huge": Kind({"bytes": Option(SMALLEST_DOCUMENT, 100_000_000)}, take_over=_huge),
    "endless": Kind(_interval(0), take_over=_endless),
    "gzip_bomb": Kind({"decoded": Option(SMALLEST_DOCUMENT, 200_000_000)}, take_over=_gzip_bomb),
}
