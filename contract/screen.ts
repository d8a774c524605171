// The data of one screen, as a frontend reads them. Usage: screen.js BASE_URL
import createClient from "openapi-fetch";
import type { components, paths } from "./generated/api.js";

type Failure = components["schemas"]["Error"];

const api = createClient<paths>({ baseUrl: process.argv[2] ?? "http://localhost:8000" });

function must<T>(answer: { data?: T; error?: Failure }): T {
  if (answer.data === undefined) throw new Error(answer.error?.message ?? "an empty answer");
  return answer.data;
}

const found = must(
  await api.GET("/api/search", {
    params: { query: { q: "inception", type: "movie", year: "2005-2015", limit: 10, image_width: 300 } },
  }),
);
const first = found.results[0];
if (!first) throw new Error("nothing found");
const path = { imdb_id: first.imdb_id };

const film = must(
  await api.GET("/api/films/{imdb_id}", {
    params: { path, query: { fields: "title,metadata.rating,certificates" }, header: { Prefer: "wait=5" } },
  }),
);

const offers = must(
  await api.GET("/api/films/{imdb_id}/streaming", {
    params: { path, query: { view: "grouped", region: "TR,US" } },
  }),
);
if (!("regions" in offers)) throw new Error("the rows of the source instead of groups");
const services = Object.entries(offers.regions).map(
  ([region, { sub, rent }]) =>
    `${region}: ${sub.map((offer) => offer.name ?? "?").join(", ")}; for rent ${rent
      .flatMap((offer) => offer.prices)
      .map(({ price, currency }) => `${price.toFixed(2)} ${currency ?? ""}`)
      .join(", ")}`,
);

const credits = must(await api.GET("/api/films/{imdb_id}/credits", { params: { path } })).credits;
if (!credits.nextPageToken) throw new Error("there is no second page");
const more = must(
  await api.GET("/api/films/{imdb_id}/credits", {
    params: { path, query: { page_token: credits.nextPageToken } },
  }),
).credits;
const cast = [...(credits.credits ?? []), ...(more.credits ?? [])];

const ids = [
  "tt1375666", "tt0903747", "tt0096697", "tt7366338", "tt2301451",
  "tt0000417", "tt2140553", "tt2758880", "tt0245429", "tt99999999999",
];
const batch = must(
  await api.GET("/api/films", { params: { query: { ids: ids.join(","), fields: "title,metadata.startYear" } } }),
);
const rows = batch.films.map((item) =>
  item.film ? `${item.film.title} (${item.film.metadata?.startYear ?? "?"})` : `${item.imdb_id}: ${item.error?.reason}`,
);

console.log(film.title, film.metadata.rating?.aggregateRating);
console.log(services.join("\n"));
console.log(`${cast.length} of ${credits.totalCount} credits`);
console.log(rows.join("\n"));
