# Two policies for people and services that are not ours. Nothing is attached to them here.

data "aws_iam_policy_document" "producer" {
  statement {
    sid       = "Publish"
    actions   = ["kinesis:DescribeStreamSummary", "kinesis:PutRecord", "kinesis:PutRecords"]
    resources = [aws_kinesis_stream.this.arn]
  }

  # Values that do not fit a record are written to the service's own region first.
  statement {
    sid       = "LargeValues"
    actions   = ["s3:GetObject", "s3:PutObject"]
    resources = [for r in var.regions : "${r.bucket_arn}/values/*"]
  }

  dynamic "statement" {
    for_each = local.stream_key_arn == null ? [] : [local.stream_key_arn]

    content {
      sid       = "EncryptStream"
      actions   = ["kms:GenerateDataKey"]
      resources = [statement.value]
    }
  }
}

resource "aws_iam_policy" "producer" {
  name        = "${var.name}-producer"
  description = "What a backend service needs to write cache changes."
  policy      = data.aws_iam_policy_document.producer.json
}

# Replay and the jobs act with roles of their own; an operator starts them. Quarantine is looked at with the
# operator's own rights: its objects in each region's bucket, and the stream, which must show that a retry overtakes
# nothing.
data "aws_iam_policy_document" "operator" {
  source_policy_documents = [data.aws_iam_policy_document.producer.json]

  statement {
    sid       = "Operate"
    actions   = ["lambda:InvokeFunction"]
    resources = concat([for r in var.regions : r.replay_function_arn], [module.cron.arn])
  }

  statement {
    sid       = "Quarantine"
    actions   = ["s3:GetObject", "s3:PutObject"]
    resources = [for r in var.regions : "${r.bucket_arn}/quarantine/*"]
  }

  statement {
    sid       = "ListQuarantine"
    actions   = ["s3:ListBucket"]
    resources = [for r in var.regions : r.bucket_arn]

    condition {
      test     = "StringLike"
      variable = "s3:prefix"
      values   = ["quarantine/*"]
    }
  }

  statement {
    sid       = "ReadStream"
    actions   = ["kinesis:ListShards", "kinesis:GetShardIterator", "kinesis:GetRecords"]
    resources = [aws_kinesis_stream.this.arn]
  }

  dynamic "statement" {
    for_each = local.stream_key_arn == null ? [] : [local.stream_key_arn]

    content {
      sid       = "DecryptStream"
      actions   = ["kms:Decrypt"]
      resources = [statement.value]
    }
  }
}

resource "aws_iam_policy" "operator" {
  name        = "${var.name}-operator"
  description = "What the tidemark command needs: publish, ask a region, start a job, look at quarantine."
  policy      = data.aws_iam_policy_document.operator.json
}
