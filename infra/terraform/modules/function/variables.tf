variable "name" {
  description = "Name of the function."
  type        = string
}

variable "description" {
  description = "One line that the Lambda console shows."
  type        = string
}

variable "zip" {
  description = "Path of the zip that holds the release binary as `bootstrap`."
  type        = string
}

variable "architecture" {
  description = "What the binary was built for: x86_64 or arm64."
  type        = string
}

variable "memory_mb" {
  description = "Memory in MiB; Lambda gives CPU in proportion to it."
  type        = number
}

variable "disk_mb" {
  description = "Space for working files in MiB, 512 to 10240."
  type        = number
  default     = 512
}

variable "timeout_s" {
  description = "Seconds after which Lambda ends an invocation."
  type        = number
}

variable "environment" {
  description = "The function's settings."
  type        = map(string)
}

variable "environment_key_arn" {
  description = "KMS key that encrypts the settings at rest; null for the one that AWS manages."
  type        = string
  default     = null
}

variable "policy_documents" {
  description = "What the function may do beyond writing its log, each a policy document in JSON."
  type        = list(string)
  default     = []
}

variable "vpc" {
  description = "Subnets and security groups to attach the function to; null for none."
  type = object({
    subnet_ids         = list(string)
    security_group_ids = list(string)
  })
  default = null
}

variable "log_retention_days" {
  description = "Days that log lines are kept."
  type        = number
}

variable "alarm_actions" {
  description = "ARNs, of this region, told when an alarm changes state."
  type        = list(string)
}
