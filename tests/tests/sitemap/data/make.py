"""Makes the Parquet files beside it with Arrow's writer, which shares nothing with ours. Run by hand, with pyarrow 26:

    python make.py
"""

import datetime as dt
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq

at = dt.datetime(2025, 11, 21, 12, 30)
utc = at.replace(tzinfo=dt.timezone.utc)

# What Hive and Spark write for a time, and what they write today: neither names a zone.
times = pa.table({"loc": ["/a", "/b"], "lastmod": pa.array([at, None], pa.timestamp("ns"))})
pq.write_table(times, "int96.parquet", use_deprecated_int96_timestamps=True)
pq.write_table(times.set_column(1, "lastmod", times["lastmod"].cast(pa.timestamp("us"))), "zoneless.parquet")

text, language = pa.string(), pa.string()
versions = pa.list_(pa.struct([("hreflang", language), ("href", text)]))
article = pa.struct([("publication_date", pa.timestamp("ms", tz="UTC")), ("title", text), ("name", text), ("language", text)])
nested = pa.table(
    {
        "url": ["/de/a", "/en/a", "/c"],
        "modified": pa.array([utc, utc, None], pa.timestamp("us", tz="UTC")),
        "pictures": pa.array([["/1.jpg", "https://cdn.example.net/2.jpg?a&b"], [], None], pa.list_(text)),
        "alternates": pa.array(
            [[{"hreflang": "de", "href": "/de/a"}, {"hreflang": "en", "href": "/en/a"}], None, []], versions
        ),
        "news": pa.array(
            [None, {"publication_date": utc, "title": "A & b", "name": "The Paper", "language": "en"}, None], article
        ),
        "ignored": pa.array([[1], [2], [3]], pa.list_(pa.int32())),
    }
)
pq.write_table(nested, "nested.parquet", row_group_size=2)

# Times without a zone within structs, old and new, and decimals.
article = pa.struct([("publication_date", pa.timestamp("ns")), ("title", text), ("name", text), ("language", text)])
video = pa.struct(
    [(name, text) for name in ("thumbnail_loc", "title", "description", "content_loc")]
    + [("publication_date", pa.timestamp("ns")), ("rating", pa.decimal128(2, 1))]
)
clip = {"thumbnail_loc": "/t.jpg", "title": "t", "description": "d", "content_loc": "/v.mp4"}
inner = pa.table(
    {
        "loc": ["/a", "/b", "/c"],
        "priority": pa.array([Decimal("0.1"), None, Decimal("1.0")], pa.decimal128(38, 20)),
        "news": pa.array([{"publication_date": at, "title": "A", "name": "The Paper", "language": "en"}, None, None], article),
        "videos": pa.array([None, [clip | {"publication_date": at, "rating": Decimal("4.5")}], []], pa.list_(video)),
    }
)
pq.write_table(inner, "inner_int96.parquet", use_deprecated_int96_timestamps=True)
pq.write_table(inner, "inner_nanos.parquet")
pq.write_table(inner, "inner_micros.parquet", coerce_timestamps="us")
