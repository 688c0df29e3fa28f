//! Invalidations in CloudFront: one signed request, written by hand. The SDK's client for it would take longer to compile than
//! all of this crate.
//!
//! The form is CreateInvalidation of the API's version 2020-05-31
//! (<https://docs.aws.amazon.com/cloudfront/latest/APIReference/API_CreateInvalidation.html>). A reference that came
//! before, with the same path, is answered with the invalidation that there is.

use aws_config::SdkConfig;
use aws_credential_types::provider::ProvideCredentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use std::fmt::Display;
use std::pin::Pin;
use std::time::{Duration, SystemTime};
use tidemark_runtime::clock::Clock;
use tidemark_sitemap::invalidate::Invalidate;
use tidemark_sitemap::web::{USER_AGENT, Web};

/// CloudFront is one for all regions, and signed for this one.
const REGION: &str = "us-east-1";
/// Where it is asked, where nothing else is said.
const ENDPOINT: &str = "https://cloudfront.amazonaws.com";
/// Bytes of an answer that are shown.
const SHOWN_BYTES_MAX: usize = 500;

/// CloudFront, as sitemaps need it.
#[derive(Clone, Debug)]
pub struct CloudFront {
    config: SdkConfig,
    clock: Clock,
}

impl CloudFront {
    /// With credentials and, where it is set, the address in `config`.
    #[must_use]
    pub fn new(config: SdkConfig, clock: Clock) -> Self {
        Self { config, clock }
    }

    async fn create(&self, distribution: &str, path: &str, reference: &str) -> Result<(), String> {
        let failed = |what: &str, error: &dyn Display| format!("{what}: {error}");
        let endpoint = self.config.endpoint_url().unwrap_or(ENDPOINT).trim_end_matches('/');
        let url = format!("{endpoint}/2020-05-31/distribution/{distribution}/invalidation");
        let body = body(path, reference);
        let provider = self.config.credentials_provider().ok_or("there are no credentials")?;
        let credentials = provider.provide_credentials().await.map_err(|error| failed("credentials", &error))?;
        let identity = credentials.into();
        let now = Duration::from_millis(u64::try_from(self.clock.now_ms()).unwrap_or_default());
        let params = SigningParams::builder()
            .identity(&identity)
            .region(REGION)
            .name("cloudfront")
            .time(SystemTime::UNIX_EPOCH + now)
            .settings(SigningSettings::default())
            .build()
            .map_err(|error| failed("signing", &error))?
            .into();
        let headers = [("content-type", "application/xml")];
        let request = SignableRequest::new("POST", &url, headers.into_iter(), SignableBody::Bytes(body.as_bytes()));
        let request = request.map_err(|error| failed("signing", &error))?;
        let (signed, _) = sign(request, &params).map_err(|error| failed("signing", &error))?.into_parts();
        let (signed, _) = signed.into_parts();
        let signed = signed.iter().map(|header| (header.name(), header.value()));
        let headers: Vec<(&str, &str)> = headers.into_iter().chain(signed).collect();
        let web = Web::new(self.clock.clone(), USER_AGENT).map_err(|error| failed("CloudFront", &error))?;
        let answer = web.post(&url, &headers, body.into_bytes()).await.map_err(|error| failed("CloudFront", &error))?;
        if matches!(answer.status, 200 | 201) {
            return Ok(());
        }
        let status = answer.status;
        let said = answer.first_bytes(SHOWN_BYTES_MAX).await.unwrap_or_default();
        Err(format!("CloudFront answers {status}: {}", String::from_utf8_lossy(&said)))
    }
}

fn body(path: &str, reference: &str) -> String {
    // Neither a path nor a run's ID has a character that XML would mind: both are checked where they come in.
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <InvalidationBatch xmlns=\"http://cloudfront.amazonaws.com/doc/2020-05-31/\"><Paths><Quantity>1</Quantity>\
         <Items><Path>{path}</Path></Items></Paths><CallerReference>{reference}</CallerReference></InvalidationBatch>"
    )
}

impl Invalidate for CloudFront {
    fn invalidate<'a>(
        &'a self,
        distribution: &'a str,
        path: &'a str,
        reference: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>> {
        Box::pin(self.create(distribution, path, reference))
    }
}
