# Two policies for people and services that are not ours. Nothing is attached to them here.

data "aws_iam_policy_document" "producer" {
  statement {
    sid       = "Publish"
    actions   = ["kinesis:DescribeStreamSummary", "kinesis:PutRecord", "kinesis:PutRecords"]
    resources = [aws_kinesis_stream.this.arn]
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

# Replay and the jobs act with roles of their own; an operator only starts them.
data "aws_iam_policy_document" "operator" {
  source_policy_documents = [data.aws_iam_policy_document.producer.json]

  statement {
    sid       = "Operate"
    actions   = ["lambda:InvokeFunction"]
    resources = concat([for r in var.regions : r.replay_function_arn], [module.cron.arn])
  }
}

resource "aws_iam_policy" "operator" {
  name        = "${var.name}-operator"
  description = "What the tidemark command needs: publish, ask a region, start a job."
  policy      = data.aws_iam_policy_document.operator.json
}
