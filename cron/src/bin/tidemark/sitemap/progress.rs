//! How far a long command is, on a terminal's standard error; elsewhere nothing.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::Duration;

/// Between two drawings where nothing moves.
const TICK: Duration = Duration::from_millis(200);

/// A bar. indicatif draws nothing where standard error is no terminal.
#[derive(Clone)]
pub(super) struct Bar(ProgressBar);

impl Bar {
    /// A bar that counts `unit`, or none where it is not `wanted`.
    pub(super) fn new(unit: &str, wanted: bool) -> Self {
        let target = if wanted { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        let style = format!("{{elapsed_precise}} {{bar:40}} {{human_pos}}/{{human_len}} {unit}  {{msg}}");
        // A style that does not parse is left at the default: how a bar looks is no reason to fail.
        if let Ok(style) = ProgressStyle::with_template(&style) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    /// `done` of `total`, and a word beside it.
    pub(super) fn set(&self, done: u64, total: u64, message: &str) {
        self.0.set_length(total);
        self.0.set_position(done);
        self.0.set_message(message.to_owned());
    }

    /// Takes it away.
    pub(super) fn finish(&self) {
        self.0.finish_and_clear();
    }
}
