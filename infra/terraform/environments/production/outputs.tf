output "stream" {
  description = "Name of the stream, in the hub: TIDEMARK_STREAM for producers and operators."
  value       = module.hub.stream_name
}

output "lanes" {
  description = "Number of lanes: TIDEMARK_LANES for producers and operators."
  value       = var.lanes
}

output "hub_region" {
  description = "Region of the stream and the jobs: AWS_REGION for producers and operators."
  value       = var.hub.region
}

output "cron_function" {
  description = "Name of the function that runs the jobs."
  value       = module.hub.cron_function
}

output "replay_functions" {
  description = "Replay function of each region."
  value = {
    (var.hub.region)    = module.region_hub.replay_function_name
    (var.second.region) = module.region_second.replay_function_name
  }
}

output "forward_functions" {
  description = "Forward function of each target region, in the hub."
  value       = module.hub.forward_functions
}

output "buckets" {
  description = "Each region's bucket; the hub's is the state bucket."
  value = {
    (var.hub.region)    = module.region_hub.bucket_name
    (var.second.region) = module.region_second.bucket_name
  }
}

output "sitemap_bucket" {
  description = "Bucket that the sitemaps are published to."
  value       = module.sitemap_edge.bucket_name
}

output "sitemap_distribution" {
  description = "ID of the distribution before that bucket, for a site's setting distribution."
  value       = module.sitemap_edge.distribution_id
}

output "sitemap_url" {
  description = "Where the sitemaps are served."
  value       = module.sitemap_edge.url
}

output "athena_workgroup" {
  description = "Workgroup for the queries of the sitemap jobs."
  value       = module.hub.athena_workgroup
}

output "producer_policy_arn" {
  description = "IAM policy for services that write cache changes."
  value       = module.hub.producer_policy_arn
}

output "operator_policy_arn" {
  description = "IAM policy for operators."
  value       = module.hub.operator_policy_arn
}
