// Open /api/docs in a headless Chromium and try an endpoint; status 1 where anything is amiss.
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
  assert.equal(await page.locator(".opblock").count(), 9);
  await page.screenshot({ path: screenshot });

  const outside = requested.filter((url) => !url.startsWith(`${base}/`) && !url.startsWith("data:"));
  assert.deepEqual(outside, []);
  assert.deepEqual(complaints, []);
  assert.ok(requested.includes(`${base}/api/films/tt0133093`), "it asked the service");
} finally {
  await browser.close();
}
