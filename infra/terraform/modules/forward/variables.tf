variable "name" {
  description = "Prefix of all names."
  type        = string
}

variable "target_region" {
  description = "Region whose replay function gets the batches; the hub's own region is one too."
  type        = string
}

variable "target_bucket" {
  description = "Name of the target region's bucket: large values that it lacks are copied there."
  type        = string
}

variable "value_buckets" {
  description = "ARNs, by name, of the buckets that services write large values to, the target's among them. From no other bucket is anything copied."
  type        = map(string)
}

variable "replay_function_name" {
  description = "Name of the replay function, the same in every region."
  type        = string
}

variable "replay_function_arn" {
  description = "ARN of the replay function in the target region."
  type        = string
}

variable "stream_name" {
  description = "Name of the stream."
  type        = string
}

variable "stream_arn" {
  description = "ARN of the stream."
  type        = string
}

variable "stream_key_arn" {
  description = "ARN of the stream's customer managed KMS key; null where AWS manages the key."
  type        = string
}

variable "lanes" {
  description = "Number of lanes of the stream."
  type        = number
}

variable "generation" {
  description = "Mapping generation: raise it by one whenever this mapping is made anew or the hub moves. Regions refuse batches of an older one."
  type        = number
}

variable "enabled" {
  description = "Whether the mapping delivers. Off stops the region; the stream keeps what it misses."
  type        = bool
}

variable "enhanced_fan_out" {
  description = "Whether the mapping reads with a rate of its own (2 MB/s a shard, some 70 ms, billed apart), and not with the rate that all readers of the stream share. Another value makes the mapping anew: raise the generation with it."
  type        = bool
}

variable "batch_size" {
  description = "Most records in one delivery, 1 to 10,000."
  type        = number
}

variable "parallelization_factor" {
  description = "Deliveries in flight per shard, 1 to 10. Lambda keeps the records of one lane (one partition key) in order."
  type        = number

  validation {
    condition     = var.parallelization_factor >= 1 && var.parallelization_factor <= 10
    error_message = "Lambda takes a parallelization factor from 1 to 10."
  }
}

variable "iterator_age_alarm_s" {
  description = "Seconds behind the stream, for five minutes on end, that raise the alarm."
  type        = number
  default     = 60
}

variable "zip" {
  description = "Path of cache_forward.zip."
  type        = string
}

variable "architecture" {
  description = "What the binary was built for: x86_64 or arm64."
  type        = string
}

variable "memory_mb" {
  description = "Memory in MiB."
  type        = number
  default     = 1024
}

variable "timeout_s" {
  description = "Seconds that one invocation may take, the wait for replay included. A feed that needs longer goes on with the next delivery."
  type        = number
  default     = 180
}

variable "log_retention_days" {
  description = "Days that log lines are kept."
  type        = number
}

variable "alarm_actions" {
  description = "ARNs, of the hub's region, told when an alarm changes state."
  type        = list(string)
}
