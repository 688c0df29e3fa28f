# What every region has, the hub's own too: a bucket, and the replay function beside that region's Redis.

data "aws_region" "current" {}

locals {
  region        = data.aws_region.current.id
  function_name = "${var.name}-cache-replay"
}

# The region's objects. values/ must outlive the stream's retention plus the oldest kept snapshot, for a
# change that is read again may name one; the environment checks the numbers against each other.
module "bucket" {
  source = "../bucket"

  name          = var.bucket_name
  force_destroy = var.force_destroy

  expiry = merge({
    values     = { prefix = "values/", days = var.value_days }
    loads      = { prefix = "loads/", days = 7 }
    quarantine = { prefix = "quarantine/", days = var.quarantine_days, noncurrent_days = 30 }
    snapshots  = { prefix = "snapshots/", days = var.snapshot_days, noncurrent_days = 7 }
  }, var.further_expiry)
}

# --- the network: Redis and S3, nothing else ---

resource "aws_security_group" "replay" {
  name        = local.function_name
  description = "Tidemark replay: out to Redis and S3 only."
  vpc_id      = var.network.vpc_id
}

resource "aws_vpc_security_group_egress_rule" "redis" {
  security_group_id            = aws_security_group.replay.id
  description                  = "Redis"
  referenced_security_group_id = var.network.redis_security_group_id
  ip_protocol                  = "tcp"
  from_port                    = var.network.redis_port
  to_port                      = var.network.redis_port
}

resource "aws_vpc_security_group_ingress_rule" "redis" {
  security_group_id            = var.network.redis_security_group_id
  description                  = "Tidemark replay"
  referenced_security_group_id = aws_security_group.replay.id
  ip_protocol                  = "tcp"
  from_port                    = var.network.redis_port
  to_port                      = var.network.redis_port
}

data "aws_ec2_managed_prefix_list" "s3" {
  name = "com.amazonaws.${local.region}.s3"
}

resource "aws_vpc_security_group_egress_rule" "s3" {
  security_group_id = aws_security_group.replay.id
  description       = "S3 through the gateway endpoint"
  prefix_list_id    = data.aws_ec2_managed_prefix_list.s3.id
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

# A gateway endpoint costs nothing and needs no NAT. It carries no policy of its own: others in the VPC may
# use it as well, and what replay may do is bounded by its role.
resource "aws_vpc_endpoint" "s3" {
  count = length(var.network.s3_endpoint_route_table_ids) > 0 ? 1 : 0

  vpc_id            = var.network.vpc_id
  service_name      = "com.amazonaws.${local.region}.s3"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = var.network.s3_endpoint_route_table_ids
}

# --- the password ---

# Read while Terraform plans, so it stands in no file of ours, but it does stand in Terraform's state and in the
# function's settings: keep the state encrypted and private. The settings are encrypted with a key of their
# own, so that reading the function's configuration alone does not show it.
data "aws_secretsmanager_secret_version" "redis" {
  count = var.redis.password_secret == null ? 0 : 1

  secret_id = var.redis.password_secret
}

resource "aws_kms_key" "settings" {
  description             = "Tidemark: settings of ${local.function_name}, the Redis password among them."
  enable_key_rotation     = true
  deletion_window_in_days = 30
}

resource "aws_kms_alias" "settings" {
  name          = "alias/${local.function_name}-settings"
  target_key_id = aws_kms_key.settings.key_id
}

# --- the replay function ---

data "aws_iam_policy_document" "replay" {
  statement {
    sid       = "Objects"
    actions   = ["s3:GetObject", "s3:PutObject"]
    resources = ["${module.bucket.arn}/*"]
  }

  statement {
    sid       = "List"
    actions   = ["s3:ListBucket"]
    resources = [module.bucket.arn]
  }

  dynamic "statement" {
    for_each = var.redis.iam == null ? [] : [var.redis.iam]

    content {
      sid       = "Redis"
      actions   = ["elasticache:Connect"]
      resources = statement.value.arns
    }
  }
}

module "replay" {
  source = "../function"

  name                = local.function_name
  description         = "Tidemark: writes the stream's changes into this region's Redis."
  zip                 = var.zip
  architecture        = var.architecture
  memory_mb           = var.memory_mb
  timeout_s           = var.timeout_s
  environment_key_arn = aws_kms_key.settings.arn
  policy_documents    = [data.aws_iam_policy_document.replay.json]
  log_retention_days  = var.log_retention_days
  alarm_actions       = var.alarm_actions

  vpc = {
    subnet_ids         = var.network.subnet_ids
    security_group_ids = [aws_security_group.replay.id]
  }

  environment = merge(
    {
      TIDEMARK_REDIS_URL = var.redis.url
      TIDEMARK_BUCKET    = module.bucket.name
      TIDEMARK_SCOPE     = join(",", var.scope)
      TIDEMARK_LANES     = var.lanes
    },
    var.redis.user == null ? {} : { TIDEMARK_REDIS_USER = var.redis.user },
    var.redis.password_secret == null ? {} : {
      TIDEMARK_REDIS_PASSWORD = data.aws_secretsmanager_secret_version.redis[0].secret_string
    },
    var.redis.iam == null ? {} : {
      TIDEMARK_REDIS_IAM_CACHE      = var.redis.iam.cache
      TIDEMARK_REDIS_IAM_SERVERLESS = var.redis.iam.serverless
    },
  )
}

# Each one is a change that a producer believes to be made. Its reason lies under quarantine/ in the bucket.
resource "aws_cloudwatch_metric_alarm" "quarantined" {
  alarm_name          = "${local.function_name}-quarantined"
  alarm_description   = "Changes were refused: see quarantine/ in ${module.bucket.name} for each with its reason."
  namespace           = "Tidemark"
  metric_name         = "changes_quarantined"
  dimensions          = { region = local.region }
  statistic           = "Sum"
  period              = 300
  evaluation_periods  = 1
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.alarm_actions
}
