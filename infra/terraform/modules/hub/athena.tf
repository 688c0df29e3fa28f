# What the sitemap jobs read: tables that are somebody else's, through a workgroup of our own.

locals {
  # Where query results go: a prefix of the state bucket that empties itself.
  athena_results = "s3://${local.state_bucket}/athena/"
}

resource "aws_athena_workgroup" "this" {
  name          = var.name
  description   = "Tidemark sitemap jobs."
  force_destroy = true

  configuration {
    # The job names its own prefix for each attempt, below this one.
    enforce_workgroup_configuration    = false
    publish_cloudwatch_metrics_enabled = true
    bytes_scanned_cutoff_per_query     = var.athena.bytes_scanned_max

    result_configuration {
      output_location = local.athena_results

      encryption_configuration {
        encryption_option = "SSE_S3"
      }
    }
  }
}

data "aws_iam_policy_document" "athena" {
  statement {
    sid = "Query"

    actions = [
      "athena:GetQueryExecution",
      "athena:GetQueryResults",
      "athena:GetQueryRuntimeStatistics",
      "athena:GetWorkGroup",
      "athena:StartQueryExecution",
      "athena:StopQueryExecution",
    ]

    resources = [aws_athena_workgroup.this.arn]
  }

  statement {
    sid = "Catalog"

    actions = [
      "glue:GetDatabase",
      "glue:GetPartition",
      "glue:GetPartitions",
      "glue:GetTable",
      "glue:GetTables",
    ]

    resources = concat(
      ["arn:${local.partition}:glue:${local.region}:${local.account}:catalog"],
      flatten([
        for db in var.athena.databases : [
          "arn:${local.partition}:glue:${local.region}:${local.account}:database/${db}",
          "arn:${local.partition}:glue:${local.region}:${local.account}:table/${db}/*",
        ]
      ]),
    )
  }

  # The tables' data. Athena reads it with the rights of the one who asks.
  dynamic "statement" {
    for_each = length(var.athena.source_buckets) > 0 ? [1] : []

    content {
      sid       = "SourceObjects"
      actions   = ["s3:GetObject"]
      resources = [for b in var.athena.source_buckets : "arn:${local.partition}:s3:::${b}/*"]
    }
  }

  dynamic "statement" {
    for_each = length(var.athena.source_buckets) > 0 ? [1] : []

    content {
      sid       = "SourceBuckets"
      actions   = ["s3:GetBucketLocation", "s3:ListBucket"]
      resources = [for b in var.athena.source_buckets : "arn:${local.partition}:s3:::${b}"]
    }
  }

  # Athena writes results in parts.
  statement {
    sid       = "Results"
    actions   = ["s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
    resources = ["arn:${local.partition}:s3:::${local.state_bucket}/athena/*"]
  }
}
