"""Enters the page table into the Glue catalogue: python page_table.py DATABASE TABLE LOCATION."""

import sys

import boto3

database, table, location = sys.argv[1:]
glue = boto3.client("glue")
glue.create_database(DatabaseInput={"Name": database})
glue.create_table(
    DatabaseName=database,
    TableInput={
        "Name": table,
        "TableType": "EXTERNAL_TABLE",
        "Parameters": {"classification": "csv"},
        "StorageDescriptor": {
            "Columns": [{"Name": "loc", "Type": "string"}, {"Name": "lastmod", "Type": "string"}],
            "Location": location,
            "InputFormat": "org.apache.hadoop.mapred.TextInputFormat",
            "OutputFormat": "org.apache.hadoop.hive.ql.io.HiveIgnoreKeyTextOutputFormat",
            "SerdeInfo": {"SerializationLibrary": "org.apache.hadoop.hive.serde2.OpenCSVSerde"},
        },
    },
)
