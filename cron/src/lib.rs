//! Cron: the jobs, and what runs them.
//!
//! A schedule or an operator triggers a job; the [`runner`] gives it one run at a time, a run ID, retries, a cursor for
//! work that outlasts one invocation, and a record of what it did. One file a job in [`jobs`].

pub mod ask;
pub mod edge;
pub mod jobs;
pub mod keys;
pub mod run;
pub mod runner;
pub mod settings;
