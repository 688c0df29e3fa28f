// Reads a sitemap with npm's sitemapper and prints one JSON array [loc, lastmod] a page: node sitemapper.mjs MODULES URL
import { createRequire } from "node:module";
const [modules, url] = process.argv.slice(2);
const loaded = await import(createRequire(modules + "/").resolve("sitemapper"));
const Sitemapper = loaded.default.default ?? loaded.default;
const { sites, errors } = await new Sitemapper({ url, timeout: 60_000, fields: { loc: true, lastmod: true } }).fetch();
for (const error of errors) console.error(error);
for (const { loc, lastmod } of sites) console.log(JSON.stringify([loc, lastmod ?? ""]));
// Not exit(): that would drop what a slow reader of this output has not taken yet.
process.exitCode = errors.length === 0 ? 0 : 1;
