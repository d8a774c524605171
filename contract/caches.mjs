// Read a film five times through an HTTP cache and print its title each time.
// Usage: caches.mjs undici|make-fetch-happen|chromium URL [CHROMIUM]
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

const [cache, url, executablePath] = process.argv.slice(2);

// Each gives a function that reads the film to `read`.
const caches = {
  async undici(read) {
    const { Agent, fetch, interceptors } = await import("undici");
    const dispatcher = new Agent().compose(interceptors.cache());
    await read(async () => (await fetch(url, { dispatcher })).json());
  },

  async "make-fetch-happen"(read) {
    const { default: fetch } = await import("make-fetch-happen");
    const cachePath = await mkdtemp(join(tmpdir(), "films-"));
    try {
      await read(async () => (await fetch(url, { cachePath })).json());
    } finally {
      await rm(cachePath, { recursive: true });
    }
  },

  async chromium(read) {
    const { chromium } = await import("playwright-core");
    const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu"] });
    try {
      const page = await browser.newPage();
      await page.goto(new URL("/", url).href);
      await read(() => page.evaluate(async (film) => (await fetch(film)).json(), url));
    } finally {
      await browser.close();
    }
  },
};

await caches[cache](async (film) => {
  for (let reads = 0; reads < 5; reads += 1) console.log((await film()).title);
});
