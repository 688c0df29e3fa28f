output "function_name" {
  description = "Name of the forward function."
  value       = module.function.name
}

output "mapping_id" {
  description = "UUID of the event source mapping."
  value       = aws_lambda_event_source_mapping.this.uuid
}
