variable "name" {
  description = "Prefix of all names, and the stream's name. Another one than tidemark must be told to the tidemark command too."
  type        = string
  default     = "tidemark"
}

variable "tags" {
  description = "Tags for everything."
  type        = map(string)
  default     = {}
}

variable "artifacts" {
  description = "Folder that holds cache_forward.zip, cache_replay.zip and cron.zip; infra/terraform/zip-functions makes it."
  type        = string
  default     = "../../dist"
}

variable "architecture" {
  description = "What the zips were built for: x86_64 or arm64."
  type        = string
  default     = "x86_64"

  validation {
    condition     = contains(["x86_64", "arm64"], var.architecture)
    error_message = "Lambda runs x86_64 and arm64."
  }
}

variable "hub" {
  description = "The hub region: its bucket (also the jobs' state bucket), network and Redis. See modules/region for each field, modules/forward for generation, enabled and enhanced_fan_out. alarm_actions: SNS topics of this region."
  type = object({
    region           = optional(string, "us-east-1")
    bucket_name      = string
    generation       = optional(number, 1)
    enabled          = optional(bool, true)
    enhanced_fan_out = optional(bool, false)
    alarm_actions    = optional(list(string), [])

    network = object({
      vpc_id                      = string
      subnet_ids                  = list(string)
      redis_security_group_id     = string
      redis_port                  = optional(number, 6379)
      s3_endpoint_route_table_ids = optional(list(string), [])
    })

    redis = object({
      url             = string
      user            = optional(string)
      password_secret = optional(string)
      iam = optional(object({
        cache      = string
        serverless = optional(bool, false)
        arns       = list(string)
      }))
    })
  })
}

variable "second" {
  description = "The second region, with the same fields."
  type = object({
    region           = optional(string, "ap-northeast-2")
    bucket_name      = string
    generation       = optional(number, 1)
    enabled          = optional(bool, true)
    enhanced_fan_out = optional(bool, false)
    alarm_actions    = optional(list(string), [])

    network = object({
      vpc_id                      = string
      subnet_ids                  = list(string)
      redis_security_group_id     = string
      redis_port                  = optional(number, 6379)
      s3_endpoint_route_table_ids = optional(list(string), [])
    })

    redis = object({
      url             = string
      user            = optional(string)
      password_secret = optional(string)
      iam = optional(object({
        cache      = string
        serverless = optional(bool, false)
        arns       = list(string)
      }))
    })
  })

  validation {
    condition     = var.second.region != var.hub.region
    error_message = "The second region must be another one than the hub."
  }
}

variable "scope" {
  description = "Key prefixes that are synced; [\"*\"] for every key, on purpose."
  type        = list(string)
}

variable "lanes" {
  description = "Number of lanes: a power of two, fixed for the life of the stream."
  type        = number
  default     = 64
}

variable "stream" {
  description = "The stream: shards (null: on demand), hours that records are kept, and a customer managed KMS key. Retention has one price from 25 hours to 7 days, and another beyond."
  type = object({
    shards          = optional(number)
    retention_hours = optional(number, 168)
    kms_key_arn     = optional(string)
  })
  default = { shards = 2 }
}

variable "parallelization_factor" {
  description = "Deliveries in flight per shard and region, 1 to 10."
  type        = number
  default     = 1
}

variable "snapshot_schedule" {
  description = "When the cache snapshot is taken, as an EventBridge Scheduler expression in UTC."
  type        = string
  default     = "cron(30 3 * * ? *)"
}

variable "snapshot_days" {
  description = "Days that snapshots are kept."
  type        = number
  default     = 14
}

variable "value_days" {
  description = "Days that large values are kept after their last use: longer than the stream's retention plus the oldest kept snapshot plus one day, for a value is made young again at most once a day."
  type        = number
  default     = 30

  validation {
    condition     = var.value_days > var.snapshot_days + var.stream.retention_hours / 24 + 1
    error_message = "value_days must exceed snapshot_days plus the stream's retention in days plus one: a change that is still read may name such a value."
  }
}

variable "sitemap" {
  description = "The sitemaps' public bucket and edge: see modules/sitemap-edge. invalidate: the jobs may invalidate the edge's copies. robots_arns: robots.txt objects that they may write."
  type = object({
    bucket_name     = string
    edge_ttl_s      = optional(number, 60)
    aliases         = optional(list(string), [])
    certificate_arn = optional(string)
    rollback_days   = optional(number, 90)
    invalidate      = optional(bool, false)
    robots_arns     = optional(list(string), [])
  })
}

variable "sites" {
  description = "Sitemap sites by name: when to refresh, in which time zone, whether to, and the site's TOML file (null: an operator uploads it)."
  type = map(object({
    schedule    = string
    timezone    = optional(string, "UTC")
    enabled     = optional(bool, true)
    config_file = optional(string)
  }))
  default = {}
}

variable "athena" {
  description = "What the sitemap jobs may read: Glue databases, the buckets of their tables, and the most bytes one query may scan."
  type = object({
    databases         = optional(list(string), [])
    source_buckets    = optional(list(string), [])
    bytes_scanned_max = optional(number)
  })
  default = {}
}

variable "log_retention_days" {
  description = "Days that log lines are kept."
  type        = number
  default     = 30
}

variable "force_destroy" {
  description = "Whether terraform destroy may delete buckets that are not empty. For trials only."
  type        = bool
  default     = false
}
