// A frontend's calls with the client that orval generates from docs/openapi.yaml: this has to compile.
import { getFilm, getFilmTrailer, searchFilms, type FilmDetail } from "./generated/orval.js";

export async function firstFilm(text: string): Promise<FilmDetail | null> {
  const found = await searchFilms({ q: text });
  if (found.status !== 200) throw new Error(`${found.data.reason}: ${found.data.message}`);
  const [first] = found.data.results;
  if (!first) return null;
  const film = await getFilm(first.imdb_id);
  return film.status === 200 ? film.data : null;
}

export async function youtube(id: string): Promise<string | null> {
  const answer = await getFilmTrailer(id);
  return answer.status === 200 ? (answer.data.trailer?.youtube_video_id ?? null) : null;
}

export const year = (film: FilmDetail): number | undefined => film.metadata.startYear;

// @ts-expect-error  the trailer may be null
export const careless = (film: FilmDetail) => film.trailer.youtube_video_id;
// @ts-expect-error  a film has no such key
export const wrong = (film: FilmDetail) => film.metadata.runtimeSecond;
