# Two regions: the hub, which owns the stream and the jobs, and a second one. For a third region add a
# provider alias, a module "region_…" like the ones here, and a line in module.hub's regions.

locals {
  tags = merge({ project = "tidemark" }, var.tags)

  zips = {
    forward = "${var.artifacts}/cache_forward.zip"
    replay  = "${var.artifacts}/cache_replay.zip"
    cron    = "${var.artifacts}/cron.zip"
  }
}

module "region_hub" {
  source    = "../../modules/region"
  providers = { aws = aws.hub }

  name               = var.name
  bucket_name        = var.hub.bucket_name
  force_destroy      = var.force_destroy
  network            = var.hub.network
  redis              = var.hub.redis
  scope              = var.scope
  lanes              = var.lanes
  value_days         = var.value_days
  snapshot_days      = var.snapshot_days
  zip                = local.zips.replay
  architecture       = var.architecture
  log_retention_days = var.log_retention_days
  alarm_actions      = var.hub.alarm_actions

  # The hub's bucket is the jobs' state bucket too. Their state objects are rewritten every minute.
  further_expiry = {
    athena = { prefix = "athena/", days = 7 }
    jobs   = { prefix = "jobs/", noncurrent_days = 2 }
    runs   = { prefix = "jobs/runs/", days = 90 }
  }
}

module "region_second" {
  source    = "../../modules/region"
  providers = { aws = aws.second }

  name               = var.name
  bucket_name        = var.second.bucket_name
  force_destroy      = var.force_destroy
  network            = var.second.network
  redis              = var.second.redis
  scope              = var.scope
  lanes              = var.lanes
  value_days         = var.value_days
  snapshot_days      = var.snapshot_days
  zip                = local.zips.replay
  architecture       = var.architecture
  log_retention_days = var.log_retention_days
  alarm_actions      = var.second.alarm_actions
}

module "sitemap_edge" {
  source    = "../../modules/sitemap-edge"
  providers = { aws = aws.hub }

  name            = var.name
  bucket_name     = var.sitemap.bucket_name
  edge_ttl_s      = var.sitemap.edge_ttl_s
  aliases         = var.sitemap.aliases
  certificate_arn = var.sitemap.certificate_arn
  rollback_days   = var.sitemap.rollback_days
  force_destroy   = var.force_destroy
}

module "hub" {
  source    = "../../modules/hub"
  providers = { aws = aws.hub }

  name                   = var.name
  lanes                  = var.lanes
  stream                 = var.stream
  parallelization_factor = var.parallelization_factor
  snapshot_schedule      = var.snapshot_schedule
  sites                  = var.sites
  athena                 = var.athena
  sitemap_bucket_arn     = module.sitemap_edge.bucket_arn
  # Only where a site asks for it.
  sitemap_distribution_arn = var.sitemap.invalidate ? module.sitemap_edge.distribution_arn : null
  robots_arns              = var.sitemap.robots_arns
  forward_zip              = local.zips.forward
  cron_zip                 = local.zips.cron
  architecture             = var.architecture
  log_retention_days       = var.log_retention_days
  alarm_actions            = var.hub.alarm_actions

  regions = {
    (var.hub.region) = {
      bucket_name          = module.region_hub.bucket_name
      bucket_arn           = module.region_hub.bucket_arn
      replay_function_name = module.region_hub.replay_function_name
      replay_function_arn  = module.region_hub.replay_function_arn
      generation           = var.hub.generation
      enabled              = var.hub.enabled
      enhanced_fan_out     = var.hub.enhanced_fan_out
    }
    (var.second.region) = {
      bucket_name          = module.region_second.bucket_name
      bucket_arn           = module.region_second.bucket_arn
      replay_function_name = module.region_second.replay_function_name
      replay_function_arn  = module.region_second.replay_function_arn
      generation           = var.second.generation
      enabled              = var.second.enabled
      enhanced_fan_out     = var.second.enhanced_fan_out
    }
  }
}
