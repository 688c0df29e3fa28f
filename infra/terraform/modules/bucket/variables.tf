variable "name" {
  description = "Name of the bucket, unique in all of AWS."
  type        = string
}

variable "noncurrent_days" {
  description = "Days that an overwritten or deleted version is kept where no entry of expiry says otherwise."
  type        = number
  default     = 30
}

variable "expiry" {
  description = "Rules by prefix: days until an object expires (null: never) and days that its old versions are kept. A version goes at the earliest rule that matches it, so noncurrent_days here may only be shorter than the bucket's."
  type = map(object({
    prefix          = string
    days            = optional(number)
    noncurrent_days = optional(number, 1)
  }))
  default = {}
}

variable "policy_documents" {
  description = "Further bucket policy statements, each a policy document in JSON."
  type        = list(string)
  default     = []
}

variable "force_destroy" {
  description = "Whether terraform destroy may delete the bucket with all that is in it. For trials only."
  type        = bool
  default     = false
}
