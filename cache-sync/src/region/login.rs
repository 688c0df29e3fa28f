//! How the regional function logs in to Redis: by user and password, or by an IAM token.

use super::RegionError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use std::fmt;
use std::time::{Duration, SystemTime};
use tidemark_runtime::settings::{SettingError, Settings};

/// How long an IAM token is good for a new connection; ElastiCache takes no longer one.
/// <https://docs.aws.amazon.com/AmazonElastiCache/latest/dg/auth-iam.html>
const TOKEN_LIFETIME: Duration = Duration::from_secs(900);

/// A login. Secrets are not shown.
#[derive(Clone)]
pub enum Login {
    /// ACL user and password, either of which may be missing.
    Password {
        /// The user; the server's default user where there is none.
        user: Option<String>,
        /// The password.
        password: Option<String>,
    },
    /// A token that ElastiCache checks against IAM, made anew for every connection.
    Iam(IamLogin),
}

/// What an IAM token is made of.
#[derive(Clone)]
pub struct IamLogin {
    /// The ElastiCache user, which must be the same as its user name.
    pub user: String,
    /// Name of the replication group or serverless cache, in lower case.
    pub cache: String,
    /// Whether it is a serverless cache.
    pub serverless: bool,
    /// Its region.
    pub region: String,
    /// The function's own credentials.
    pub credentials: Option<SharedCredentialsProvider>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Login::Password { user, .. } => f.debug_struct("Password").field("user", user).finish_non_exhaustive(),
            Login::Iam(iam) => {
                f.debug_struct("Iam").field("user", &iam.user).field("cache", &iam.cache).finish_non_exhaustive()
            }
        }
    }
}

impl Login {
    pub(super) fn read(settings: &Settings<'_>, region: &str) -> Result<Self, SettingError> {
        let Some(cache) = settings.optional("TIDEMARK_REDIS_IAM_CACHE") else {
            return Ok(Login::Password {
                user: settings.optional("TIDEMARK_REDIS_USER"),
                password: settings.optional("TIDEMARK_REDIS_PASSWORD"),
            });
        };
        if settings.optional("TIDEMARK_REDIS_PASSWORD").is_some() {
            return Err(SettingError::Invalid {
                name: "TIDEMARK_REDIS_IAM_CACHE",
                value: cache,
                reason: "a token takes the place of TIDEMARK_REDIS_PASSWORD: set only one of them".to_owned(),
            });
        }
        Ok(Login::Iam(IamLogin {
            user: settings.required("TIDEMARK_REDIS_USER", "the ElastiCache user that logs in by IAM")?,
            cache,
            serverless: settings.parsed("TIDEMARK_REDIS_IAM_SERVERLESS", false)?,
            region: region.to_owned(),
            credentials: None,
        }))
    }

    /// Gives an IAM login the credentials it signs with; a password needs none.
    #[must_use]
    pub fn with_credentials(self, credentials: Option<SharedCredentialsProvider>) -> Self {
        match self {
            Login::Iam(iam) => Login::Iam(IamLogin { credentials, ..iam }),
            password @ Login::Password { .. } => password,
        }
    }

    /// User and password that are good now.
    pub(super) async fn now(&self) -> Result<(Option<String>, Option<String>), RegionError> {
        match self {
            Login::Password { user, password } => Ok((user.clone(), password.clone())),
            Login::Iam(iam) => Ok((Some(iam.user.clone()), Some(iam.token(SystemTime::now()).await?))),
        }
    }
}

impl IamLogin {
    /// A token: the signed request to connect, without its scheme.
    async fn token(&self, now: SystemTime) -> Result<String, RegionError> {
        let failed = |what: &str, error: &dyn fmt::Display| {
            RegionError::Misconfigured(format!("no IAM token for Redis user {}: {what}: {error}", self.user))
        };
        let provider = self.credentials.as_ref().ok_or_else(|| failed("credentials", &"there are none"))?;
        let credentials = provider.provide_credentials().await.map_err(|error| failed("credentials", &error))?;
        let identity = credentials.into();
        let mut settings = SigningSettings::default();
        settings.expires_in = Some(TOKEN_LIFETIME);
        settings.signature_location = SignatureLocation::QueryParams;
        let params = SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name("elasticache")
            .time(now)
            .settings(settings)
            .build()
            .map_err(|error| failed("signing", &error))?
            .into();
        let kind = if self.serverless { "&ResourceType=ServerlessCache" } else { "" };
        let uri = format!("http://{}/?Action=connect&User={}{kind}", self.cache, self.user);
        let request = SignableRequest::new("GET", &uri, std::iter::empty(), SignableBody::Bytes(b""))
            .map_err(|error| failed("signing", &error))?;
        let (instructions, _) = sign(request, &params).map_err(|error| failed("signing", &error))?.into_parts();
        let mut request = http::Request::builder().uri(uri).body(()).map_err(|error| failed("the request", &error))?;
        instructions.apply_to_request_http1x(&mut request);
        let uri = request.uri().to_string();
        Ok(uri.trim_start_matches("http://").to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_credential_types::Credentials;

    #[test]
    fn secrets_are_not_shown() {
        let login = Login::Password { user: Some("app".into()), password: Some("hunter2".into()) };
        assert!(!format!("{login:?}").contains("hunter2"));
    }

    #[test]
    fn a_password_beside_a_token_is_refused() {
        let settings = Settings::from_fn(|name| name.starts_with("TIDEMARK_REDIS_").then(|| "x".to_owned()));
        let error = Login::read(&settings, "us-east-1").unwrap_err();
        assert!(error.to_string().contains("set only one"), "{error}");
    }

    /// Golden: botocore's `RequestSigner.generate_presigned_url` for the same request, credentials and time.
    #[tokio::test]
    async fn a_token_is_the_request_that_botocore_signs() {
        let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
        let credentials = Credentials::new("AKIDEXAMPLE", secret, Some("SESSION/TOKEN+==".into()), None, "test");
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_395_723);
        for (serverless, kind, signature) in [
            (false, "", "422255961ce8a7131c324dd6722501b941865a7ed3f5ea7dd8082a377507e456"),
            (true, "&ResourceType=ServerlessCache", "c524b83357015980a38b989eed8808b66bf0a9fdb42ed2eae0771b3b2be250df"),
        ] {
            let login = IamLogin {
                user: "tidemark".into(),
                cache: "shop-cache".into(),
                serverless,
                region: "us-east-1".into(),
                credentials: Some(SharedCredentialsProvider::new(credentials.clone())),
            };
            let token = login.token(at).await.unwrap();
            let (host, query) = token.split_once("/?").unwrap();
            let expected = format!(
                "Action=connect&User=tidemark{kind}&X-Amz-Algorithm=AWS4-HMAC-SHA256\
                 &X-Amz-Credential=AKIDEXAMPLE%2F20261123%2Fus-east-1%2Felasticache%2Faws4_request\
                 &X-Amz-Date=20261123T010203Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host\
                 &X-Amz-Security-Token=SESSION%2FTOKEN%2B%3D%3D&X-Amz-Signature={signature}"
            );
            let sorted = |query: &str| {
                let mut pairs: Vec<String> = query.split('&').map(str::to_owned).collect();
                pairs.sort();
                pairs
            };
            assert_eq!((host, sorted(query)), ("shop-cache", sorted(&expected)));
        }
    }
}
