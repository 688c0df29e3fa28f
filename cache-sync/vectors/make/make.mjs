// Makes node.json: records as Node producers send them, with what they must decode to.

import { writeFileSync } from "node:fs";
import { encode } from "@msgpack/msgpack";
import kpl from "aws-kinesis-agg";

const LANES = 64;

/** The Redis Cluster slot of a key without a hash tag: its CRC16-XMODEM modulo 16384. */
function slot(key) {
  let crc = 0;
  for (const byte of key) {
    crc ^= byte << 8;
    for (let bit = 0; bit < 8; bit += 1) crc = ((crc << 1) ^ (crc & 0x8000 ? 0x1021 : 0)) & 0xffff;
  }
  return crc % 16384;
}

const AT_MS = 1_763_800_000_000;
const ARRIVAL_MS = AT_MS + 250;
const KEY = Buffer.from("user:1");
const HOME = { lane: Math.floor((slot(KEY) * LANES) / 16384), slot: slot(KEY) };
const RAW = Buffer.from([0xff, 0x00, 0x80]);

const change = { v: 1, cmd: ["SET", "user:1", "hello", "PX", "60000"], at_ms: AT_MS, producer: "8f3a", seq: 42 };
const set = {
  ...HOME,
  commands: [["SET", "user:1", "hello", "PXAT", "1763800060000"]],
  at_ms: AT_MS,
  producer: "8f3a",
  seq: 42,
};
const remove = { v: 1, cmd: ["DEL", "user:1"] };
const removed = { ...HOME, commands: [["DEL", "user:1"]] };
const image = { v: 1, cmd: ["SET", KEY, RAW, "EX", "10"] };
const imageSet = { ...HOME, commands: [["SET", "user:1", { b64: RAW.toString("base64") }, "PXAT", "1763800010250"]] };

const json = (value) => Buffer.from(JSON.stringify(value));
const pack = (value) => Buffer.from(encode(value));
const record = (name, data, expected) => ({
  name,
  partition_key: String(HOME.lane),
  arrival_ms: ARRIVAL_MS,
  data_b64: data.toString("base64"),
  ...expected,
});

/** One aggregated record of user records: [partition key, data]. */
function aggregated(...userRecords) {
  const aggregator = new kpl.RecordAggregator();
  for (const [partitionKey, data] of userRecords) aggregator.addUserRecord({ partitionKey: String(partitionKey), data });
  return aggregator.build().data;
}

const own = HOME.lane;
const records = [
  record("JSON.stringify", json(change), { changes: [set] }),
  record("JSON.stringify of an array", json([change, remove]), { changes: [set, removed] }),
  record("JSON with text outside ASCII", json({ v: 1, cmd: ["SET", "user:1", "söl \u{1f600}\u2028"] }), {
    changes: [{ ...HOME, commands: [["SET", "user:1", "söl \u{1f600}\u2028"]] }],
  }),
  record("@msgpack/msgpack map", pack(change), { changes: [set] }),
  record("@msgpack/msgpack array", pack([change, remove, image]), { changes: [set, removed, imageSet] }),
  record("@msgpack/msgpack, Buffer as bin", pack(image), { changes: [imageSet] }),
  record("@msgpack/msgpack, undefined is nil and counts as not there", pack({ ...remove, producer: undefined, seq: undefined }), {
    changes: [removed],
  }),
  record("@msgpack/msgpack, a number as argument", pack({ v: 1, cmd: ["SET", "user:1", 5] }), {
    changes: [{ refused: "numbers are sent as strings", keys: [] }],
  }),
  record("aws-kinesis-agg", aggregated([own, json(change)]), { changes: [set] }),
  record("aws-kinesis-agg, several; the index counts on", aggregated([own, json([remove, change])], [own, pack(image)]), {
    changes: [removed, set, imageSet],
  }),
];

const page = { about: "Records made by Node producers: JSON, @msgpack/msgpack, aws-kinesis-agg. Made by make/make.mjs.", lanes: LANES, records };
writeFileSync(new URL("../node.json", import.meta.url), `${JSON.stringify(page, null, 1)}\n`);
