// A frontend's calls with the client that @hey-api/openapi-ts generates: this has to compile.
import { getFilm, getMovie, searchFilms, type FilmDetail } from "./generated/hey-api/index.js";
import { client } from "./generated/hey-api/client.gen.js";

client.setConfig({ baseUrl: "http://localhost:8000" });

export async function firstFilm(text: string): Promise<FilmDetail | null> {
  const { data, error } = await searchFilms({ query: { q: text } });
  if (error) throw new Error(`${error.reason}: ${error.message}`);
  const first = data?.results[0];
  if (!first) return null;
  const film = await getFilm({ path: { imdb_id: first.imdb_id } });
  return film.data ?? null;
}

export async function rating(id: string): Promise<string | null> {
  const { data } = await getMovie({ query: { id } });
  return data?.data.imdb_rating ?? null;
}

// @ts-expect-error  the trailer may be null
export const careless = (film: FilmDetail) => film.trailer.youtube_video_id;
// @ts-expect-error  a film has no such key
export const wrong = (film: FilmDetail) => film.metadata.runtimeSecond;
