#!/usr/bin/env python3
"""Makes python.json and frames.json: records as Python producers send them, with what they must decode to.

The frames are written here by CONTRACT.md alone, so that they show that the page is enough.
"""

import base64
import binascii
import json
import pathlib
import struct
import warnings
import zlib

import msgpack
import zstandard

warnings.simplefilter("ignore")
from aws_kinesis_agg.aggregator import RecordAggregator  # noqa: E402

OUT = pathlib.Path(__file__).resolve().parents[1]
LANES = 64
AT_MS = 1_763_800_000_000
ARRIVAL_MS = AT_MS + 250


def slot(key):
    start = key.find(b"{")
    end = key.find(b"}", start + 1) if start >= 0 else -1
    return binascii.crc_hqx(key[start + 1 : end] if end > start + 1 else key, 0) % 16384


def lane(key):
    return slot(key) * LANES // 16384


def text(value):
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode()}


def applied(key, *commands, **fields):
    """What a change must decode to: its commands as they are sent to Redis, expiries absolute."""
    lists = [[text(name), text(key), *map(text, rest)] for name, *rest in commands]
    return {"lane": lane(key), "slot": slot(key), "commands": lists, **fields}


def record(name, key, data, *changes, **fields):
    encoded = base64.b64encode(data).decode()
    return {"name": name, "partition_key": str(lane(key)), "arrival_ms": ARRIVAL_MS, "data_b64": encoded,
            **({"changes": list(changes)} if changes else {}), **fields}


def write(name, about, records):
    page = {"about": about, "lanes": LANES, "records": records}
    (OUT / name).write_text(json.dumps(page, indent=1, ensure_ascii=False) + "\n")


# --- producers ---

KEY = b"user:1"
CHANGE = {"v": 1, "cmd": ["SET", "user:1", "hello", "PX", "60000"], "at_ms": AT_MS, "producer": "8f3a", "seq": 42}
SET = applied(KEY, (b"SET", b"hello", b"PXAT", b"1763800060000"), at_ms=AT_MS, producer="8f3a", seq=42)
DEL = {"v": 1, "cmd": ["DEL", "user:1"]}
DELETED = applied(KEY, (b"DEL",))
RAW = b"\xff\x00\x80"
IMAGE = {"v": 1, "cmd": ["SET", b"user:1", RAW, "EX", "10"]}
IMAGE_SET = applied(KEY, (b"SET", RAW, b"PXAT", b"1763800010250"))


def aggregated(*user_records, hash_key=None):
    aggregator = RecordAggregator()
    for partition_key, data in user_records:
        assert aggregator.add_user_record(str(partition_key), data, hash_key) is None
    return aggregator.clear_and_get().get_contents()[2]


def producers():
    number = lane(KEY)
    as_json = json.dumps(CHANGE).encode()
    as_msgpack = msgpack.packb(CHANGE)
    with_bytes = msgpack.packb(IMAGE)
    three = aggregated((number, as_json), (number, json.dumps([DEL, CHANGE]).encode()), (number, with_bytes))
    yield record("json by the json module", KEY, as_json, SET)
    yield record("json with spaces and an array", KEY, json.dumps([CHANGE, DEL], indent=2).encode(), SET, DELETED)
    yield record("text outside ASCII, escaped by json.dumps", b"user:1",
                 json.dumps({"v": 1, "cmd": ["SET", "user:1", "söl \U0001f600\n"]}).encode(),
                 applied(KEY, (b"SET", "söl \U0001f600\n".encode())))
    yield record("msgpack map", KEY, as_msgpack, SET)
    yield record("msgpack array", KEY, msgpack.packb([CHANGE, DEL, IMAGE]), SET, DELETED, IMAGE_SET)
    yield record("msgpack with bytes as bin", KEY, with_bytes, IMAGE_SET)
    yield record("msgpack of the old specification, bytes as raw", KEY, msgpack.packb(IMAGE, use_bin_type=False),
                 {"refused": "send bytes as bin", "keys": []})
    yield record("msgpack heartbeat", KEY, msgpack.packb({"v": 1, "heartbeat": 7, "at_ms": AT_MS}), heartbeat=7)
    yield record("aws-kinesis-agg, one user record", KEY, aggregated((number, as_json)), SET)
    yield record("aws-kinesis-agg, json, array and msgpack; the index counts on", KEY, three, SET, DELETED, SET, IMAGE_SET)
    yield record("aws-kinesis-agg with explicit hash keys", KEY, aggregated((number, as_json), hash_key="12345"), SET)
    yield record("aws-kinesis-agg with a user record of another lane", KEY,
                 aggregated((number, as_json), ("47", json.dumps({"v": 1, "cmd": ["DEL", "foo"]}).encode()), (number, as_msgpack)),
                 SET, {"refused": 'partition key is "47"', "keys": []}, SET)
    yield record("aws-kinesis-agg with a user record that is no change", KEY,
                 aggregated((number, b"hello"), (number, as_json)), {"refused": "starts with byte 0x68", "keys": []}, SET)
    yield record("aws-kinesis-agg within aws-kinesis-agg", KEY,
                 aggregated((number, aggregated((number, as_json)))), {"refused": "packed again", "keys": []})
    yield record("aws-kinesis-agg, cut", KEY, three[:-1], undecodable="MD5")
    yield record("aws-kinesis-agg, cut to the magic", KEY, three[:4], undecodable="cut short")
    yield record("aws-kinesis-agg, one bit altered", KEY, three[:40] + bytes([three[40] ^ 1]) + three[41:], undecodable="MD5")


# --- frames, by CONTRACT.md ---


def varint(number):
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def signed(number):
    return varint(number * 2 if number >= 0 else -number * 2 - 1)


def counted(data):
    return varint(len(data)) + data


