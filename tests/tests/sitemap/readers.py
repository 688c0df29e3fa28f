"""Reads a sitemap with another implementation and prints one JSON array [loc, lastmod] a page.

    readers.py usp URL       ultimate-sitemap-parser
    readers.py scrapy URL    scrapy's SitemapSpider
"""

import json
import sys


def tell(loc, lastmod):
    print(json.dumps([loc, lastmod or ""]))


def usp(url):
    from usp.fetch_parse import SitemapFetcher

    tree = SitemapFetcher(url=url, recursion_level=0).sitemap()
    for page in tree.all_pages():
        tell(page.url, page.last_modified and page.last_modified.isoformat())


def scrapy(url):
    from scrapy.crawler import CrawlerProcess
    from scrapy.spiders import SitemapSpider

    class Reader(SitemapSpider):
        name = "reader"
        sitemap_urls = [url]

        def sitemap_filter(self, entries):
            for entry in entries:
                if entries.type == "sitemapindex":
                    yield entry
                else:
                    tell(entry["loc"], entry.get("lastmod"))

    process = CrawlerProcess(settings={"LOG_LEVEL": "WARNING", "TELNETCONSOLE_ENABLED": False})
    process.crawl(Reader)
    process.start()


{"usp": usp, "scrapy": scrapy}[sys.argv[1]](sys.argv[2])
