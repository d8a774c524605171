"""aiohttp: fetches a film with ten calls at once, and keeps it in a dictionary of the process."""

import asyncio
import json
import os
from typing import Any

import aiohttp
import upstream
import uvloop
from aiohttp import web

_CLIENT = web.AppKey("client", aiohttp.ClientSession)
_films: dict[str, bytes] = {}


async def film(request: web.Request) -> web.Response:
    """Return a film, from memory or fetched."""
    imdb_id = request.match_info["imdb_id"]
    body = _films.get(imdb_id)
    if body is None:
        payload = await fetch(request.app[_CLIENT], imdb_id)
        body = _films[imdb_id] = json.dumps(payload, ensure_ascii=False).encode()
    return web.Response(body=body, content_type="application/json")


async def fetch(client: aiohttp.ClientSession, imdb_id: str) -> dict[str, Any]:
    """Fetch a film."""

    async def get(url: str, headers: dict[str, str] | None = None) -> Any:
        async with client.get(url, headers=headers, raise_for_status=True) as answer:
            return await answer.json()

    async def offers() -> Any:
        found = await get(upstream.title_url(imdb_id), upstream.WATCHMODE)
        return await get(upstream.offers_url(found), upstream.WATCHMODE)

    trailer, streaming, *sections = await asyncio.gather(
        get(upstream.trailer_url(imdb_id), upstream.KINO),
        offers(),
        *(get(upstream.imdb_url(imdb_id, section)) for section in upstream.IMDB),
    )
    named = dict(zip(upstream.IMDB, sections, strict=True))
    return upstream.merge(imdb_id, named, trailer, streaming)


async def _with_client(app: web.Application) -> Any:
    # Without a limit on connections, as 32 films need more than the 100 of the default.
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:
        app[_CLIENT] = client
        yield


def main() -> None:
    """Serve at the port that `PORT` names."""
    uvloop.install()
    app = web.Application()
    app.cleanup_ctx.append(_with_client)
    app.router.add_get("/api/films/{imdb_id}", film)
    web.run_app(app, host="127.0.0.1", port=int(os.environ["PORT"]), access_log=None, print=None)


if __name__ == "__main__":
    main()
