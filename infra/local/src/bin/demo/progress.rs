//! What the demo tells while it runs, and the table at its end.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

/// Tells the steps one after the other: a spinner on a terminal, plain lines elsewhere.
#[derive(Debug)]
pub(crate) struct Progress {
    steps: usize,
    rows: Vec<Row>,
    on_terminal: bool,
}

/// One finished step.
#[derive(Debug)]
struct Row {
    title: String,
    result: String,
    took: Duration,
}

/// A step that runs.
#[derive(Debug)]
pub(crate) struct Step {
    title: String,
    number: usize,
    start: Instant,
    spinner: Option<ProgressBar>,
}

impl Step {
    /// Tells what the step does now.
    pub(crate) fn doing(&self, what: &str) {
        match &self.spinner {
            Some(spinner) => spinner.set_message(format!("{}: {what}", self.title)),
            None => println!("      … {what}"),
        }
    }
}

impl Step {
    /// As [`Step::doing`], for what is said again and again: shown on a terminal only.
    pub(crate) fn telling(&self, what: &str) {
        if self.spinner.is_some() && !what.is_empty() {
            self.doing(what);
        }
    }
}

impl Progress {
    /// Progress over `steps` steps.
    pub(crate) fn new(steps: usize) -> Self {
        Self { steps, rows: Vec::new(), on_terminal: std::io::stdout().is_terminal() }
    }

    /// Begins the next step.
    pub(crate) fn begin(&self, title: &str) -> Step {
        let number = self.rows.len() + 1;
        let spinner = self.on_terminal.then(|| {
            let style = ProgressStyle::with_template("{prefix} {spinner} {msg} ({elapsed})");
            let spinner = ProgressBar::new_spinner();
            spinner.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            spinner.set_prefix(format!("[{number}/{}]", self.steps));
            spinner.set_message(title.to_owned());
            spinner.enable_steady_tick(Duration::from_millis(100));
            spinner
        });
        if spinner.is_none() {
            println!("[{number}/{}] {title}", self.steps);
        }
        Step { title: title.to_owned(), number, start: Instant::now(), spinner }
    }

    /// Ends a step with what came of it.
    pub(crate) fn end(&mut self, step: Step, result: String) {
        let took = step.start.elapsed();
        match step.spinner {
            Some(spinner) => {
                spinner.finish_and_clear();
                println!("[{}/{}] {}", step.number, self.steps, step.title);
                println!("      ok  {result} ({})", seconds(took));
            }
            None => println!("      ok  {result} ({})", seconds(took)),
        }
        self.rows.push(Row { title: step.title, result, took });
    }

    /// Prints the table of all steps.
    pub(crate) fn print_table(&self) {
        let width = self.rows.iter().map(|row| row.title.chars().count()).max().unwrap_or(0);
        for Row { title, result, took } in &self.rows {
            println!("  {title:width$}  {:>7}  {result}", seconds(*took));
        }
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
