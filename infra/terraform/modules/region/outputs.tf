output "bucket_name" {
  description = "Name of the region's bucket."
  value       = module.bucket.name
}

output "bucket_arn" {
  description = "ARN of the region's bucket."
  value       = module.bucket.arn
}

output "replay_function_name" {
  description = "Name of the replay function."
  value       = module.replay.name
}

output "replay_function_arn" {
  description = "ARN of the replay function."
  value       = module.replay.arn
}

output "replay_security_group_id" {
  description = "Security group that replay runs in."
  value       = aws_security_group.replay.id
}
