// npm's sitemap, from a CSV to XML without compression: node npm_sitemap.mjs MODULES INPUT OUT. Prints the CPU seconds
// of this whole process, its start included.
import { createReadStream, createWriteStream } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { pathToFileURL } from "node:url";

const [modules, input, out] = process.argv.slice(2);
const { SitemapAndIndexStream, SitemapStream } = await import(
  pathToFileURL(createRequire(modules + "/").resolve("sitemap"))
);

async function* pages() {
  let first = true;
  for await (const line of createInterface({ input: createReadStream(input), crlfDelay: Infinity })) {
    if (!first && line !== "") {
      const comma = line.indexOf(",");
      yield { url: line.slice(0, comma), lastmod: line.slice(comma + 1) };
    }
    first = false;
  }
}

const sitemaps = new SitemapAndIndexStream({
  limit: 40_000,
  getSitemapStream(number) {
    const sitemap = new SitemapStream();
    const file = sitemap.pipe(createWriteStream(join(out, `${number}.xml`)));
    return [`https://www.example.com/${number}.xml`, sitemap, file];
  },
});
await pipeline(Readable.from(pages()), sitemaps, createWriteStream(join(out, "index.xml")));
const { user, system } = process.cpuUsage();
console.log((user + system) / 1e6);
