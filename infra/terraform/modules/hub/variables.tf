variable "name" {
  description = "Prefix of all names, and the stream's name."
  type        = string
}

variable "regions" {
  description = "Every region that has a Redis, by its name; the hub's own must be among them. generation: see modules/forward. enabled: whether its mapping delivers. enhanced_fan_out: see modules/forward."
  type = map(object({
    bucket_name          = string
    bucket_arn           = string
    replay_function_name = string
    replay_function_arn  = string
    generation           = optional(number, 1)
    enabled              = optional(bool, true)
    enhanced_fan_out     = optional(bool, false)
  }))
}

variable "lanes" {
  description = "Number of lanes: a power of two, fixed for the life of the stream."
  type        = number

  validation {
    condition     = contains([for e in range(0, 15) : pow(2, e)], var.lanes)
    error_message = "The number of lanes is a power of two from 1 to 16384."
  }
}

variable "stream" {
  description = "The stream: shards (null: on demand), hours that records are kept (24 to 8760), and a customer managed KMS key (ARN; null for the one that AWS manages, which services in other accounts cannot use)."
  type = object({
    shards          = optional(number)
    retention_hours = optional(number, 168)
    kms_key_arn     = optional(string)
  })
}

variable "batch_size" {
  description = "Most records in one delivery to forward, 1 to 10,000."
  type        = number
  default     = 1000
}

variable "parallelization_factor" {
  description = "Deliveries in flight per shard, 1 to 10."
  type        = number
  default     = 1
}

variable "heartbeat_enabled" {
  description = "Whether the heartbeat is published every minute. Off, an idle stream and an unplugged one look the same."
  type        = bool
  default     = true
}

variable "snapshot_schedule" {
  description = "When the daily cache snapshot is taken, as an EventBridge Scheduler expression in UTC."
  type        = string
}

variable "sites" {
  description = "Sitemap sites by name: when to refresh, in which time zone, whether to, and a TOML file to put at sites/NAME.toml of the state bucket (null: an operator puts it there)."
  type = map(object({
    schedule    = string
    timezone    = optional(string, "UTC")
    enabled     = optional(bool, true)
    config_file = optional(string)
  }))
  default = {}
}

variable "athena" {
  description = "What the sitemap jobs may read: Glue databases, the buckets their tables lie in, and the most bytes that one query may scan (null: no limit)."
  type = object({
    databases         = optional(list(string), [])
    source_buckets    = optional(list(string), [])
    bytes_scanned_max = optional(number)
  })
  default = {}
}

variable "sitemap_bucket_arn" {
  description = "ARN of the bucket that the sitemaps are published to."
  type        = string
}

variable "robots_arns" {
  description = "ARNs of the robots.txt objects that the sitemap jobs may write, as in arn:aws:s3:::www-bucket/robots.txt: those that sites name as publish.robots."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for arn in var.robots_arns : can(regex("^arn:[^:]+:s3:::[^/*]+/[^*]+$", arn))])
    error_message = "robots_arns must be ARNs of single objects, without a wildcard."
  }
}

variable "sitemap_distribution_arn" {
  description = "ARN of the distribution before that bucket, where the sitemap jobs may invalidate its copies; null: they may not."
  type        = string
  default     = null
}

variable "forward_zip" {
  description = "Path of cache_forward.zip."
  type        = string
}

variable "cron_zip" {
  description = "Path of cron.zip."
  type        = string
}

variable "architecture" {
  description = "What the binaries were built for: x86_64 or arm64."
  type        = string
}

variable "cron_memory_mb" {
  description = "Memory of the cron function in MiB."
  type        = number
  default     = 1769
}

variable "cron_disk_mb" {
  description = "Working space of the cron function in MiB: the changed files of a sitemap, and its rows where the query does not sort them."
  type        = number
  default     = 2048
}

variable "log_retention_days" {
  description = "Days that log lines are kept."
  type        = number
}

variable "alarm_actions" {
  description = "ARNs, of the hub's region, told when an alarm changes state."
  type        = list(string)
}
