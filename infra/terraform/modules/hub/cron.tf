# The jobs: one function, started by EventBridge Scheduler or by an operator.

locals {
  cron_name = "${var.name}-cron"

  cron_arn = format(
    "arn:%s:lambda:%s:%s:function:%s",
    local.partition, local.region, local.account, local.cron_name,
  )

  state_bucket = var.regions[local.region].bucket_name

  # The sitemap job of a site needs the site's TOML in the state bucket.
  site_keys = { for site, _ in var.sites : site => "sites/${site}.toml" }

  schedules = merge(
    {
      heartbeat = {
        job        = "heartbeat"
        args       = {}
        expression = "rate(1 minute)"
        timezone   = "UTC"
        enabled    = var.heartbeat_enabled
        # The next one comes in a minute; an old one says nothing.
        event_age_s = 60
      }
      snapshot = {
        job         = "snapshot"
        args        = {}
        expression  = var.snapshot_schedule
        timezone    = "UTC"
        enabled     = true
        event_age_s = 3600
      }
    },
    {
      for site, s in var.sites : "sitemap-${site}" => {
        job         = "sitemap"
        args        = { site = site }
        expression  = s.schedule
        timezone    = s.timezone
        enabled     = s.enabled
        event_age_s = 3600
      }
    },
  )
}

data "aws_iam_policy_document" "cron" {
  statement {
    sid = "Stream"

    actions = [
      "kinesis:DescribeStreamSummary",
      "kinesis:GetRecords",
      "kinesis:GetShardIterator",
      "kinesis:ListShards",
      "kinesis:PutRecord",
      "kinesis:PutRecords",
    ]

    resources = [aws_kinesis_stream.this.arn]
  }

  dynamic "statement" {
    for_each = local.stream_key_arn == null ? [] : [local.stream_key_arn]

    content {
      sid       = "StreamKey"
      actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
      resources = [statement.value]
    }
  }

  # Every region's replay, and itself: a job that outlasts one invocation starts the next.
  statement {
    sid       = "Drive"
    actions   = ["lambda:InvokeFunction"]
    resources = concat([for r in var.regions : r.replay_function_arn], [local.cron_arn])
  }

  statement {
    sid       = "Objects"
    actions   = ["s3:DeleteObject", "s3:GetObject", "s3:PutObject"]
    resources = [for arn in local.bucket_arns : "${arn}/*"]
  }

  # A rollback reads what a sitemap's files were.
  statement {
    sid       = "OldSitemaps"
    actions   = ["s3:GetObjectVersion"]
    resources = ["${var.sitemap_bucket_arn}/*"]
  }

  # A robots.txt is somebody else's: only what is named, and nothing else of its bucket.
  dynamic "statement" {
    for_each = length(var.robots_arns) == 0 ? [] : [var.robots_arns]

    content {
      sid       = "Robots"
      actions   = ["s3:GetObject", "s3:PutObject"]
      resources = statement.value
    }
  }

  dynamic "statement" {
    for_each = var.sitemap_distribution_arn == null ? [] : [var.sitemap_distribution_arn]

    content {
      sid       = "TellTheEdge"
      actions   = ["cloudfront:CreateInvalidation"]
      resources = [statement.value]
    }
  }

  statement {
    sid       = "Buckets"
    actions   = ["s3:GetBucketLocation", "s3:ListBucket"]
    resources = local.bucket_arns
  }

  source_policy_documents = [data.aws_iam_policy_document.athena.json]
}

locals {
  bucket_arns = concat([for r in var.regions : r.bucket_arn], [var.sitemap_bucket_arn])
}

module "cron" {
  source = "../function"

  name               = local.cron_name
  description        = "Tidemark: heartbeat, snapshot, resync and sitemap jobs."
  zip                = var.cron_zip
  architecture       = var.architecture
  memory_mb          = var.cron_memory_mb
  disk_mb            = var.cron_disk_mb
  timeout_s          = 900
  policy_documents   = [data.aws_iam_policy_document.cron.json]
  log_retention_days = var.log_retention_days
  alarm_actions      = var.alarm_actions

  environment = {
    TIDEMARK_STREAM          = aws_kinesis_stream.this.name
    TIDEMARK_LANES           = var.lanes
    TIDEMARK_REGIONS         = join(",", [for r in local.region_order : "${r}=${var.regions[r].bucket_name}"])
    TIDEMARK_BUCKET          = local.state_bucket
    TIDEMARK_REPLAY_FUNCTION = var.regions[local.region].replay_function_name
  }
}

