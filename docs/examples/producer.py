#!/usr/bin/env python3
"""Writes cache changes from Python by Tidemark's wire contract, with nothing but boto3.

    python producer.py set user:1 hello --ttl-ms 60000
    python producer.py delete user:1

Settings: TIDEMARK_STREAM, TIDEMARK_LANES, and boto3's own (AWS_REGION or AWS_DEFAULT_REGION, AWS_ENDPOINT_URL,
credentials). Prints lane, shard, sequence number and at_ms as one JSON object.
"""

import argparse
import binascii
import json
import os
import time

import boto3

SLOTS = 16384  # of a Redis Cluster


def slot(key: bytes) -> int:
    """The Redis Cluster slot of a key: CRC16-XMODEM of its hash tag, else of the whole key."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return binascii.crc_hqx(key, 0) % SLOTS


def lane(key: bytes, lanes: int) -> int:
    """The lane of a key: the unit of order, and the record's partition key in decimal."""
    return slot(key) * lanes // SLOTS


def text(value: bytes):
    """A string as the contract wants it: UTF-8 as it is, anything else as base64."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return {"b64": binascii.b2a_base64(value, newline=False).decode()}


class Producer:
    """One record at a time: the next change of a lane is sent only when the stream has taken the one before it."""

    def __init__(self, stream: str, lanes: int, kinesis=None):
        self.stream = stream
        self.lanes = lanes
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        self.kinesis = kinesis or boto3.client("kinesis", region_name=region)

    def put(self, key: bytes, *command: bytes) -> dict:
        change = {"v": 1, "cmd": [text(part) for part in command], "at_ms": time.time_ns() // 1_000_000}
        number = lane(key, self.lanes)
        answer = self.kinesis.put_record(
            StreamName=self.stream,
            PartitionKey=str(number),
            Data=json.dumps(change, ensure_ascii=False).encode(),
        )
        written = {"lane": number, "shard": answer["ShardId"], "sequence_number": answer["SequenceNumber"]}
        return written | {"at_ms": change["at_ms"]}

    def set(self, key: bytes, value: bytes, ttl_ms: int | None = None) -> dict:
        """Sets a key; its life counts from now (`at_ms`), so it ends at the same instant in every region."""
        expiry = [] if ttl_ms is None else [b"PX", b"%d" % ttl_ms]
        return self.put(key, b"SET", key, value, *expiry)

    def delete(self, key: bytes) -> dict:
        return self.put(key, b"DEL", key)


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes one cache change.")
    commands = parser.add_subparsers(dest="command", required=True)
    set_command = commands.add_parser("set")
    set_command.add_argument("key", type=os.fsencode)
    set_command.add_argument("value", type=os.fsencode)
    set_command.add_argument("--ttl-ms", type=int)
    delete_command = commands.add_parser("delete")
    delete_command.add_argument("key", type=os.fsencode)
    arguments = parser.parse_args()

    producer = Producer(os.environ["TIDEMARK_STREAM"], int(os.environ.get("TIDEMARK_LANES", "64")))
    if arguments.command == "set":
        written = producer.set(arguments.key, arguments.value, arguments.ttl_ms)
    else:
        written = producer.delete(arguments.key)
    print(json.dumps(written))


if __name__ == "__main__":
    main()
