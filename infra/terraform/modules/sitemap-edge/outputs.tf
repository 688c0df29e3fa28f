output "bucket_name" {
  description = "Name of the sitemap bucket."
  value       = module.bucket.name
}

output "bucket_arn" {
  description = "ARN of the sitemap bucket."
  value       = module.bucket.arn
}

output "distribution_id" {
  description = "ID of the CloudFront distribution."
  value       = aws_cloudfront_distribution.this.id
}

output "distribution_arn" {
  description = "ARN of the CloudFront distribution."
  value       = aws_cloudfront_distribution.this.arn
}

output "url" {
  description = "Where the sitemaps are served."
  value       = "https://${length(var.aliases) > 0 ? var.aliases[0] : aws_cloudfront_distribution.this.domain_name}"
}
