variable "name" {
  description = "Prefix of all names."
  type        = string
}

variable "bucket_name" {
  description = "Name of the bucket that the sitemaps are published to."
  type        = string
}

variable "edge_ttl_s" {
  description = "Seconds that the edge keeps a file before it asks again; the sites' edge_ttl_seconds must be no less."
  type        = number
  default     = 60

  validation {
    condition     = var.edge_ttl_s >= 0 && var.edge_ttl_s <= 300
    error_message = "A sitemap run waits this long several times: 300 seconds at most."
  }
}

variable "rollback_days" {
  description = "Days that replaced and deleted files are kept as old versions."
  type        = number
  default     = 90
}

variable "aliases" {
  description = "Host names of your own, such as sitemaps.example.com; they need certificate_arn and a DNS record to the distribution."
  type        = list(string)
  default     = []
}

variable "certificate_arn" {
  description = "ACM certificate of the aliases, in us-east-1; null for CloudFront's own host name."
  type        = string
  default     = null

  validation {
    condition     = (var.certificate_arn == null) == (length(var.aliases) == 0)
    error_message = "Set aliases and certificate_arn together, or neither."
  }
}

variable "price_class" {
  description = "Which edges serve: PriceClass_All, PriceClass_200 or PriceClass_100. Seoul is not in PriceClass_100."
  type        = string
  default     = "PriceClass_All"
}

variable "force_destroy" {
  description = "Whether terraform destroy may delete the bucket with all that is in it. For trials only."
  type        = bool
  default     = false
}
