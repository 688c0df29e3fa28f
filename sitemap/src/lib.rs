//! Sitemaps for millions of pages, of which only what changed is written.
//!
//! One streaming pass: page rows from files or Athena ([`source`], [`athena`]) become canonical rows ([`pages`]), are
//! cut into shards by the key ranges of the last run ([`manifest`]), hashed, and made into gzipped XML where their
//! hash changed ([`build`]); [`publish`] then puts the changed files in place, and the index last. Knows nothing of
//! schedules and jobs, and never reads the environment.

pub mod athena;
pub mod build;
mod calls;
pub mod canonical;
pub mod check;
mod closure;
pub mod columns;
mod commit;
mod cut;
pub mod difference;
pub mod engine;
pub mod extension;
pub mod guard;
pub mod import;
pub mod indexnow;
pub mod input;
pub mod invalidate;
pub mod keys;
pub mod lastmod;
pub mod loc;
pub mod manifest;
mod moves;
pub mod newest;
pub mod pages;
pub mod parts;
pub mod place;
pub mod plan;
pub mod publish;
pub mod refresh;
pub mod report;
pub mod robots;
pub mod rollback;
pub mod row;
pub mod run_report;
pub mod select;
pub mod site;
pub mod sort;
pub mod sort_key;
pub mod source;
mod supply;
pub mod tell;
pub mod web;
pub mod xml;

pub use cut::{IndexLimits, Limits};
