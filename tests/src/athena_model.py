"""A model of Athena's API on 127.0.0.1, for what the local cloud's Athena has not: UNLOAD, parameters, tokens, faults.

The rows are DuckDB's, and so are the Parquet files, which go to S3 by boto3 as AWS_ENDPOINT_URL says. Rules are those of
https://docs.aws.amazon.com/athena/latest/ug/unload.html and
https://docs.aws.amazon.com/athena/latest/APIReference/API_StartQueryExecution.html. It prints its port, takes a JSON
object a line on standard input, answers each with one, and ends when its input does.

Commands: {"rows": [[loc, lastmod, day], ...]} is the table pages; {"next": {...}} is what becomes of the next query that
is started (states, files, unsorted, fail, retryable, drop_file, drop_bytes, miscount, stray); {"throttle": {"Operation":
times}}, and {"lose": …} likewise of calls that are carried out and get no answer; {"generate": pages, "base": …} makes the
table up; {"journal": true} gives the calls so far and forgets them, and how many queries there were.
"""

import datetime
import hashlib
import json
import os
import re
import sys
import tempfile
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import duckdb

PARTITIONS_MAX = 100
PAGE_ROWS_MAX = 1000
CODECS = ["gzip", "snappy", "zstd"]
UNLOAD = re.compile(r"\s*UNLOAD\s*\((.*)\)\s*TO\s*'s3://([^/']+)/([^']*)'\s*WITH\s*\((.*)\)\s*$", re.DOTALL | re.IGNORECASE)
LITERAL = re.compile(r"'([^']|'')*'|-?\d+(\.\d+)?([eE][-+]?\d+)?|true|false")


