// Real answers against the zod schemas that openapi-zod-client generates. Usage: validate.js BASE_URL
import { schemas } from "./generated/zod.js";

const base = process.argv[2];

async function read(path: string): Promise<unknown> {
  const response = await fetch(`${base}${path}`);
  return response.json();
}

const film = schemas.FilmDetail.parse(await read("/api/films/tt1375666"));
for (const id of ["tt0903747", "tt0096697", "tt0346094", "tt9999998", "tt0000417"]) {
  schemas.FilmDetail.parse(await read(`/api/films/${id}`));
}
const { trailer } = schemas.FilmTrailer.parse(await read("/api/films/tt0346094/trailer"));
if (trailer !== null) throw new Error("this film has no trailer");
schemas.FilmStreaming.parse(await read("/api/films/tt1375666/streaming"));
const { results } = schemas.Search.parse(await read("/api/search?q=the"));
schemas.Error.parse(await read("/api/films/abc"));
schemas.MovieAnswer.parse(await read("/api/v1/search/id/?id=tt0903747"));
schemas.Readiness.parse(await read("/readyz"));

console.log(`${film.title}: ${film.streaming.length} offers, ${results.length} titles`);
