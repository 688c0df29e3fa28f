# One Lambda function from a zip that holds one file, `bootstrap`, with its role, log group and basic alarms.

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_region" "current" {}

locals {
  # Not read from the function: its role must stand before the function does.
  function_arn = format(
    "arn:%s:lambda:%s:%s:function:%s",
    data.aws_partition.current.partition,
    data.aws_region.current.id,
    data.aws_caller_identity.current.account_id,
    var.name,
  )
}

resource "aws_cloudwatch_log_group" "this" {
  name              = "/aws/lambda/${var.name}"
  retention_in_days = var.log_retention_days
}

data "aws_iam_policy_document" "assume" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["lambda.amazonaws.com"]
    }
  }
}

# IAM is global: the region keeps the roles of two regions' functions apart.
resource "aws_iam_role" "this" {
  name               = "${var.name}-${data.aws_region.current.id}"
  description        = "Runs the Lambda function ${var.name} in ${data.aws_region.current.id}."
  assume_role_policy = data.aws_iam_policy_document.assume.json
}

data "aws_iam_policy_document" "this" {
  source_policy_documents = var.policy_documents

  statement {
    sid       = "Log"
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["${aws_cloudwatch_log_group.this.arn}:*"]
  }

  # Lambda attaches the function to the VPC with the function's own role.
  dynamic "statement" {
    for_each = var.vpc == null ? [] : [1]

    content {
      sid = "AttachToVpc"

      actions = [
        "ec2:AssignPrivateIpAddresses",
        "ec2:CreateNetworkInterface",
        "ec2:DeleteNetworkInterface",
        "ec2:DescribeNetworkInterfaces",
        "ec2:DescribeSubnets",
        "ec2:UnassignPrivateIpAddresses",
      ]

      # These actions take no narrower resource at the moment Lambda calls them.
      resources = ["*"]
    }
  }

  # The service needs the statement above; the code in the function does not, so it is refused there.
  dynamic "statement" {
    for_each = var.vpc == null ? [] : [1]

    content {
      sid       = "NotFromWithin"
      effect    = "Deny"
      actions   = ["ec2:*"]
      resources = ["*"]

      condition {
        test     = "ArnEquals"
        variable = "lambda:SourceFunctionArn"
        values   = [local.function_arn]
      }
    }
  }

  dynamic "statement" {
    for_each = var.environment_key_arn == null ? [] : [var.environment_key_arn]

    content {
      sid       = "OpenSettings"
      actions   = ["kms:Decrypt"]
      resources = [statement.value]
    }
  }
}

resource "aws_iam_role_policy" "this" {
  name   = "function"
  role   = aws_iam_role.this.id
  policy = data.aws_iam_policy_document.this.json
}

resource "aws_lambda_function" "this" {
  # Without its policy in place Lambda could not attach a new function to the VPC.
  depends_on = [aws_iam_role_policy.this]

  function_name    = var.name
  description      = var.description
  role             = aws_iam_role.this.arn
  runtime          = "provided.al2023"
  handler          = "bootstrap"
  architectures    = [var.architecture]
  filename         = var.zip
  source_code_hash = filebase64sha256(var.zip)
  memory_size      = var.memory_mb
  timeout          = var.timeout_s
  kms_key_arn      = var.environment_key_arn

  ephemeral_storage {
    size = var.disk_mb
  }

  environment {
    variables = var.environment
  }

  # Text: the functions write their own JSON lines and metrics, which must arrive as they are.
  logging_config {
    log_format = "Text"
    log_group  = aws_cloudwatch_log_group.this.name
  }

  dynamic "vpc_config" {
    for_each = var.vpc == null ? [] : [var.vpc]

    content {
      subnet_ids         = vpc_config.value.subnet_ids
      security_group_ids = vpc_config.value.security_group_ids
    }
  }
}

# One failed run is retried by whoever called; five bad minutes in a row are a fault that stays.
resource "aws_cloudwatch_metric_alarm" "errors" {
  alarm_name          = "${var.name}-errors"
  alarm_description   = "${var.name} fails and keeps failing. Its log group: ${aws_cloudwatch_log_group.this.name}"
  namespace           = "AWS/Lambda"
  metric_name         = "Errors"
  dimensions          = { FunctionName = aws_lambda_function.this.function_name }
  statistic           = "Sum"
  period              = 60
  evaluation_periods  = 10
  datapoints_to_alarm = 5
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.alarm_actions
  ok_actions          = var.alarm_actions
}

resource "aws_cloudwatch_metric_alarm" "throttles" {
  alarm_name          = "${var.name}-throttles"
  alarm_description   = "Lambda turns calls of ${var.name} away: the account's concurrency in ${data.aws_region.current.id} is used up."
  namespace           = "AWS/Lambda"
  metric_name         = "Throttles"
  dimensions          = { FunctionName = aws_lambda_function.this.function_name }
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
