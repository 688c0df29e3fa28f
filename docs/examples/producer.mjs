// Writes cache changes from Node by Tidemark's wire contract, with nothing but the AWS SDK.
//
//     node producer.mjs set user:1 hello --ttl-ms 60000
//     node producer.mjs delete user:1
//
// Settings: TIDEMARK_STREAM, TIDEMARK_LANES, and the SDK's own (AWS_REGION, AWS_ENDPOINT_URL, credentials).
// Prints lane, shard and sequence number as one JSON object.

import { parseArgs } from "node:util";
import { pathToFileURL } from "node:url";
import { KinesisClient, PutRecordCommand } from "@aws-sdk/client-kinesis";

const SLOTS = 16384; // of a Redis Cluster

/** CRC16-XMODEM of some bytes. */
function crc16(bytes) {
  let crc = 0;
  for (const byte of bytes) {
    crc ^= byte << 8;
    for (let bit = 0; bit < 8; bit += 1) crc = ((crc << 1) ^ (crc & 0x8000 ? 0x1021 : 0)) & 0xffff;
  }
  return crc;
}

/** The Redis Cluster slot of a key (a Buffer): of its hash tag where it has one, else of the whole key. */
export function slot(key) {
  const start = key.indexOf("{");
  const end = start < 0 ? -1 : key.indexOf("}", start + 1);
  return crc16(end > start + 1 ? key.subarray(start + 1, end) : key) % SLOTS;
}

/** The lane of a key: the unit of order, and the record's partition key in decimal. */
export function lane(key, lanes) {
  return Math.floor((slot(key) * lanes) / SLOTS);
}

/** A string as the contract wants it: UTF-8 as it is, anything else as base64. */
function text(value) {
  const bytes = Buffer.from(value);
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return { b64: bytes.toString("base64") };
  }
}

/** One record at a time: the next change of a lane is sent only when the stream has taken the one before it. */
export class Producer {
  #last = new Map();

  constructor(stream, lanes, kinesis = new KinesisClient({})) {
    Object.assign(this, { stream, lanes, kinesis });
  }

  /** Sets a key; its life counts from now (`at_ms`), so it ends at the same instant in every region. */
  set(key, value, ttlMs) {
    return this.#put(key, ["SET", key, value, ...(ttlMs === undefined ? [] : ["PX", String(ttlMs)])]);
  }

  delete(key) {
    return this.#put(key, ["DEL", key]);
  }

  #put(key, command) {
    const number = lane(Buffer.from(key), this.lanes);
    const change = { v: 1, cmd: command.map(text), at_ms: Date.now() };
    const send = async () => {
      const answer = await this.kinesis.send(
        new PutRecordCommand({
          StreamName: this.stream,
          PartitionKey: String(number),
          Data: Buffer.from(JSON.stringify(change)),
        }),
      );
      return { lane: number, shard: answer.ShardId, sequence_number: answer.SequenceNumber };
    };
    // Calls may overlap, so those of one lane wait for each other; one that failed does not stop the next.
    const sent = (this.#last.get(number) ?? Promise.resolve()).then(send, send);
    this.#last.set(number, sent);
    return sent;
  }
}

async function main() {
  const { positionals, values } = parseArgs({ allowPositionals: true, options: { "ttl-ms": { type: "string" } } });
  const [command, key, value] = positionals;
  const producer = new Producer(process.env.TIDEMARK_STREAM, Number(process.env.TIDEMARK_LANES ?? 64));
  if (command === "set" && value !== undefined) {
    const ttl = values["ttl-ms"];
    console.log(JSON.stringify(await producer.set(key, value, ttl === undefined ? undefined : Number(ttl))));
  } else if (command === "delete" && key !== undefined) {
    console.log(JSON.stringify(await producer.delete(key)));
  } else {
    console.error("usage: node producer.mjs set KEY VALUE [--ttl-ms N] | delete KEY");
    process.exitCode = 2;
  }
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) await main();
