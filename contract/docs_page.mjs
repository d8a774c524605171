// Open /api/docs in a headless Chromium, on a desk and on a phone, and try an endpoint; status 1 if anything fails.
// Usage: docs_page.mjs BASE_URL CHROMIUM SCREENSHOT
import assert from "node:assert/strict";
import { chromium } from "playwright-core";

const [base, executablePath, screenshot] = process.argv.slice(2);

// Whatever is not on loopback fails at once, as it would without the internet.
const args = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
];
const browser = await chromium.launch({ executablePath, args });
try {
  const page = await browser.newPage({ viewport: { width: 1280, height: 1600 } });
  const complaints = [];
  const requested = [];
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("requestfailed", (request) => complaints.push(`failed: ${request.url()}`));
  page.on("request", (request) => requested.push(request.url()));

  const response = await page.goto(`${base}/api/docs`);
  assert.equal(response.status(), 200);
  assert.match(response.headers()["content-security-policy"], /default-src 'none'/);
  const operation = page.locator("#operations-Films-getFilm");
  await operation.locator(".opblock-summary-control").click();
  await operation.getByPlaceholder("imdb_id").fill("tt0133093");
  await operation.getByRole("button", { name: "Execute" }).click();
  const live = operation.locator(".live-responses-table");
  await live.locator(".response-col_status", { hasText: "200" }).waitFor();
  assert.match(await live.locator("tbody .response-col_description").first().innerText(), /The Matrix/);
  assert.equal(await page.locator(".opblock").count(), 19);
  await page.screenshot({ path: screenshot });
  // The filter and the search come first, the schemas are collapsed, the guide is linked.
  assert.ok(await page.locator(".operation-filter-input").isVisible());
  assert.equal(await page.locator(".opblock-summary-path").first().getAttribute("data-path"), "/api/search");
  assert.equal(await page.locator("section.models").count(), 1);
  assert.equal(await page.locator("section.models.is-open").count(), 0);
  const guide = await page.locator(".info").getByRole("link", { name: "API guide" }).getAttribute("href");
  assert.match(await (await page.request.get(new URL(guide, base).href)).text(), /^# Filmosphere API/);

  await page.setViewportSize({ width: 375, height: 812 });
  const width = await page.evaluate(() => document.documentElement.scrollWidth);
  assert.ok(width <= 375, `the page is ${width} px wide on a phone of 375 px`);
  for (const name of ["Execute", "Clear"]) {
    const box = await operation.getByRole("button", { name, exact: true }).boundingBox();
    assert.ok(box.x >= 0 && box.x + box.width <= 375, `${name} is on the screen`);
  }
  await page.locator(".operation-filter-input").fill("Cinemix");
  await page.locator("#operations-Films-getFilm").waitFor({ state: "detached" });
  assert.equal(await page.locator(".opblock").count(), 2);

  const outside = requested.filter((url) => !url.startsWith(`${base}/`) && !url.startsWith("data:"));
  assert.deepEqual(outside, []);
  assert.deepEqual(complaints, []);
  assert.ok(requested.includes(`${base}/api/films/tt0133093`), "it asked the service");
} finally {
  await browser.close();
}
