# The hub: the stream, the roads to every region and the jobs. Exactly one region is the hub.

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_region" "current" {}

locals {
  account   = data.aws_caller_identity.current.account_id
  partition = data.aws_partition.current.partition
  region    = data.aws_region.current.id

  # The hub comes first in what the jobs are told; the others follow by name.
  region_order = concat([local.region], sort([for r in keys(var.regions) : r if r != local.region]))

  # Of the two kinds of KMS key only a customer managed one needs grants in our policies.
  stream_key_arn = var.stream.kms_key_arn
}

# --- the stream ---

# On an on-demand stream the record distribution strategy must stay USER_PARTITION_KEY, its default: the
# strategy AUTO ignores partition keys and would destroy the order of every lane. The provider has no
# argument for it, so nothing here can set it; docs/deploy.md says how to look and how to forbid the change.
resource "aws_kinesis_stream" "this" {
  name             = var.name
  retention_period = var.stream.retention_hours
  shard_count      = var.stream.shards

  encryption_type = "KMS"
  kms_key_id      = coalesce(local.stream_key_arn, "alias/aws/kinesis")

  stream_mode_details {
    stream_mode = var.stream.shards == null ? "ON_DEMAND" : "PROVISIONED"
  }
}

# A producer that is turned away tries again, so nothing is lost yet, but every region falls behind.
resource "aws_cloudwatch_metric_alarm" "write_throttles" {
  alarm_name          = "${var.name}-stream-full"
  alarm_description   = "The stream turns writes away: it needs more shards, or one lane is too hot."
  namespace           = "AWS/Kinesis"
  metric_name         = "WriteProvisionedThroughputExceeded"
  dimensions          = { StreamName = aws_kinesis_stream.this.name }
  statistic           = "Sum"
  period              = 60
  evaluation_periods  = 5
  datapoints_to_alarm = 3
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.alarm_actions
  ok_actions          = var.alarm_actions
}

# --- the roads: one forward function per target region, the hub's own included ---

module "forward" {
  source   = "../forward"
  for_each = var.regions

  name                   = var.name
  target_region          = each.key
  target_bucket          = each.value.bucket_name
  value_buckets          = { for r in var.regions : r.bucket_name => r.bucket_arn }
  replay_function_name   = each.value.replay_function_name
  replay_function_arn    = each.value.replay_function_arn
  stream_name            = aws_kinesis_stream.this.name
  stream_arn             = aws_kinesis_stream.this.arn
  stream_key_arn         = local.stream_key_arn
  lanes                  = var.lanes
  generation             = each.value.generation
  enabled                = each.value.enabled
  enhanced_fan_out       = each.value.enhanced_fan_out
  batch_size             = var.batch_size
  parallelization_factor = var.parallelization_factor
  zip                    = var.forward_zip
  architecture           = var.architecture
  log_retention_days     = var.log_retention_days
  alarm_actions          = var.alarm_actions
}
