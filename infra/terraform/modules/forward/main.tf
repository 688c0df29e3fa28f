# The road to one target region: a forward function in the hub and the mapping that feeds it from the stream.

data "aws_iam_policy_document" "this" {
  # The mapping reads as the function; while it feeds a region that is behind, the function reads itself.
  statement {
    sid = "ReadStream"

    actions = [
      "kinesis:DescribeStream",
      "kinesis:DescribeStreamSummary",
      "kinesis:GetRecords",
      "kinesis:GetShardIterator",
      "kinesis:ListShards",
    ]

    resources = [var.stream_arn]
  }

  dynamic "statement" {
    for_each = aws_kinesis_stream_consumer.this

    content {
      sid       = "ReadAsConsumer"
      actions   = ["kinesis:DescribeStreamConsumer", "kinesis:SubscribeToShard"]
      resources = [statement.value.arn]
    }
  }

  statement {
    sid       = "PassOn"
    actions   = ["lambda:InvokeFunction"]
    resources = [var.replay_function_arn]
  }

  # Large values: S3 copies them from the publishing region's bucket to the target's, and nothing else under another name.
  statement {
    sid       = "ReadValues"
    actions   = ["s3:GetObject"]
    resources = [for arn in values(var.value_buckets) : "${arn}/values/*"]
  }

  # Without it S3 says 403 for a value that is not there.
  statement {
    sid       = "LookForValues"
    actions   = ["s3:ListBucket"]
    resources = values(var.value_buckets)
  }

  statement {
    sid       = "WriteValues"
    actions   = ["s3:PutObject"]
    resources = ["${var.value_buckets[var.target_bucket]}/values/*"]
  }

  dynamic "statement" {
    for_each = var.stream_key_arn == null ? [] : [var.stream_key_arn]

    content {
      sid       = "DecryptStream"
      actions   = ["kms:Decrypt"]
      resources = [statement.value]
    }
  }
}

module "function" {
  source = "../function"

  name               = "${var.name}-cache-forward-${var.target_region}"
  description        = "Tidemark: passes the stream's batches on to ${var.target_region}."
  zip                = var.zip
  architecture       = var.architecture
  memory_mb          = var.memory_mb
  timeout_s          = var.timeout_s
  policy_documents   = [data.aws_iam_policy_document.this.json]
  log_retention_days = var.log_retention_days
  alarm_actions      = var.alarm_actions

  environment = {
    TIDEMARK_STREAM          = var.stream_name
    TIDEMARK_LANES           = var.lanes
    TIDEMARK_TARGET_REGION   = var.target_region
    TIDEMARK_TARGET_BUCKET   = var.target_bucket
    TIDEMARK_VALUE_BUCKETS   = join(",", keys(var.value_buckets))
    TIDEMARK_REPLAY_FUNCTION = var.replay_function_name
    TIDEMARK_GENERATION      = var.generation
  }
}

# Enhanced fan-out: a read rate of its own for the mapping. Feeds still read at the rate that all readers share.
resource "aws_kinesis_stream_consumer" "this" {
  count = var.enhanced_fan_out ? 1 : 0

  name       = "${var.name}-cache-forward-${var.target_region}"
  stream_arn = var.stream_arn
}

# Order rests on these settings: a failed batch is delivered again, whole and for ever, so nothing of its
# shard and lanes overtakes it. Splitting it (bisect), giving up on it or answering for a part of it would
# let later changes pass earlier ones.
resource "aws_lambda_event_source_mapping" "this" {
  event_source_arn  = var.enhanced_fan_out ? aws_kinesis_stream_consumer.this[0].arn : var.stream_arn
  function_name     = module.function.arn
  starting_position = "TRIM_HORIZON"
  enabled           = var.enabled

  batch_size                         = var.batch_size
  maximum_batching_window_in_seconds = 0
  parallelization_factor             = var.parallelization_factor

  bisect_batch_on_function_error = false
  maximum_retry_attempts         = -1
  maximum_record_age_in_seconds  = -1
}

# Heartbeats come every minute, so no figure at all means that nothing is delivered: that must alarm too.
resource "aws_cloudwatch_metric_alarm" "iterator_age" {
  alarm_name          = "${module.function.name}-behind"
  alarm_description   = "${var.target_region} is more than ${var.iterator_age_alarm_s} s behind the stream, or its mapping delivers nothing."
  namespace           = "AWS/Lambda"
  metric_name         = "IteratorAge"
  dimensions          = { FunctionName = module.function.name }
  statistic           = "Maximum"
  period              = 60
  evaluation_periods  = 5
  datapoints_to_alarm = 5
  comparison_operator = "GreaterThanThreshold"
  threshold           = var.iterator_age_alarm_s * 1000
  treat_missing_data  = "breaching"
  alarm_actions       = var.alarm_actions
  ok_actions          = var.alarm_actions
}
