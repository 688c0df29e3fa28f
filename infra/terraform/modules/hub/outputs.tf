output "stream_name" {
  description = "Name of the stream."
  value       = aws_kinesis_stream.this.name
}

output "stream_arn" {
  description = "ARN of the stream."
  value       = aws_kinesis_stream.this.arn
}

output "forward_functions" {
  description = "Forward function of each target region."
  value       = { for region, f in module.forward : region => f.function_name }
}

output "cron_function" {
  description = "Name of the cron function."
  value       = module.cron.name
}

output "athena_workgroup" {
  description = "Workgroup for the queries of the sitemap jobs."
  value       = aws_athena_workgroup.this.name
}

output "producer_policy_arn" {
  description = "IAM policy to attach to services that write cache changes."
  value       = aws_iam_policy.producer.arn
}

output "operator_policy_arn" {
  description = "IAM policy to attach to operators."
  value       = aws_iam_policy.operator.arn
}
