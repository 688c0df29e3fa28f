//! The two kinds of place where a sitemap can lie.

pub mod bucket;
pub mod directory;