# The runner inside retries what a job meets, and then answers without an error. So Lambda only starts anew what was
# killed or could not begin; the run has the same ID and goes on from its cursor.
resource "aws_lambda_function_event_invoke_config" "cron" {
  function_name                = module.cron.name
  maximum_retry_attempts       = 2
  maximum_event_age_in_seconds = 3600
}

# A long job starts itself anew on purpose. Every start carries a cursor and stops when the work is done;
# without this Lambda would take it for a runaway loop and end it after 16 rounds.
resource "aws_lambda_function_recursion_config" "cron" {
  function_name  = module.cron.name
  recursive_loop = "Allow"
}

resource "aws_cloudwatch_metric_alarm" "cron_dropped" {
  alarm_name          = "${local.cron_name}-dropped"
  alarm_description   = "Lambda gave a scheduled start up: it was too old before the function could take it."
  namespace           = "AWS/Lambda"
  metric_name         = "AsyncEventsDropped"
  dimensions          = { FunctionName = module.cron.name }
  statistic           = "Sum"
  period              = 300
  evaluation_periods  = 1
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.alarm_actions
  ok_actions          = var.alarm_actions
}

# The heartbeat starts the function every minute: silence means that the Scheduler or the function is off.
resource "aws_cloudwatch_metric_alarm" "cron_silent" {
  count = var.heartbeat_enabled ? 1 : 0

  alarm_name          = "${local.cron_name}-silent"
  alarm_description   = "No job has started for five minutes, not even the heartbeat."
  namespace           = "AWS/Lambda"
  metric_name         = "Invocations"
  dimensions          = { FunctionName = module.cron.name }
  statistic           = "Sum"
  period              = 60
  evaluation_periods  = 5
  comparison_operator = "LessThanThreshold"
  threshold           = 1
  treat_missing_data  = "breaching"
  alarm_actions       = var.alarm_actions
  ok_actions          = var.alarm_actions
}

# --- schedules ---

resource "aws_scheduler_schedule_group" "this" {
  name = var.name
}

data "aws_iam_policy_document" "scheduler_assume" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["scheduler.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }

    condition {
      test     = "ArnEquals"
      variable = "aws:SourceArn"
      values   = [aws_scheduler_schedule_group.this.arn]
    }
  }
}

data "aws_iam_policy_document" "scheduler" {
  statement {
    sid       = "StartJobs"
    actions   = ["lambda:InvokeFunction"]
    resources = [module.cron.arn]
  }
}

resource "aws_iam_role" "scheduler" {
  name               = "${var.name}-scheduler-${local.region}"
  description        = "Lets EventBridge Scheduler start the jobs of ${var.name}."
  assume_role_policy = data.aws_iam_policy_document.scheduler_assume.json
}

resource "aws_iam_role_policy" "scheduler" {
  name   = "start-jobs"
  role   = aws_iam_role.scheduler.id
  policy = data.aws_iam_policy_document.scheduler.json
}

resource "aws_scheduler_schedule" "this" {
  depends_on = [aws_iam_role_policy.scheduler]
  for_each   = local.schedules

  name                         = each.key
  group_name                   = aws_scheduler_schedule_group.this.name
  schedule_expression          = each.value.expression
  schedule_expression_timezone = each.value.timezone
  state                        = each.value.enabled ? "ENABLED" : "DISABLED"

  flexible_time_window {
    mode = "OFF"
  }

  target {
    arn      = module.cron.arn
    role_arn = aws_iam_role.scheduler.arn

    # Scheduler replaces the word in angle brackets with the time of this start. jsonencode writes brackets
    # as \u003c and \u003e, which Scheduler would not know, so they are put back.
    input = replace(replace(
      jsonencode({
        job       = each.value.job
        scheduled = "<aws.scheduler.scheduled-time>"
        args      = each.value.args
      }),
    "\\u003c", "<"), "\\u003e", ">")

    retry_policy {
      maximum_event_age_in_seconds = each.value.event_age_s
      maximum_retry_attempts       = each.value.event_age_s > 60 ? 10 : 0
    }
  }
}

# Only where Terraform is given the file; else an operator puts it there.
resource "aws_s3_object" "site" {
  for_each = { for site, s in var.sites : site => s.config_file if s.config_file != null }

  bucket       = local.state_bucket
  key          = local.site_keys[each.key]
  source       = each.value
  source_hash  = filemd5(each.value)
  content_type = "application/toml"
}
