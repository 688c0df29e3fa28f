provider "aws" {
  alias  = "hub"
  region = var.hub.region

  default_tags {
    tags = local.tags
  }
}

provider "aws" {
  alias  = "second"
  region = var.second.region

  default_tags {
    tags = local.tags
  }
}
