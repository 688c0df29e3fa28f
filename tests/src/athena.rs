//! A model of Athena beside the local cloud: a process that speaks Athena's API on the wire and writes Parquet by
//! DuckDB into the local cloud's S3. Rules and commands are in `athena_model.py`.

use anyhow::{Context as _, Result};
use aws_config::SdkConfig;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use tidemark_local::{CloudOptions, LocalCloud};

const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/athena_model.py");

/// The running model. It ends when this is dropped.
#[derive(Debug)]
pub struct ModelAthena {
    process: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    endpoint: String,
}

impl ModelAthena {
    /// Starts the model beside `cloud`, whose S3 it writes to.
    ///
    /// # Errors
    /// Where the virtual environment of the local cloud is missing, or the model does not start.
    pub fn start(cloud: &LocalCloud) -> Result<Self> {
        let python = CloudOptions::of_this_clone().venv.join("bin/python");
        let mut process = Command::new(&python)
            .arg(Path::new(PROGRAM))
            .env("AWS_ENDPOINT_URL", cloud.endpoint())
            .envs([("AWS_REGION", "us-east-1"), ("AWS_DEFAULT_REGION", "us-east-1")])
            .envs([("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}: run infra/local/prerequisites tests", python.display()))?;
        let commands = process.stdin.take();
        let answers = BufReader::new(process.stdout.take().context("the model's output")?);
        let mut model = Self { process, commands, answers, endpoint: String::new() };
        let port = model.answer()?["port"].as_u64().context("the model's port")?;
        model.endpoint = format!("http://127.0.0.1:{port}");
        Ok(model)
    }

    /// A client for it, with `config` for everything but the address.
    #[must_use]
    pub fn client(&self, config: &SdkConfig) -> aws_sdk_athena::Client {
        let builder = aws_sdk_athena::config::Builder::from(config).endpoint_url(&self.endpoint);
        aws_sdk_athena::Client::from_conf(builder.build())
    }

    /// Its address, for the environment of what is to ask it.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Gives it a command and returns its answer.
    ///
    /// # Errors
    /// Where it has ended.
    pub fn tell(&mut self, command: &Value) -> Result<Value> {
        let commands = self.commands.as_mut().context("the model is ending")?;
        writeln!(commands, "{command}").context("the model has ended")?;
        self.answer()
    }

    /// The calls since it was last asked, each with its operation.
    ///
    /// # Errors
    /// Where it has ended.
    pub fn journal(&mut self) -> Result<Vec<Value>> {
        let mut answer = self.tell(&json!({ "journal": true }))?;
        match answer["calls"].take() {
            Value::Array(calls) => Ok(calls),
            other => anyhow::bail!("the model's journal is {other}"),
        }
    }

    fn answer(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.answers.read_line(&mut line).context("read the model's answer")?;
        serde_json::from_str(&line).with_context(|| format!("the model answered {line:?}"))
    }
}

impl Drop for ModelAthena {
    fn drop(&mut self) {
        // It ends with its input.
        drop(self.commands.take());
        let _ = self.process.wait();
    }
}
