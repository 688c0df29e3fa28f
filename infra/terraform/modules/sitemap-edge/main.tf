# The sitemaps' public face: a private bucket and the CloudFront distribution that alone may read it.

data "aws_partition" "current" {}

module "bucket" {
  source = "../bucket"

  name            = var.bucket_name
  noncurrent_days = var.rollback_days
  force_destroy   = var.force_destroy

  policy_documents = [data.aws_iam_policy_document.read.json]
}

# No ListBucket: a file that is not there answers 403, and nobody can list the bucket through the edge.
data "aws_iam_policy_document" "read" {
  statement {
    sid       = "CloudFrontReads"
    actions   = ["s3:GetObject"]
    resources = ["arn:${data.aws_partition.current.partition}:s3:::${var.bucket_name}/*"]

    principals {
      type        = "Service"
      identifiers = ["cloudfront.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceArn"
      values   = [aws_cloudfront_distribution.this.arn]
    }
  }
}

resource "aws_cloudfront_origin_access_control" "this" {
  name                              = "${var.name}-sitemaps"
  description                       = "Signs CloudFront's reads of ${var.bucket_name}."
  origin_access_control_origin_type = "s3"
  signing_behavior                  = "always"
  signing_protocol                  = "sigv4"
}

# The sitemap job waits out this time between files and index, so that no crawler sees a new lastmod with
# old bytes. Keep it equal to what the job is told.
resource "aws_cloudfront_cache_policy" "this" {
  name        = "${var.name}-sitemaps"
  comment     = "Short, revalidated by ETag; neither cookies, headers nor query strings count."
  min_ttl     = 0
  default_ttl = var.edge_ttl_s
  max_ttl     = var.edge_ttl_s

  parameters_in_cache_key_and_forwarded_to_origin {
    # The files are gzipped already; the edge passes the bytes on as they are.
    enable_accept_encoding_brotli = false
    enable_accept_encoding_gzip   = false

    cookies_config {
      cookie_behavior = "none"
    }

    headers_config {
      header_behavior = "none"
    }

    query_strings_config {
      query_string_behavior = "none"
    }
  }
}

resource "aws_cloudfront_distribution" "this" {
  enabled         = true
  comment         = "Tidemark sitemaps"
  http_version    = "http2and3"
  is_ipv6_enabled = true
  price_class     = var.price_class
  aliases         = var.aliases

  origin {
    origin_id                = "sitemaps"
    domain_name              = module.bucket.regional_domain_name
    origin_access_control_id = aws_cloudfront_origin_access_control.this.id
  }

  default_cache_behavior {
    target_origin_id       = "sitemaps"
    allowed_methods        = ["GET", "HEAD"]
    cached_methods         = ["GET", "HEAD"]
    viewer_protocol_policy = "redirect-to-https"
    cache_policy_id        = aws_cloudfront_cache_policy.this.id
    compress               = false
  }

  # A file asked for a moment before it is published must not stay missing.
  custom_error_response {
    error_code            = 403
    error_caching_min_ttl = 5
  }

  restrictions {
    geo_restriction {
      restriction_type = "none"
    }
  }

  viewer_certificate {
    cloudfront_default_certificate = var.certificate_arn == null
    acm_certificate_arn            = var.certificate_arn
    ssl_support_method             = var.certificate_arn == null ? null : "sni-only"
    minimum_protocol_version       = var.certificate_arn == null ? "TLSv1" : "TLSv1.2_2021"
  }
}
