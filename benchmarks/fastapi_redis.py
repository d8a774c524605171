"""Films in Redis, checked and rendered by pydantic, with FastAPI under uvicorn."""

import os
from typing import Any

import redis.asyncio
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

_redis = redis.asyncio.from_url(os.environ["REDIS_URL"])
app = FastAPI()


class Image(BaseModel):
    """A picture."""

    url: str
    width: int | None = None
    height: int | None = None
    type: str | None = None


class Person(BaseModel):
    """A person."""

    id: str
    displayName: str
    primaryImage: Image | None = None
    primaryProfessions: list[str] = []


class Credit(BaseModel):
    """What a person did in a film."""

    name: Person
    category: str
    characters: list[str] = []


class Page(BaseModel):
    """What lists have in common."""

    totalCount: int | None = None
    nextPageToken: str | None = None


class Credits(Page):
    """Cast and crew."""

    credits: list[Credit] = []


class Images(Page):
    """The pictures of a film."""

    images: list[Image] = []


class Offer(BaseModel):
    """Where a film can be streamed."""

    source_id: int
    name: str
    type: str
    region: str
    ios_url: str | None = None
    android_url: str | None = None
    web_url: str | None = None
    format: str | None = None
    price: float | None = None
    seasons: int | None = None
    episodes: int | None = None


class Film(BaseModel):
    """Everything about a film."""

    imdb_id: str
    title: str
    metadata: dict[str, Any]
    credits: Credits
    images: Images
    videos: dict[str, Any]
    parents_guide: dict[str, Any]
    certificates: dict[str, Any]
    release_dates: dict[str, Any]
    trailer: dict[str, Any] | None
    streaming: list[Offer]
    warnings: list[dict[str, Any]]


@app.get("/api/films/{imdb_id}")
async def film(imdb_id: str) -> Film:
    """Return a stored film."""
    stored = await _redis.get(f"benchmark:{imdb_id}")
    if stored is None:
        raise HTTPException(404)
    return Film.model_validate_json(stored)
