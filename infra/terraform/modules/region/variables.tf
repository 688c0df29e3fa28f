variable "name" {
  description = "Prefix of all names."
  type        = string
}

variable "bucket_name" {
  description = "Name of this region's bucket."
  type        = string
}

variable "force_destroy" {
  description = "Whether terraform destroy may delete the bucket with all that is in it. For trials only."
  type        = bool
  default     = false
}

variable "network" {
  description = "Where replay runs: a VPC, private subnets that reach Redis, the security group of Redis (it gets one rule that lets replay in), and the route tables to give an S3 gateway endpoint to (empty where the VPC has one)."
  type = object({
    vpc_id                      = string
    subnet_ids                  = list(string)
    redis_security_group_id     = string
    redis_port                  = optional(number, 6379)
    s3_endpoint_route_table_ids = optional(list(string), [])
  })

  validation {
    condition     = length(var.network.subnet_ids) > 0
    error_message = "Name at least one subnet; two in different zones for a region that outlives a zone."
  }
}

variable "redis" {
  description = "The region's Redis: a redis:// or rediss:// URL without a password, the user where it has one, and the Secrets Manager secret (name or ARN, in this region) whose plain text is the password. With iam the user logs in to ElastiCache by a token: the cache's name in lower case, whether it is serverless, and the ARNs of cache and user."
  type = object({
    url             = string
    user            = optional(string)
    password_secret = optional(string)
    iam = optional(object({
      cache      = string
      serverless = optional(bool, false)
      arns       = list(string)
    }))
  })

  validation {
    condition     = var.redis.iam == null || (var.redis.password_secret == null && var.redis.user != null)
    error_message = "A login by IAM needs a user and takes the place of password_secret."
  }

  validation {
    condition     = can(regex("^rediss?://[^@]+$", var.redis.url))
    error_message = "The URL begins with redis:// or rediss:// and carries no user and no password; these go into user and password_secret."
  }
}

variable "scope" {
  description = "Key prefixes that are synced; [\"*\"] for every key, on purpose."
  type        = list(string)

  validation {
    condition     = length(var.scope) > 0 && alltrue([for p in var.scope : p != "" && !strcontains(p, ",")])
    error_message = "Name at least one prefix, or \"*\" on purpose; a prefix is not empty and has no comma."
  }
}

variable "lanes" {
  description = "Number of lanes of the stream."
  type        = number
}

variable "value_days" {
  description = "Days that large values (values/) are kept after their last use."
  type        = number
}

variable "snapshot_days" {
  description = "Days that snapshots are kept."
  type        = number
}

variable "quarantine_days" {
  description = "Days that refused changes are kept."
  type        = number
  default     = 90
}

variable "further_expiry" {
  description = "More expiry rules of the region's bucket; the hub keeps the jobs' state there as well."
  type = map(object({
    prefix          = string
    days            = optional(number)
    noncurrent_days = optional(number, 1)
  }))
  default = {}
}

variable "zip" {
  description = "Path of cache_replay.zip."
  type        = string
}

variable "architecture" {
  description = "What the binary was built for: x86_64 or arm64."
  type        = string
}

variable "memory_mb" {
  description = "Memory in MiB. The densest batch that the contract allows takes some 300; more memory is more CPU."
  type        = number
  default     = 1769
}

variable "timeout_s" {
  description = "Seconds that one invocation may take. A batch needs few; a snapshot of the whole region is one invocation too."
  type        = number
  default     = 900
}

variable "log_retention_days" {
  description = "Days that log lines are kept."
  type        = number
}

variable "alarm_actions" {
  description = "ARNs, of this region, told when an alarm changes state."
  type        = list(string)
}
