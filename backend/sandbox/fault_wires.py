"""Faults below HTTP, or against it. The connection is closed when one of these is over."""

import asyncio
import base64
import itertools
import struct
import zlib
from functools import lru_cache

from sandbox import checks
from sandbox.fault_kinds import Ask, Kind, Option, Options, Wire
from sandbox.messages import JSON, Response, head

BLOCK = 64 * 1024
BOMB_BLOCK = 1024 * 1024
# Long enough for the bytes sent so far to leave, so that the RST overtakes none of them.
SETTLE = 0.01

# Whatever else is wrong with an oversized answer, it is valid JSON: only its size is the fault.
OPENING, CLOSING = b'{"padding":"', b'"}'


def _full_head(answer: Response, length: int | None) -> bytes:
    headers = [*answer.headers, ("Content-Type", answer.content_type)]
    if length is not None:
        headers.append(("Content-Length", str(length)))
    return head(answer.status, [*headers, ("Connection", "close")])


async def _hang(wire: Wire, ask: Ask, options: Options) -> None:
    await asyncio.Event().wait()  # cancelled when the client goes away


async def _reset(wire: Wire, ask: Ask, options: Options) -> None:
    wire.reset()


async def _reset_in_headers(wire: Wire, ask: Ask, options: Options) -> None:
    await wire.send(b"HTTP/1.1 200 OK\r\nContent-Type: applica")
    await asyncio.sleep(SETTLE)
    wire.reset()


async def _reset_in_body(wire: Wire, ask: Ask, options: Options) -> None:
    await _half(wire, ask, with_length=True)
    await asyncio.sleep(SETTLE)
    wire.reset()


async def _truncate(wire: Wire, ask: Ask, options: Options) -> None:
    await _half(wire, ask, with_length=True)


async def _close_early(wire: Wire, ask: Ask, options: Options) -> None:
    await _half(wire, ask, with_length=False)


async def _half(wire: Wire, ask: Ask, *, with_length: bool) -> None:
    real = ask.real()
    ask.call.status = real.status
    await wire.send(_full_head(real, len(real.body) if with_length else None))
    await wire.send(real.body[: len(real.body) // 2])


async def _drip_headers(wire: Wire, ask: Ask, options: Options) -> None:
    await wire.send(b"HTTP/1.1 200 OK\r\n")
    for number in itertools.count():
        await wire.send(f"X-Drip-{number}: drop\r\n".encode())
        await asyncio.sleep(options["interval"])


async def _drip_body(wire: Wire, ask: Ask, options: Options) -> None:
    real = ask.real()
    ask.call.status = real.status
    await wire.send(_full_head(real, len(real.body)))
    for byte in real.body:
        await wire.send(bytes([byte]))
        await asyncio.sleep(options["interval"])


async def _raw(wire: Wire, ask: Ask, options: Options) -> None:
    await wire.send(base64.b64decode(options["raw_b64"]))


async def _informational_flood(wire: Wire, ask: Ask, options: Options) -> None:
    batch = b"".join(head(status, ()) for status in (100, 102, 103)) * 8
    while True:
        await wire.send(batch)
        await asyncio.sleep(options["interval"])


async def _many_headers(wire: Wire, ask: Ask, options: Options) -> None:
    real = ask.real()
    extra = tuple((f"X-Header-{number}", "value") for number in range(options["count"]))
    await _whole(wire, ask, Response(real.status, real.body, real.content_type, extra))


async def _big_header(wire: Wire, ask: Ask, options: Options) -> None:
    real = ask.real()
    extra = (("X-Big", "x" * options["bytes"]),)
    await _whole(wire, ask, Response(real.status, real.body, real.content_type, extra))


async def _whole(wire: Wire, ask: Ask, answer: Response) -> None:
    ask.call.status = answer.status
    await wire.send(answer.render(keep_alive=False))


async def _huge(wire: Wire, ask: Ask, options: Options) -> None:
    ask.call.status = 200
    await wire.send(_full_head(Response(), options["bytes"]) + OPENING)
    left = options["bytes"] - len(OPENING) - len(CLOSING)
    block = b"x" * BLOCK
    while left > 0:
        await wire.send(block[:left])
        left -= BLOCK
    await wire.send(CLOSING)


async def _endless(wire: Wire, ask: Ask, options: Options) -> None:
    ask.call.status = 200
    headers = (("Content-Type", JSON), ("Transfer-Encoding", "chunked"))
    await wire.send(head(200, headers) + _chunk(OPENING))
    block = _chunk(b"x" * BLOCK)
    while True:
        await wire.send(block)
        await asyncio.sleep(options["interval"])


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


async def _gzip_bomb(wire: Wire, ask: Ask, options: Options) -> None:
    """One gzip member, made of one compressed megabyte repeated; its checksum is worked out
    on the way because a decoder may well compare it."""
    ask.call.status = 200
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
    """A run of deflate blocks that ends on a byte and refers to nothing before it."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush(zlib.Z_FINISH if last else zlib.Z_FULL_FLUSH)


@lru_cache(1)
def _packed_block() -> bytes:
    return _deflated(b"x" * BOMB_BLOCK)


def _interval(default: float) -> dict[str, Option]:
    return {"interval": Option(checks.number(0), default)}


AT_LEAST_A_DOCUMENT = checks.whole(len(OPENING) + len(CLOSING))

KINDS = {
    "delay": Kind({"seconds": Option(checks.number(0))}),
    "hang": Kind({}, play=_hang),
    "reset": Kind({}, play=_reset),
    "reset_in_headers": Kind({}, play=_reset_in_headers),
    "reset_in_body": Kind({}, play=_reset_in_body),
    "truncate": Kind({}, play=_truncate),
    "close_early": Kind({}, play=_close_early),
    "drip_headers": Kind(_interval(0.3), play=_drip_headers),
    "drip_body": Kind(_interval(0.5), play=_drip_body),
    "raw": Kind({"raw_b64": Option(checks.encoded)}, play=_raw),
    "informational_flood": Kind(_interval(0.005), play=_informational_flood),
    "many_headers": Kind({"count": Option(checks.whole(1), 10_000)}, play=_many_headers),
    "big_header": Kind({"bytes": Option(checks.whole(1), 1024 * 1024)}, play=_big_header),
    "huge": Kind({"bytes": Option(AT_LEAST_A_DOCUMENT, 100_000_000)}, play=_huge),
    "endless": Kind(_interval(0), play=_endless),
    "gzip_bomb": Kind({"decoded": Option(AT_LEAST_A_DOCUMENT, 200_000_000)}, play=_gzip_bomb),
}
