//! Lambda function in the hub: runs jobs, fired by schedules or by operators.

use lambda_runtime::{LambdaEvent, service_fn};
use tidemark_cron::ask::Invocation;
use tidemark_cron::runner::Cron;
use tidemark_cron::settings::CronSettings;
use tidemark_runtime::clock::Clock;
use tidemark_runtime::logs;
use tidemark_runtime::settings::Settings;

#[tokio::main]
async fn main() -> Result<(), lambda_runtime::Error> {
    logs::init();
    let settings = CronSettings::read(&Settings::from_env())?;
    let cron = Cron::new(settings, Clock::system()).await;
    lambda_runtime::run(service_fn(|event: LambdaEvent<Invocation>| {
        let cron = &cron;
        async move {
            let deadline_ms = i64::try_from(event.context.deadline).unwrap_or(i64::MAX);
            let answer = cron.answer(event.payload, deadline_ms).await;
            answer.map_err(|error| {
                let error = format!("{error:#}");
                tracing::error!(error, "invocation failed");
                lambda_runtime::Error::from(error)
            })
        }
    }))
    .await
}