def items(op, *values):
    return bytes([op]) + varint(len(values)) + b"".join(map(counted, values))


def pairs(op, *values):
    return bytes([op]) + varint(len(values) // 2) + b"".join(map(counted, values))


def change(key, *commands, at=None, seq=None, other=None):
    bits = (at is not None) | (seq is not None) << 1 | (other is not None) << 2 | (len(commands) != 1) << 3
    item = bytes([bits]) + counted(key)
    item += signed(at) if at is not None else b""
    item += varint(seq) if seq is not None else b""
    item += counted(other[0]) + varint(other[1]) if other else b""
    item += varint(len(commands)) if len(commands) != 1 else b""
    return counted(item + b"".join(commands))


def frame(*changes, producer=b"8f3a", base_seq=42, codec=0, count=None, version=1, body=None):
    if body is None:
        body = counted(producer) + struct.pack("<qQ", AT_MS, base_seq) + b"".join(changes)
    packed = zstandard.ZstdCompressor(level=1).compress(body) if codec == 1 else body
    head = b"TM" + struct.pack("<BBII", version, codec, len(changes) if count is None else count, len(body))
    return head + packed + struct.pack("<I", zlib.crc32(head + packed))


def frames():
    plain = change(KEY, b"\x03" + signed(1_763_800_060_000) + counted(b"hello"), at=0, seq=0)
    delete = change(KEY, b"\x04")
    sha = b"ab" * 32
    reference = counted(b"bucket") + counted(b"values/ab/" + sha) + counted(sha) + varint(2_000_000)
    several = [b"\x04", pairs(8, b"f", b"1", b"g", RAW), items(9, b"g"), b"\x05" + signed(60_000), b"\x07"]
    every = [b"\x04", items(14, b"a", b"b"), items(15, b"c"), b"\x04", items(10, b"x"), items(11, b"y"), b"\x04",
             pairs(12, b"1.5", b"m"), items(13, b"n"), b"\x06" + signed(AT_MS + 5)]
    bad = change(KEY, items(14, b"a"))
    unknown = change(KEY, b"\x63")
    many = [change(KEY, b"\x01" + counted(b"value %d" % n), at=n, seq=n) for n in range(40)]
    values = [applied(KEY, (b"SET", b"value %d" % n), at_ms=AT_MS + n, producer="8f3a", seq=42 + n) for n in range(40)]
    whole = frame(plain, delete)
    yield record("one change, stored", KEY, frame(plain), SET)
    yield record("no change", KEY, frame(), changes=[])
    yield record("a producer of its own", KEY, frame(change(KEY, b"\x04", at=-5, other=(b"zz", 7))),
                 applied(KEY, (b"DEL",), at_ms=AT_MS - 5, producer="zz", seq=7))
    yield record("relative expiries count from the arrival without at_ms", KEY,
                 frame(change(KEY, b"\x02" + signed(1_000) + counted(RAW)), producer=b""),
                 applied(KEY, (b"SET", RAW, b"PXAT", b"1763800001250")))
    yield record("several commands", KEY, frame(change(KEY, *several, at=1)),
                 applied(KEY, (b"DEL",), (b"HSET", b"f", b"1", b"g", RAW), (b"HDEL", b"g"),
                         (b"PEXPIREAT", b"1763800060001"), (b"PERSIST",), at_ms=AT_MS + 1))
    yield record("every other command", KEY, frame(change(KEY, *every)),
                 applied(KEY, (b"DEL",), (b"RPUSH", b"a", b"b"), (b"LPUSH", b"c"), (b"DEL",), (b"SADD", b"x"),
                         (b"SREM", b"y"), (b"DEL",), (b"ZADD", b"1.5", b"m"), (b"ZREM", b"n"),
                         (b"PEXPIREAT", b"1763800000005")))
    of_reference = {"lane": lane(KEY), "slot": slot(KEY), "key": KEY.decode(),
                    "ref": {"bucket": "bucket", "object": "values/ab/" + sha.decode(), "sha256": sha.decode(), "bytes": 2_000_000}}
    yield record("a ref", KEY, frame(change(KEY, b"\x10" + reference), change(KEY, b"\x11" + signed(AT_MS) + reference)),
                 of_reference, of_reference | {"expires_at_ms": AT_MS})
    yield record("many, compressed", KEY, frame(*many, codec=1), *values)
    yield record("a bad change leaves the others", KEY, frame(plain, bad, unknown, delete),
                 SET, {"refused": "put DEL before it", "keys": ["user:1"]},
                 {"refused": "malformed", "keys": ["user:1"]}, DELETED)
    yield record("a system key", KEY, frame(change(b"tidemark:x", b"\x04")), {"refused": "system's own", "keys": ["tidemark:x"]})
    yield record("a bit altered", KEY, whole[:20] + bytes([whole[20] ^ 4]) + whole[21:], undecodable="checksum")
    yield record("cut", KEY, whole[:-1], undecodable="checksum")
    yield record("cut to its magic", KEY, whole[:2], undecodable="cut short")
    yield record("another version", KEY, frame(plain, version=2), undecodable="version 2")
    yield record("another codec", KEY, frame(plain, codec=2), undecodable="codec 2")
    yield record("more changes than the header says", KEY, frame(plain, delete, count=1), undecodable="behind its changes")
    yield record("fewer changes than the header says", KEY, frame(plain, count=2), undecodable="ends within a change")
    yield record("a decompression bomb", KEY, frame(codec=1, count=1, body=bytes(8 << 20)), undecodable="at most 1048576")


if __name__ == "__main__":
    write("python.json", "Records made by Python producers: json, msgpack, aws-kinesis-agg. Made by make/make.py.", list(producers()))
    write("frames.json", "Frames, written by CONTRACT.md in Python. Made by make/make.py.", list(frames()))