class Refused(Exception):
    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class Model:
    def __init__(self):
        self.lock = threading.Lock()
        self.connection = duckdb.connect()
        self.s3 = boto3.client("s3")
        self.queries, self.tokens, self.journal, self.throttle, self.lose, self.next = {}, {}, [], {}, {}, {}
        self.rows([])

    def rows(self, rows):
        self.connection.execute("CREATE OR REPLACE TABLE pages (loc VARCHAR, lastmod TIMESTAMP, day DATE)")
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            for loc, lastmod, day in rows:
                file.write(json.dumps({"loc": loc, "lastmod": lastmod, "day": day}) + "\n")
            file.flush()
            if rows:
                columns = "{loc: 'VARCHAR', lastmod: 'TIMESTAMP', day: 'DATE'}"
                self.connection.execute(f"INSERT INTO pages SELECT * FROM read_json('{file.name}', columns = {columns})")

    def generate(self, count, base):
        # In no order, as a table lies there, and of lengths that differ.
        loc = "? || '/' || substr(md5(i::VARCHAR), 1, 4 + (i % 7)::INT) || '/product-' || i"
        lastmod = "TIMESTAMP '2025-01-01' + to_days((i % 300)::INT) + to_seconds(i % 86400)"
        self.connection.execute(
            f"CREATE OR REPLACE TABLE pages AS SELECT {loc} AS loc, {lastmod} AS lastmod, DATE '2025-01-01' AS day FROM range({count}) t(i)",
            [base],
        )

    def command(self, command):
        with self.lock:
            if "rows" in command:
                self.rows(command["rows"])
            if "generate" in command:
                self.generate(command["generate"], command["base"])
            if "next" in command:
                self.next = command["next"]
            if "throttle" in command:
                self.throttle = dict(command["throttle"])
            if "lose" in command:
                self.lose = dict(command["lose"])
            answer = {}
            if command.get("journal"):
                answer = {"calls": self.journal, "queries": len(self.queries)}
                self.journal = []
            return answer

    def call(self, operation, body):
        with self.lock:
            self.journal.append({"operation": operation, **body})
            if self.throttle.get(operation, 0) > 0:
                self.throttle[operation] -= 1
                raise Refused("TooManyRequestsException", "Rate exceeded")
            answer = getattr(self, operation)(body)
            if self.lose.get(operation, 0) > 0:
                self.lose[operation] -= 1
                return None
            return answer

    def StartQueryExecution(self, body):
        token = body.get("ClientRequestToken", "")
        if not 32 <= len(token) <= 128:
            raise Refused("InvalidRequestException", "the token must have 32 to 128 characters")
        if token in self.tokens:
            id, before = self.tokens[token]
            if before != body:
                raise Refused("InvalidRequestException", "Idempotent parameters do not match")
            return {"QueryExecutionId": id}
        sql, values = body["QueryString"], []
        for literal in body.get("ExecutionParameters", []):
            if not LITERAL.fullmatch(literal):
                raise Refused("InvalidRequestException", f"no literal: {literal}")
            values.append(self.connection.execute(f"SELECT {literal}").fetchone()[0])
        if "?" in re.split(r"\bwhere\b", sql, maxsplit=1, flags=re.IGNORECASE)[0]:
            raise Refused("InvalidRequestException", "parameters can be placed only in the WHERE clause")
        id = str(uuid.uuid4())
        self.tokens[token] = (id, body)
        fate, self.next = self.next, {}
        self.queries[id] = {
            "id": id, "sql": sql, "values": values, "fate": fate, "ran": False, "manifest": None, "reason": "",
            "states": list(fate.get("states", ["QUEUED", "RUNNING", "SUCCEEDED"])),
            "output": body.get("ResultConfiguration", {}).get("OutputLocation", "s3://nowhere/"),
        }
        return {"QueryExecutionId": id}

    def GetQueryExecution(self, body):
        query = self.queries[body["QueryExecutionId"]]
        state = query["states"][0]
        if len(query["states"]) > 1:
            query["states"].pop(0)
        if state in ("SUCCEEDED", "FAILED") and not query["ran"]:
            query["ran"] = True
            try:
                self.run(query)
            except (duckdb.Error, Refused) as error:
                query["states"], state, query["reason"] = ["FAILED"], "FAILED", str(error)
        status = {"State": state, "StateChangeReason": query["reason"]}
        if state == "FAILED":
            retryable = query["fate"].get("retryable", False)
            status["AthenaError"] = {"ErrorCategory": 1, "Retryable": retryable, "ErrorMessage": query["reason"]}
        statistics = {"DataManifestLocation": query["manifest"]} if query["manifest"] else {}
        return {"QueryExecution": {"QueryExecutionId": query["id"], "Status": status, "Statistics": statistics}}

    def StopQueryExecution(self, body):
        self.queries[body["QueryExecutionId"]]["states"] = ["CANCELLED"]
        return {}

    def GetQueryRuntimeStatistics(self, body):
        query = self.queries[body["QueryExecutionId"]]
        rows = query["rows"] + query["fate"].get("miscount", 0)
        return {"QueryRuntimeStatistics": {"Rows": {"OutputRows": rows}}}

    def GetQueryResults(self, body):
        query = self.queries[body["QueryExecutionId"]]
        at, count = int(body.get("NextToken", 0)), body.get("MaxResults", PAGE_ROWS_MAX)
        if count > PAGE_ROWS_MAX:
            raise Refused("InvalidRequestException", "MaxResults is over 1000")
        table = [query["columns"]] + query["results"]
        datum = lambda value: {} if value is None else {"VarCharValue": text(value)}
        rows = [{"Data": [datum(value) for value in row]} for row in table[at : at + count]]
        columns = [{"Name": name, "Type": "varchar"} for name in query["columns"]]
        answer = {"ResultSet": {"Rows": rows, "ResultSetMetadata": {"ColumnInfo": columns}}}
        if at + count < len(table):
            answer["NextToken"] = str(at + count)
        return answer

    def run(self, query):
        unload = UNLOAD.match(query["sql"])
        if unload:
            self.unload(query, *unload.groups())
        else:
            result = self.connection.execute(query["sql"], query["values"])
            query["columns"] = [column[0] for column in result.description]
            query["results"] = result.fetchall()
            query["rows"] = len(query["results"])
        if query["fate"].get("fail"):
            raise Refused("FAILED", query["fate"]["fail"])

    def unload(self, query, sql, bucket, prefix, options):
        if self.s3.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1).get("KeyCount"):
            raise Refused("FAILED", f"HIVE_PATH_ALREADY_EXISTS: Target directory for table s3://{bucket}/{prefix} is not empty")
        self.connection.execute(
            f"CREATE OR REPLACE TEMP TABLE result AS SELECT row_number() OVER () AS place_, * FROM ({sql})", query["values"]
        )
        query["rows"] = self.connection.execute("SELECT count(*) FROM result").fetchone()[0]
        partition = re.search(r"partitioned_by\s*=\s*ARRAY\['(\w+)'\]", options)
        parts = [(None, None)]
        if partition:
            column = partition.group(1)
            values = self.connection.execute(f"SELECT DISTINCT {column} FROM result ORDER BY 1").fetchall()
            if len(values) > PARTITIONS_MAX:
                raise Refused("FAILED", "HIVE_TOO_MANY_OPEN_PARTITIONS: Exceeded limit of 100 open writers for partitions")
            parts = [(column, value[0]) for value in values]
        fate, keys = query["fate"], []
        files = fate.get("files", 5)
        for column, value in parts:
            folder = f"{column}={value}/" if column else ""
            where = f"AND {column} = {value}" if column else ""
            for at in range(files):
                if fate.get("fail") and at > files // 2:
                    return
                order = "hash(place_)" if fate.get("unsorted") and at == 0 else "place_"
                name = hashlib.md5(f"{query['id']}{folder}{at}".encode()).hexdigest()
                keys.append(f"{prefix}{folder}{name}")
                except_ = f"(place_, {column})" if column else "(place_)"
                self.put(bucket, keys[-1], at, f"SELECT * EXCLUDE {except_} FROM result WHERE (place_ * 7919 // 3) % {files} = {at} {where} ORDER BY {order}", fate)
        if fate.get("stray"):
            self.s3.put_object(Bucket=bucket, Key=f"{prefix}stray", Body=b"what a failed writer left")
        if "drop_file" in fate:
            self.s3.delete_object(Bucket=bucket, Key=keys[fate["drop_file"]])
        out_bucket, _, out_prefix = query["output"][len("s3://") :].partition("/")
        manifest = f"{out_prefix}{query['id']}-manifest.csv"
        lines = "".join(f"s3://{bucket}/{key}\n" for key in keys)
        self.s3.put_object(Bucket=out_bucket, Key=manifest, Body=lines.encode())
        query["manifest"] = f"s3://{out_bucket}/{manifest}"

    def put(self, bucket, key, at, sql, fate):
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/part"
            codec = CODECS[at % len(CODECS)]
            self.connection.execute(f"COPY ({sql}) TO '{path}' (FORMAT parquet, COMPRESSION {codec}, ROW_GROUP_SIZE 2048)")
            data = open(path, "rb").read()
        if fate.get("drop_bytes") and at == 0:
            data = data[: -fate["drop_bytes"]]
        self.s3.put_object(Bucket=bucket, Key=key, Body=data)


def text(value):
    if isinstance(value, datetime.datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S.") + f"{value.microsecond // 1000:03}"
    return str(value).lower() if isinstance(value, bool) else str(value)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        operation = self.headers["X-Amz-Target"].rpartition(".")[2]
        try:
            status, answer = 200, MODEL.call(operation, body)
        except Refused as error:
            status, answer = 400, {"__type": error.code, "Message": str(error)}
        if answer is None:
            self.close_connection = True
            return
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


MODEL = Model()
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(json.dumps({"port": server.server_port}), flush=True)
for line in sys.stdin:
    print(json.dumps(MODEL.command(json.loads(line))), flush=True)
os._exit(0)
