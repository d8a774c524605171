// What a frontend does with the service, in the types made from docs/openapi.yaml: this has to compile.
import createClient from "openapi-fetch";
import type { components, operations, paths } from "./generated/api.js";

type Film = components["schemas"]["FilmDetail"];
type WarningCode = components["schemas"]["WarningCode"];

const api = createClient<paths>({ baseUrl: "http://localhost:8000" });

export async function search(text: string): Promise<{ id: string; label: string }[]> {
  const { data, error } = await api.GET("/api/search", { params: { query: { q: text } } });
  if (error) throw new Error(`${error.error_code}: ${error.message}`);
  return data.results.map((film) => ({
    id: film.imdb_id,
    label: `${film.title ?? film.imdb_id} (${film.year?.toString() ?? "?"})`,
  }));
}

export async function film(id: string, etag?: string): Promise<Film | "unchanged"> {
  const { data, error, response } = await api.GET("/api/films/{imdb_id}", {
    params: { path: { imdb_id: id }, header: etag === undefined ? {} : { "If-None-Match": etag } },
  });
  if (response.status === 304) return "unchanged";
  if (error) throw new Error(`${error.error_code}: ${error.message}`);
  if (!data) throw new Error("an answer without a body");
  return data;
}

export function card(film: Film) {
  const { metadata, credits, streaming, trailer } = film;
  return {
    title: film.title,
    minutes: metadata.runtimeSeconds === undefined ? null : metadata.runtimeSeconds / 60,
    rating: metadata.rating?.aggregateRating?.toFixed(1) ?? "-",
    cast: (credits.credits ?? []).map((credit) => credit.name?.displayName ?? "?"),
    more: (credits.totalCount ?? 0) - (credits.credits?.length ?? 0),
    youtube: trailer?.youtube_video_id ?? null,
    offers: streaming.map((offer) => `${offer.name ?? "?"} ${offer.price?.toFixed(2) ?? ""}`),
    links: streaming.flatMap((offer) => (offer.web_url?.startsWith("http") ? [offer.web_url] : [])),
  };
}

// The list of codes is open.
const advice: Record<WarningCode, "retry" | "tell" | "ignore" | undefined> = {
  timeout: "retry",
  unavailable: "retry",
  rate_limited: "retry",
  deadline: "retry",
  bad_response: "retry",
  quota_exhausted: "tell",
  not_configured: "ignore",
  rejected: "ignore",
  region_not_covered: "tell",
  stale: "ignore",
  expired: "tell",
};

export const advised = (film: Film) => film.warnings.map((warning) => advice[warning.code] ?? "ignore");

export async function movie(id: string): Promise<string | null> {
  const { data } = await api.GET("/api/v1/search/id/", { params: { query: { id } } });
  return data ? data.data.imdb_rating : null;
}

// Each operation has a name that makes a good function name.
export type Names = keyof Pick<
  operations,
  | "searchFilms"
  | "getFilm"
  | "getFilmTrailer"
  | "getFilmStreaming"
  | "searchMovies"
  | "getMovie"
  | "getHealth"
  | "getReadiness"
  | "getMetrics"
>;

// @ts-expect-error  a slip of the pen: it is called runtimeSeconds
export const misspelt = (film: Film) => film.metadata.runtimeSecond;
// @ts-expect-error  a film has no such key
export const wrong = (film: Film) => film.reviews;
// @ts-expect-error  the trailer may be null
export const careless = (film: Film) => film.trailer.youtube_video_id;
